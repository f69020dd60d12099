"""Small runs with known numbers, written without any training."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from gradpath import Run
from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.diagnostics.lanczos import Eigenvalue
from gradpath.probes import (
    Cost,
    EigenvalueRecord,
    Field,
    HistogramRecord,
    RunWriter,
    Scalar,
)
from gradpath.probes.records import Record

RATE = 1e-3
FACTOR = 38.0  # Adam's limit, over eta

HOSTILE = (
    "$x^2$ & <script>alert(1)</script>",
    "_hidden",
    "a\u202eb\n\tc",
    "\u4e2d\u6587",
    "x" * 10_000,
    "price in $",
    " ",
)


def loss(step: float, term: int) -> float:
    return 10.0**-term / (1 + step / 100)


def gradient(step: int, term: int, layer: int) -> torch.Tensor:
    """Normal numbers; each term is 30 times smaller than the one before it."""
    generator = torch.Generator().manual_seed(step + 7 * layer)
    return torch.randn(80, generator=generator) * 30.0**-term


def largest(step: float, term: int) -> float:
    return (1.0 + step) * 10.0**-term


def weight(step: float, term: int) -> float:
    return 1.0 + term * step / 50


def write(
    folder: Path,
    terms: Sequence[str] = ("residual", "boundary"),
    layers: Sequence[str] = ("0", "2"),
    steps: Sequence[int] = tuple(range(0, 200, 20)),
    broken_from: int = 10**9,
    batch: str = "training",
    parts: Sequence[str] = ("",),
    metadata: dict[str, object] | None = None,
) -> Run:
    """Writes a run; from a step on, everything in it is NaN or infinite."""
    with RunWriter(folder, metadata=metadata or {}) as writer:
        for step in steps:
            for part in parts:
                found = [*_records(step, terms, layers, step >= broken_from, batch)]
                writer.record(step, found, part=part)
    return Run(folder)


def _records(
    step: int, terms: Sequence[str], layers: Sequence[str], is_broken: bool, batch: str
) -> Iterator[Record]:
    bad = math.nan if is_broken else 0.0
    yield Scalar("learning_rate", RATE)
    yield Scalar("stability_limit", 2 / RATE, batch=batch)
    yield Scalar("preconditioned_stability_limit", FACTOR / RATE, batch=batch)
    yield Cost("losses", 0.01)
    yield Cost("stiffness", 0.2)
    for number, term in enumerate(terms):
        yield Scalar("loss", loss(step, number) + bad, term)
        yield Scalar("weight", weight(step, number), term)
        change = -loss(step, number) / 50 + bad
        yield Scalar("actual_change", change, term)
        yield Scalar("predicted_change", 1.01 * change, term)
        yield Scalar("predicted_change_first_order", 1.5 * change, term)
        for place, layer in enumerate(layers):
            entries = gradient(step, number, place)
            entries[:3] += bad
            yield HistogramRecord(GradientHistogram.of(entries), term, layer)
        yield from _eigenvalues("hessian", largest(step, number) + bad, term, number != 1, batch)
        rng = np.random.default_rng(number)
        nodes = np.sort(rng.normal(size=(2, 20)) * 10.0 ** (2 - number), axis=1)
        yield Field("spectral_density", np.stack([nodes, np.full((2, 20), 0.05)]), term=term)
        exact = np.sort(rng.standard_normal(50) * 10.0**-number)
        yield Field("hessian_eigenvalues", exact, term=term)
    total = largest(step, 0) * 3 + bad
    yield from _eigenvalues("hessian", total, "total", True, batch)
    yield from _eigenvalues("preconditioned_hessian", 100 * total, "total", True, batch)
    for place, layer in enumerate([*layers, "all"]):
        yield Scalar("update_norm", 1e-3 / (1 + step), layer=layer)
        yield Scalar("parameter_norm", 2.0, layer=layer)
        yield Scalar("distance_from_start", 0.01 * step, layer=layer)
        if len(terms) > 1:
            yield Scalar("alignment", math.sin(step / 100 + place) + bad, layer=layer)
            yield Scalar(f"cosine:{terms[1]}", math.cos(step / 50), terms[0], layer)
        for number, term in enumerate(terms[1:], 1):
            yield Scalar("max_to_mean", 30.0**number * (1 + place) + bad, term, layer)
            yield Scalar("norm_ratio", 5.0**number * (1 + place), term, layer)


def _eigenvalues(
    operator: str, value: float, term: str, converged: bool, batch: str
) -> Iterator[Record]:
    for end, sign in (("largest", 1), ("smallest", -1)):
        lower, upper = sorted([sign * value * 0.7, sign * value * 1.2])
        found = Eigenvalue(sign * value, lower, upper, 0.1, converged, "Said.", 9)
        yield EigenvalueRecord(found, end, term, name=operator, batch=batch)
