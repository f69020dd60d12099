"""Under torch.set_default_device the diagnostics say what they say without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from gradpath.diagnostics import (
    PRESETS,
    MissingPackageError,
    Observation,
    TermGradients,
    distances_by_layer,
    extreme_eigenvalues,
    gradient_statistics,
    histograms_by_layer,
    imbalance,
    optimizer_stability,
    power_iteration,
    spectral_density,
    tangent_kernel,
    term_gradients,
    trace,
    weighting,
)
from gradpath.diagnostics.curvature import Hessian
from gradpath.probes.instruments.exact_spectrum import _dense

from .hooked_training import Training, hooked_training


def hessian(t: Training) -> Hessian:
    return Hessian.of_loss(t.loss, t.layout)


def weights(t: Training) -> list[Any]:
    grads = term_gradients(t.terms, t.layout)
    traces = dict.fromkeys(grads.terms, 1.0)
    seen = Observation(0, grads, t.layout, losses=[1.0, 1.0], traces=traces)
    found: list[Any] = []
    for name, preset in PRESETS.items():
        reference = "reference" in preset.rule.__dataclass_fields__
        try:
            settings = {"reference": grads.terms[0]} if reference else {}
            found.append(weighting(name, **settings).update(seen))
        except MissingPackageError as missing:
            found.append(str(missing))
    return found


def gradients(t: Training) -> TermGradients:
    return term_gradients(t.terms, t.layout)


CASES: dict[str, Callable[[Training], Any]] = {
    "ends": lambda t: extreme_eigenvalues(hessian(t)),
    "power iteration": lambda t: power_iteration(hessian(t)),
    "density": lambda t: spectral_density(hessian(t), probes=2, steps=5),
    "trace": lambda t: trace(hessian(t), products=16),
    "exact trace": lambda t: trace(hessian(t), products=10_000),
    "trace of signs": lambda t: trace(hessian(t), products=16, memory_limit=1),
    "spectrum": lambda t: _dense(hessian(t)),
    "kernel": lambda t: tangent_kernel({"r": t.residual}, t.layout).matrix,
    "kernel by columns": lambda t: (
        tangent_kernel({"r": t.residual}, t.layout, memory_limit=1).matrix
    ),
    "kernel estimated": lambda t: (
        tangent_kernel({"r": t.residual}, t.layout, exact_points=2, products=4).whole
    ),
    "stability": lambda t: optimizer_stability(t.optimizer, t.layout).status,
    "statistics": lambda t: gradient_statistics(gradients(t), t.layout).norm,
    "imbalance": lambda t: imbalance(gradients(t), t.layout, reference=0).to_frame().to_csv(),
    "distances": lambda t: distances_by_layer(
        histograms_by_layer(gradients(t), t.layout), reference=t.terms[0].name
    ),
    "weights": weights,
}


@pytest.fixture
def training() -> Iterator[Training]:
    with hooked_training() as training:
        yield training


@pytest.mark.parametrize("case", CASES)
def test_it_has_no_part_in(case: str, training: Training) -> None:
    """With a device that every machine has, and on which nothing has a value."""
    expected = CASES[case](training)
    with torch.device("meta"):
        found = CASES[case](training)
    assert repr(found) == repr(expected)
