"""Optimizers beside Adam: what they do, and that they go on where they were."""

import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gradpath.diagnostics.errors import ArgumentError, MissingPackageError
from gradpath.experiments import model, problem, train, training
from gradpath.experiments.checkpoints import Checkpoint
from gradpath.experiments.optimizers import OPTIMIZERS, Setting
from gradpath.experiments.training_step import FlatLosses, learning_rate
from gradpath.probes import Run
from gradpath.probes.instruments import GradientStatistics, Losses, Stability
from gradpath.probes.schedules import every

SMALL: Mapping[str, Any] = {"compile": False, "hidden": (6, 6), "points": 16}
NAMES = ["M1+gd", "M2+soap", "M4+lbfgs", "M3+config", "M1+upgrad", "M1+fourier", "M1+hard"]


def steady() -> dict[str, Any]:
    instruments = [Losses(every(10)), GradientStatistics(every(100)), Stability(every(20))]
    return {**SMALL, "instruments": instruments}


def optimizer(name: str, steps: int = 40) -> tuple[Any, FlatLosses, Any]:
    posed = problem("poisson")
    network = model("M1").network(posed, (6, 6), dtype=torch.float64)
    losses = FlatLosses(posed, network)

    def sample(times: int) -> Any:
        return posed.sampler(16 * times, dtype=torch.float64)

    batch = sample(1).draw(torch.Generator().manual_seed(0))
    setting = Setting(losses, batch, sample, steps, 0, compile=False, initial_rate=1e-3)
    return OPTIMIZERS[name](setting), losses, batch


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [tensor for each in value for tensor in tensors(each)]


def saved(folder: Path) -> list[Tensor]:
    checkpoint = Checkpoint.load(folder, {})
    assert checkpoint is not None
    return tensors(checkpoint.state)


def test_gradient_descent_follows_the_gradient() -> None:
    descent, _, batch = optimizer("gd")
    before, weights = descent.parameters, torch.tensor([1.0, 5.0], dtype=torch.float64)
    taken = descent.take(weights, 7, batch)
    expected = before - learning_rate(7) * (weights @ taken.gradients)
    torch.testing.assert_close(taken.state.parameters, expected, rtol=1e-12, atol=0)
    assert descent.stability(taken, 7).limit == pytest.approx(2 / learning_rate(7))
    descent.accept(taken)
    assert torch.equal(descent.parameters, taken.state.parameters)


def test_lbfgs_takes_over_and_lowers_one_and_the_same_loss_at_every_step() -> None:
    both, _, batch = optimizer("lbfgs", steps=40)
    weights = torch.ones(2, dtype=torch.float64)
    assert both.switch == 30
    assert both.fixed_batch(29) is None
    fixed = both.fixed_batch(30)
    assert fixed["interior"].shape[1] == 8 * 16
    for step in range(30):
        both.accept(both.take(weights, step, batch))
    assert both.evaluations == 30
    values = []
    for step in range(30, 40):
        before = both.parameters.clone()
        taken = both.take(weights, step, fixed)
        assert torch.equal(both.parameters, before)
        values.append(float(weights @ taken.losses))
        both.accept(taken)
    assert all(later < earlier for earlier, later in pairwise(values))
    # Ten steps of Adam lower it by a few per cent.
    assert values[-1] < 0.5 * values[0]
    assert 40 < both.evaluations < 30 + 10 * 25
    assert both.learning_rate(29) == learning_rate(29)
    assert both.learning_rate(30) is None


def test_soap_is_that_of_its_package() -> None:
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer")
    soap, losses, batch = optimizer("soap")
    named = losses.layout.unflatten(losses.layout.flatten())
    leaves = {name: part.clone().requires_grad_() for name, part in named.items()}
    plain = pytorch_optimizer.SOAP(list(leaves.values()), weight_decay=0.0)
    weights = torch.ones(2, dtype=torch.float64)
    for step in range(25):
        soap.accept(soap.take(weights, step, batch))
        plain.zero_grad()
        torch.stack(list(losses.of_named(leaves, batch).values())).sum().backward()
        for group in plain.param_groups:
            group["lr"] = learning_rate(step)
        plain.step()
    torch.testing.assert_close(soap.parameters, losses.layout.flatten(leaves), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_training_that_stops_in_between_has_the_bits_of_one_that_does_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 10)
    poisson, whole, halves = problem("poisson"), tmp_path / "whole", tmp_path / "halves"
    summary = train(poisson, name, whole, steps=34, **steady())
    assert summary.status == "finished"

    def stop(step: int, steps: int, losses: Mapping[str, float]) -> None:
        if step == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(poisson, name, halves, steps=34, progress=stop, **steady())
    again = train(poisson, name, halves, steps=34, resume=True, **steady())
    assert all(map(torch.equal, saved(halves), saved(whole)))
    assert len(saved(halves)) == len(saved(whole)) > 0
    assert (again.error, again.evaluations) == (summary.error, summary.evaluations)
    run = Run(whole)
    assert run.metadata["evaluations"] == summary.evaluations >= run.metadata["steps_taken"]
    assert run.metadata["optimizer"] == model(name).optimizer


def test_the_switch_to_lbfgs_is_not_moved_by_more_steps(tmp_path: Path) -> None:
    poisson = problem("poisson")
    train(poisson, "M1+lbfgs", tmp_path, steps=8, **steady())
    with pytest.raises(ArgumentError, match="has steps 8, not 16"):
        train(poisson, "M1+lbfgs", tmp_path, steps=16, resume=True, **steady())


@pytest.mark.parametrize(
    ("name", "package", "command"),
    [
        ("M1+soap", "pytorch_optimizer", r"pip install 'gradpath\[soap\]'"),
        ("M1+config", "conflictfree", "pip install conflictfree"),
        ("M1+upgrad", "torchjd", r"pip install 'torchjd\["),
    ],
)
def test_a_package_that_is_missing_is_named(
    name: str, package: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [each for each in sys.modules if each.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=command) as raised:
        train(problem("poisson"), name, tmp_path, steps=2, **steady())
    assert "\n" not in str(raised.value)


def test_the_learning_rate_is_a_setting(tmp_path: Path) -> None:
    poisson = problem("poisson")
    train(poisson, "M1", tmp_path / "a", steps=20, learning_rate=1e-2, **steady())
    recorded = Run(tmp_path / "a").scalars("preconditioned_stability_limit")
    assert recorded["value"].iloc[0] == pytest.approx(38 / 1e-2)
    with pytest.raises(ArgumentError, match=r"has learning_rate 0\.01, not 0\.001"):
        train(poisson, "M1", tmp_path / "a", steps=20, resume=True, **steady())
    with pytest.raises(ArgumentError, match="give a number above 0"):
        train(poisson, "M1", tmp_path / "b", steps=20, learning_rate=0.0, **steady())
