"""Training: the step, the weights, the same bits, and what a run says however it ends."""

import math
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from gradpath.diagnostics import Hessian, ParameterLayout, term_gradients, weighting
from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import (
    PROBLEMS,
    Summary,
    compilation,
    model,
    problem,
    train,
    training_step,
)
from gradpath.experiments.checkpoints import CHECKPOINT, Checkpoint
from gradpath.experiments.compilation import CompilationWarning
from gradpath.experiments.measuring import Curvature
from gradpath.experiments.seeds import generator_of
from gradpath.experiments.training_step import AdamState, FlatLosses, TrainingStep
from gradpath.probes import Run
from gradpath.probes.instruments import GradientStatistics, Losses
from gradpath.probes.schedules import every
from tests.experiments.eager_training import train_helmholtz

SMALL: Mapping[str, Any] = {"compile": False, "hidden": (6, 6), "instruments": "light"}
WEIGHTINGS = ["M1+ntk", "M3+inverse_dirichlet", "M2+relobralo", "M4+early", "M1+jaxpi_grad_norm"]


def steady() -> dict[str, Any]:
    """With instruments that do not wait for their share of the time: due at known steps."""
    return {**SMALL, "instruments": [Losses(every(10)), GradientStatistics(every(100))]}


def bits(folder: Path) -> Tensor:
    checkpoint = Checkpoint.load(folder, {})
    assert checkpoint is not None
    return torch.stack(checkpoint.state)  # parameters, and Adam's means


def equals_a_plain_loop(name: str, folder: Path, *, compile: bool) -> Summary:
    """Compares 20 steps in float64."""
    helmholtz, steps, seed = problem("helmholtz", a1=1, a2=2), 20, 3
    network = model(name).network(helmholtz, (12, 12), seed=seed, dtype=torch.float64)
    generator = generator_of("training points", seed)
    sampler = helmholtz.sampler(128, dtype=torch.float64)
    batches = [sampler.draw(generator) for _ in range(steps)]
    balance = None
    if model(name).weighting:
        layers = ("layers.0", "layers.1", "layers.2")
        balance = weighting("siam", reference="residual", layers=layers)
    expected, used = train_helmholtz(network, batches, balance, 1, 2)
    summary = train(
        helmholtz, name, folder, steps=steps, seed=seed, hidden=(12, 12), dtype=torch.float64,
        instruments=steady()["instruments"], compile=compile,
    )  # fmt: skip
    torch.testing.assert_close(bits(folder)[0], expected, rtol=1e-9, atol=1e-11)
    recorded = Run(folder).scalars("weight").query("term == 'boundary'").set_index("step")["value"]
    # Step 10 was taken with the weight that step 0 asked for, and changes it for step 11.
    assert recorded[0] == used[0] == 1.0
    assert recorded[10] == pytest.approx(used[10], rel=1e-9)
    assert (recorded[10] != 1.0) == (balance is not None)
    last = 1.0 if balance is None else balance.weights["boundary"]
    assert recorded[20] == pytest.approx(last, rel=1e-9)
    return summary


@pytest.mark.parametrize("name", ["M1", "M2", "M3", "M4"])
def test_twenty_steps_are_those_of_a_plain_loop(name: str, tmp_path: Path) -> None:
    equals_a_plain_loop(name, tmp_path, compile=False)


@pytest.mark.slow
def test_compiled_steps_are_those_of_a_plain_loop_and_repeat_to_the_bit(tmp_path: Path) -> None:
    summary = equals_a_plain_loop("M2", tmp_path / "a", compile=True)
    assert summary.is_compiled
    equals_a_plain_loop("M2", tmp_path / "b", compile=True)
    assert torch.equal(bits(tmp_path / "a"), bits(tmp_path / "b"))


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_step_has_the_gradient_of_every_term(name: str) -> None:
    posed = problem(name)
    network = model("M1").network(posed, (5, 5), dtype=torch.float64)
    losses = FlatLosses(posed, network)
    batch = posed.sampler(8, dtype=torch.float64).draw(torch.Generator().manual_seed(0))
    weights = torch.ones(len(losses.terms), dtype=torch.float64)
    state = AdamState.of(losses.layout.flatten())
    taken = TrainingStep(losses, batch, AdamState, compile=False)(state, weights, 0, batch)
    expected = term_gradients(posed.losses(network, batch), ParameterLayout.of(network))
    assert losses.terms == expected.terms
    torch.testing.assert_close(taken.gradients, expected.as_subclass(Tensor))
    assert losses.unreached(batch) == expected.unreached


def test_the_terms_share_one_forward_pass() -> None:
    cavity = problem("cavity")
    losses = FlatLosses(cavity, model("M1").network(cavity, (5, 5)))
    batch = cavity.sampler(8).draw(torch.Generator().manual_seed(0))
    step = TrainingStep(losses, batch, AdamState, compile=False)
    state = AdamState.of(losses.layout.flatten())
    arguments = step._arguments(state, torch.ones(len(losses.terms)), 0, batch)

    def forward(parameters: Tensor) -> list[Tensor]:
        return list(losses(parameters, batch).values())

    def activations(graph: torch.fx.GraphModule) -> int:
        return sum(node.target is torch.ops.aten.tanh.default for node in graph.graph.nodes)

    alone = activations(make_fx(forward)(state.parameters))
    assert alone > 0
    assert activations(make_fx(lambda *given: step._take(*given))(*arguments)) == alone


@pytest.mark.slow
def test_compiled_curvature_is_the_hessian_of_the_weighted_sum() -> None:
    posed = problem("poisson")
    losses = FlatLosses(posed, model("M1").network(posed, (5,), dtype=torch.float64))
    batch = posed.sampler(8, dtype=torch.float64).draw(torch.Generator().manual_seed(0))
    compiled = Curvature(losses, batch, compile=True)
    assert compiled.is_compiled
    eager = Curvature(losses, batch, compile=False)
    weights = torch.tensor([1.0, 7.0], dtype=torch.float64)
    for scale in (1.0, 2.0):  # compiled once for all parameters
        point = scale * losses.layout.flatten()
        one: Hessian = compiled.hessian(point, weights)
        other = eager.hessian(point, weights)
        vector = torch.linspace(-1, 1, len(point), dtype=torch.float64)
        torch.testing.assert_close(one.matvec(vector), other.matvec(vector))
        block, same = one.block("layers.1"), other.block("layers.1")
        part = torch.linspace(-1, 1, block.size, dtype=torch.float64)
        torch.testing.assert_close(block.matvec(part), same.matvec(part))


def test_same_seed_same_bits_whatever_is_measured(tmp_path: Path) -> None:
    poisson = problem("poisson")
    train(poisson, "M4", tmp_path / "a", steps=40, **SMALL)
    train(poisson, "M4", tmp_path / "b", steps=40, **{**SMALL, "instruments": "full"})
    train(poisson, "M4", tmp_path / "c", steps=40, seed=1, **SMALL)
    assert torch.equal(bits(tmp_path / "a"), bits(tmp_path / "b"))
    assert not torch.equal(bits(tmp_path / "a"), bits(tmp_path / "c"))


@pytest.mark.parametrize(("killed_at", "goes_on_at"), [(50, 0), (250, 200)])
def test_a_killed_training_goes_on_from_its_last_measuring_interval(
    killed_at: int, goes_on_at: int, tmp_path: Path
) -> None:
    poisson, whole, killed = problem("poisson"), tmp_path / "whole", tmp_path / "killed"
    train(poisson, "M2", whole, steps=320, **steady())
    script = Path(__file__).with_name("killed_training.py")
    with subprocess.Popen(
        [sys.executable, str(script), str(killed), "320", str(killed_at)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGKILL)
    assert Run(killed).steps[-1] == killed_at
    (killed / f"{CHECKPOINT}.new").write_bytes(b"half a checkpoint")
    summary = train(poisson, "M2", killed, steps=320, resume=True, **steady())
    assert torch.equal(bits(killed), bits(whole))
    assert summary.error == Run(whole).metadata["final_error"]
    assert Run(killed).steps == Run(whole).steps
    told = Run(killed).events().query("kind == 'resumed'")["text"].tolist()
    assert len(told) == 1
    assert told[0].startswith(f"Resumed at step {goes_on_at},")
    columns = ["step", "term", "value"]
    for name in ("loss", "weight", "gradient_norm"):
        one, other = (Run(each).scalars(name)[columns] for each in (killed, whole))
        assert one.equals(other)


def test_a_finished_run_is_not_trained_again_and_can_go_on(tmp_path: Path) -> None:
    poisson = problem("poisson")
    first = train(poisson, "M2", tmp_path / "a", steps=20, **SMALL)
    assert train(poisson, "M2", tmp_path / "a", steps=20, resume=True, **SMALL) == first
    further = train(poisson, "M2", tmp_path / "a", steps=30, resume=True, **SMALL)
    train(poisson, "M2", tmp_path / "b", steps=30, **SMALL)
    assert (further.steps, further.status) == (30, "finished")
    assert torch.equal(bits(tmp_path / "a"), bits(tmp_path / "b"))
    with pytest.raises(ArgumentError, match="30 steps, more than steps=20"):
        train(poisson, "M2", tmp_path / "a", steps=20, resume=True, **SMALL)
    with pytest.raises(ArgumentError, match="has seed 0, not 1"):
        train(poisson, "M2", tmp_path / "a", steps=30, seed=1, resume=True, **SMALL)


def test_a_loss_that_is_no_number_ends_the_training_with_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {6: 1e38}
    monkeypatch.setattr(training_step, "learning_rate", lambda step, _: rates.get(step, 1e-3))
    poisson = problem("poisson")
    summary = train(poisson, "M1", tmp_path, steps=50, **SMALL)
    assert (summary.status, summary.steps) == ("diverged", 7)
    assert math.isnan(summary.error)
    run = Run(tmp_path)
    assert run.status == "failed"
    assert run.metadata["outcome"] == "diverged"
    assert run.metadata["final_error"] is None
    (finding,) = (each for each in run.findings if each.code == "GP402")
    assert "stopped at step 7" in finding.verdict
    assert run.steps[-1] == 7
    again = train(poisson, "M1", tmp_path, steps=50, resume=True, **SMALL)
    assert (again.status, again.steps) == ("diverged", 7)


def test_the_run_says_what_was_trained_and_shows_the_fields(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    helmholtz = problem("helmholtz", a2=1)
    summary = train(
        helmholtz, "M1", tmp_path, steps=300, compile=False,
        progress=lambda step, steps, losses: told.append((step, steps)),
    )  # fmt: skip
    run = Run(tmp_path)
    said = {"problem": "helmholtz", "model": "M1", "seed": 0, "steps": 300, "complexity": 1}
    assert said.items() <= run.metadata.items()
    assert run.metadata["parameters"] == {"a1": 1, "a2": 1, "k": 1}
    assert run.metadata["final_error"] == summary.error
    assert (run.status, told[0], told[-1]) == ("finished", (0, 300), (300, 300))
    errors = run.scalars("relative_error").set_index("step")["value"]
    assert errors[300] == pytest.approx(summary.error, rel=1e-6)
    assert summary.error < 0.7 * errors[0]
    assert set(run.fields("prediction")["step"]) == set(errors.index)
    assert set(run.eigenvalues()["batch"]) == {"diagnostic"}
    assert set(run.eigenvalues()["term"]) == {"residual", "boundary", "total"}
    assert set(run.histograms()["term"]) == {"residual", "boundary"}


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_other_rules_weigh_the_terms(name: str, tmp_path: Path) -> None:
    summary = train(problem("poisson"), name, tmp_path, steps=12, **SMALL)
    assert summary.status == "finished"
    assert set(summary.weights.values()) != {1.0}


def test_without_a_compiler_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "has_compiler", lambda: False)
    with pytest.warns(CompilationWarning, match=r"uncompiled.*no C\+\+ compiler") as told:
        summary = train(problem("poisson"), "M1", tmp_path, steps=2, **{**SMALL, "compile": True})
    assert "\n" not in str(told[0].message)
    assert not summary.is_compiled
