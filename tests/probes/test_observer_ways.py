"""An observer changes nothing, whichever way it is put on a loop: the same bits with it.

The loops of `test_observer_loops.py` are watched from their first step to their last by one probe;
here it comes and goes, has company, is told the terms, or watches several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradpath.probes import Probe, Run
from tests.probes.final_state import differences, state_of
from tests.probes.loops import Trained, boundary_of, network, plain, residual_of, seeded

STEPS = 200


def attached_in_cells(folder: Path | None) -> Trained:
    """A notebook, in whose cells a probe is put on, taken off and put on again."""
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            residual, boundary = residual_of(net, torch.rand(16, 1)), boundary_of(net)
            (residual + 10.0 * boundary).backward()
            optimizer.step()

    probe = None if folder is None else Probe(net, folder, instruments="full", strict=True)
    for cell in range(4):
        if probe is not None and cell != 2:
            probe.attach()
        train(STEPS // 4)
        if probe is not None:
            probe.detach()
    return Trained({"net": net}, [optimizer])


def told_its_terms(folder: Path | None) -> Trained:
    """Values at points, weights from the total, and gradients that no `backward()` takes."""
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    probe = None if folder is None else Probe(net, folder, instruments="full", strict=True)
    for _ in range(STEPS):
        x = torch.rand(16, 1)
        u = net(x)
        data, size = (u - torch.sin(x)).square(), u.square()
        loss = data.mean() + 0.1 * size.mean()
        if probe is not None:
            probe.watch({"data": data, "size": size}, total=loss)
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        for parameter, gradient in zip(net.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    if probe is not None:
        probe.detach()
    return Trained({"net": net}, [optimizer])


def two_probes(folder: Path | None) -> Trained:
    """One probe inside of another, which goes first."""
    if folder is None:
        return plain(STEPS)
    outer = Probe(None, folder, instruments="full", strict=True).attach()
    with Probe(None, folder / "inner", instruments="full", strict=True):
        trained = plain(STEPS)
        outer.detach()
    return trained


def threads(folder: Path | None) -> Trained:
    """Two threads that train, each with random numbers of its own."""
    seeded()
    nets: list[nn.Module] = [network(), network()]
    optimizers = [torch.optim.Adam(net.parameters(), 1e-3) for net in nets]
    seen: list[list[object]] = [[], []]

    def train(number: int) -> None:
        net, optimizer = nets[number], optimizers[number]
        numbers = torch.Generator().manual_seed(number)
        for _ in range(STEPS):
            optimizer.zero_grad()
            x = torch.rand(16, 1, generator=numbers)
            residual, boundary = residual_of(net, x), boundary_of(net)
            (residual + 10.0 * boundary).backward()
            optimizer.step()
        seen[number] = [numbers.get_state().tolist(), torch.is_grad_enabled()]

    probe = None
    if folder is not None:
        probe = Probe(None, folder, instruments="full", strict=True).attach()
    workers = [threading.Thread(target=train, args=(number,)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if probe is not None:
        probe.detach()
    return Trained(dict(zip("ab", nets, strict=True)), optimizers, seen=seen)


WAYS: dict[str, tuple[Callable[[Path | None], Trained], set[str]]] = {
    "attached in cells": (attached_in_cells, {"residual", "boundary"}),
    "told its terms": (told_its_terms, {"data", "size"}),
    "two probes": (two_probes, {"residual", "boundary"}),
    "threads": (threads, {"residual", "boundary"}),
}


@pytest.fixture(autouse=True)
def _warm() -> None:
    # The first optimizer of a process sets up what stays: not ours.
    torch.optim.Adam([nn.Parameter(torch.ones(1))]).zero_grad()


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_200_steps_end_in_the_same_bits(name: str, tmp_path: Path) -> None:
    loop, terms = WAYS[name]
    without = state_of(loop(None))
    trained = loop(tmp_path / "run")
    assert differences(without, state_of(trained)) == []
    run = Run(tmp_path / "run")
    assert run.status == "finished"
    assert set(run.terms) == terms
    assert len(run.eigenvalues()) > 0


def test_a_failing_step_of_one_thread_is_no_concern_of_another(tmp_path: Path) -> None:
    """An exception inside of a closure leaves the other thread's steps whole."""
    seeded()
    failing, other = network(), network()
    with Probe(other, tmp_path / "run", strict=True):

        def fail() -> None:
            optimizer = torch.optim.LBFGS(failing.parameters())

            def closure() -> Tensor:
                residual_of(failing, torch.rand(4, 1)).backward()
                raise ValueError

            for _ in range(20):
                with pytest.raises(ValueError):  # noqa: PT011
                    optimizer.step(closure)

        thread = threading.Thread(target=fail)
        thread.start()
        optimizer = torch.optim.Adam(other.parameters(), 1e-3)
        for _ in range(20):
            optimizer.zero_grad()
            residual, boundary = residual_of(other, torch.rand(16, 1)), boundary_of(other)
            (residual + boundary).backward()
            optimizer.step()
        thread.join()
    run = Run(tmp_path / "run")
    assert run.parts == ("",)
    assert run.terms == ("residual", "boundary")
    assert run.scalars("self_check")["value"].max() < 1e-5
