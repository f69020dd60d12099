"""Small trainings with a known defect, and what a diagnosis says of them."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradpath import Probe, Run
from gradpath.diagnostics.findings import Check, Diagnosis, Finding
from gradpath.probes.schedules import every

Losses = Callable[[], Mapping[str, Tensor]]
Weights = Mapping[str, float]


def diagnosed(
    folder: Path,
    model: nn.Module | Sequence[Tensor],
    losses: Losses,
    optimizer: torch.optim.Optimizer,
    steps: int,
    *,
    weights: Mapping[str, float]
    | Callable[[Mapping[str, Tensor]], Mapping[str, float]]
    | None = None,
    instruments: Any = "standard",
    interval: int = 5,
    is_attached: bool = False,
) -> Diagnosis:
    """Trains, and returns what the run is diagnosed with.

    The terms are handed to the probe, or found by it in the graph if it is attached.
    """
    watched = model if isinstance(model, nn.Module) else None
    probe = Probe(
        watched, folder, optimizer=optimizer, instruments=instruments, schedule=every(interval)
    )
    if is_attached:
        probe.attach()
    for _ in range(steps):
        optimizer.zero_grad()
        terms = dict(losses())
        given = weights(terms) if callable(weights) else (weights or {})
        total = sum((given.get(name, 1.0) * term for name, term in terms.items()), torch.zeros(()))
        if not is_attached:
            probe.watch(terms, total=total)
        total.backward()
        optimizer.step()
    probe.detach()
    return Run(folder).diagnosis()


def check(found: Diagnosis, name: str) -> Check:
    (one,) = (each for each in found.checks if each.name == name)
    return one


def finding(found: Diagnosis, code: str) -> Finding:
    (one,) = (each for each in found.findings if each.code == code)
    return one


def codes(found: Diagnosis) -> set[str]:
    return {each.code for each in found.findings}


def alarms(found: Diagnosis) -> list[str]:
    """What is more than a note, in words that tell where a test failed."""
    return [f"{each.code}: {each.verdict}" for each in found.findings if each.severity != "note"]


def network(*widths: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def linear(net: nn.Sequential, place: int) -> nn.Linear:
    layer = net[place]
    assert isinstance(layer, nn.Linear)
    return layer


def quadratic(eigenvalues: Sequence[float]) -> tuple[Tensor, Losses]:
    """A quadratic bowl with these eigenvalues in a basis that is not that of the coordinates."""
    size = len(eigenvalues)
    generator = torch.Generator().manual_seed(1)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    matrix = basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T
    point = nn.Parameter(basis.sum(dim=1).clone())
    return point, lambda: {"bowl": point @ matrix @ point / 2}
