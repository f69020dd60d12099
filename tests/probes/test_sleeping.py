"""While nothing is due nobody is told of backward passes, and nothing is missed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradpath.probes import Probe, Run, interception
from gradpath.probes.instruments import Losses
from gradpath.probes.schedules import at, every
from gradpath.probes.stepping import Stepping
from tests.probes.loops import boundary_of, network, seeded

Step = Callable[[], None]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of the step, each time that a probe was told of a backward pass."""
    numbers: list[int] = []
    before_backward = Stepping.before_backward

    def noted(self: Stepping, *args: Any) -> None:
        numbers.append(self.step)
        before_backward(self, *args)

    monkeypatch.setattr(Stepping, "before_backward", noted)
    return numbers


def usual() -> tuple[nn.Module, torch.optim.Optimizer, Step]:
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)

    def step() -> None:
        optimizer.zero_grad()
        boundary_of(net).backward()
        optimizer.step()

    return net, optimizer, step


def recorded(folder: Path) -> list[int]:
    return sorted(set(Run(folder).scalars("loss")["step"].tolist()))


def test_passes_are_told_where_something_is_due(tmp_path: Path, told: list[int]) -> None:
    net, _, step = usual()
    with Probe(net, tmp_path, instruments=[Losses(every(20))]):
        for _ in range(70):
            step()
    assert recorded(tmp_path) == [0, 20, 40, 60]
    # After a step that was measured it is found out that the next one need not be.
    assert told == [0, 1, 20, 21, 40, 41, 60, 61]


def test_nobody_sleeps_longer_than_the_probe(tmp_path: Path) -> None:
    net, _, step = usual()
    backward = torch.Tensor.backward
    with Probe(net, tmp_path, instruments=[Losses(at(0))]):
        for _ in range(5):
            step()
        assert interception._asleep == threading.get_ident()
    assert interception._asleep is None
    assert torch.Tensor.backward is backward
    with Probe(net, tmp_path / "next", instruments=[Losses(every(1))]):
        step()
    assert recorded(tmp_path / "next") == [0]


def test_micro_batches_and_steps_without_a_pass_count_as_ever(tmp_path: Path) -> None:
    net, optimizer, _ = usual()
    with Probe(net, tmp_path, instruments=[Losses(every(10))]) as probe:
        for number in range(20):
            optimizer.zero_grad()
            for _ in range(3):
                boundary_of(net).backward()
            optimizer.step()
            if number % 4 == 0:
                optimizer.step()  # no step of its own: nothing was differentiated
        assert probe.step == 20
    assert recorded(tmp_path) == [0, 10]


def test_two_optimizers_take_one_step(tmp_path: Path) -> None:
    seeded()
    net = network()
    both = [torch.optim.SGD(layer.parameters(), 1e-2) for layer in (net[0], net[2])]
    with Probe(net, tmp_path, instruments=[Losses(every(7))]) as probe:
        for _ in range(30):
            for optimizer in both:
                optimizer.zero_grad()
            boundary_of(net).backward()
            for optimizer in both:
                optimizer.step()
        assert probe.step == 30
    assert recorded(tmp_path) == [0, 7, 14, 21, 28]


def test_a_model_that_is_trained_later_is_seen(tmp_path: Path) -> None:
    _, _, step = usual()
    with Probe(None, tmp_path, instruments=[Losses(every(50))]):
        for _ in range(10):
            step()
        _, _, step_of_other = usual()
        for _ in range(60):
            step()
            step_of_other()
    run = Run(tmp_path)
    steps = run.scalars("loss").groupby("part")["step"].agg(lambda found: sorted(set(found)))
    assert sorted(map(tuple, steps)) == [(0, 50), (0, 50)]
    assert len(run.parts) == 2


def test_another_thread_is_told(tmp_path: Path, told: list[int]) -> None:
    net, _, step = usual()
    with Probe(net, tmp_path, instruments=[Losses(at(0))]):
        for _ in range(5):
            step()
        told.clear()
        step()
        assert told == []
        thread = threading.Thread(target=lambda: boundary_of(net).backward())
        thread.start()
        thread.join()
        assert told == [6]


def test_terms_that_are_named_wake_the_probe(tmp_path: Path, told: list[int]) -> None:
    net, optimizer, step = usual()
    with Probe(net, tmp_path, instruments=[Losses(at(0, 6))]) as probe:
        for _ in range(6):
            step()
        told.clear()
        optimizer.zero_grad()
        loss = boundary_of(net)
        probe.watch({"wall": loss})
        (3 * loss).backward()
        optimizer.step()
        assert told == [6]
    weights = Run(tmp_path).scalars("weight")
    assert weights[weights["step"] == 6][["term", "value"]].to_numpy().tolist() == [["wall", 3.0]]


def test_all_probes_have_to_sleep(tmp_path: Path) -> None:
    net, _, step = usual()
    with (
        Probe(net, tmp_path / "seldom", instruments=[Losses(at(0))]),
        Probe(net, tmp_path / "often", instruments=[Losses(every(3))]),
    ):
        for _ in range(10):
            step()
    assert recorded(tmp_path / "often") == [0, 3, 6, 9]


def test_an_evaluation_inside_of_a_step_is_told(tmp_path: Path) -> None:
    net, first, step = usual()
    second = torch.optim.LBFGS(net.parameters(), 1e-2, max_iter=2)

    def closure() -> Tensor:
        second.zero_grad()
        loss = boundary_of(net)
        loss.backward()
        return loss

    with Probe(net, tmp_path, instruments=[Losses(every(10))]) as probe:
        for _ in range(15):
            step()
        first.zero_grad()
        for _ in range(20):
            second.step(closure)
        assert probe.step == 35
    assert recorded(tmp_path) == [0, 10, 20, 30]
    assert Run(tmp_path).timeline()["evaluations"].iloc[-1] > 0


def _makes_an_optimizer(probe: Probe, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1e-2)
    optimizer.step()


def _names_terms(probe: Probe, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    probe.watch({"late": loss.detach()})
    optimizer.step()


def _attaches_another(probe: Probe, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    Probe(None, probe.run + "-other", instruments=[Losses(at(0))]).attach().detach()
    optimizer.step()


def _steps_with_a_closure(probe: Probe, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.step(lambda: loss)  # type: ignore[arg-type, return-value]


def _steps_in_a_thread(probe: Probe, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    thread = threading.Thread(target=optimizer.step)
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "ending",
    [
        _makes_an_optimizer,
        _names_terms,
        _attaches_another,
        _steps_with_a_closure,
        _steps_in_a_thread,
    ],
)
def test_a_step_counts_although_its_pass_was_slept_through(
    ending: Callable[[Probe, torch.optim.Optimizer, Tensor], None], tmp_path: Path
) -> None:
    net, optimizer, step = usual()
    with Probe(net, tmp_path / "run", instruments=[Losses(every(7))]) as probe:
        for number in range(40):
            if number % 10 != 3:
                step()
                continue
            optimizer.zero_grad()
            loss = boundary_of(net)
            loss.backward()
            ending(probe, optimizer, loss)
        assert probe.step == 40
    assert recorded(tmp_path / "run") == [0, 7, 14, 21, 28, 35]
