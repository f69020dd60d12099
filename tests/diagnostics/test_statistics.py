"""Statistics of gradients against exact arithmetic, numpy and scipy; small and large matrices."""

import gc
import math
import subprocess
import sys
import weakref
from collections.abc import Iterator
from fractions import Fraction
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as npst
from scipy import stats
from torch import nn

from gradpath.diagnostics import reductions
from gradpath.diagnostics.errors import ArgumentError, LayoutError
from gradpath.diagnostics.gradients import TermGradients
from gradpath.diagnostics.imbalance import alignment, cancellation, cosine_matrix, imbalance
from gradpath.diagnostics.layout import ParameterLayout, ParameterSlot
from gradpath.diagnostics.moments import QUANTITIES, Partition, moments
from gradpath.diagnostics.statistics import (
    NEAR_ZERO,
    RATIOS,
    GradientStatistics,
    LayerStatistics,
    gradient_statistics,
    statistics_of_steps,
)

module = import_module("gradpath.diagnostics.statistics")

TERMS = ("residual", "boundary", "initial")
INF, NAN = float("inf"), float("nan")


class Rotation(nn.Module):
    """A layer of a complex matrix and a complex vector."""

    def __init__(self) -> None:
        super().__init__()
        self.angles = nn.Parameter(torch.randn(3, 2, dtype=torch.complex64))
        self.phase = nn.Parameter(torch.randn(5, dtype=torch.complex64))


# Matrices, kernels, biases, a layer without matrix, one without bias, complex entries, one entry.
MODEL = nn.Sequential(
    nn.Linear(2, 30), nn.LayerNorm(30), nn.Conv1d(2, 3, 2), nn.Linear(4, 3, bias=False), Rotation(),
    nn.Linear(9, 1),
)  # fmt: skip
LAYOUT = ParameterLayout.of(MODEL)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(params=["small", "large"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small matrices are reduced at once, large ones block by block: here, of seven columns."""
    if request.param == "large":
        monkeypatch.setattr(reductions, "BLOCK", 7)
    return str(request.param)


def gradients(dtype: torch.dtype = torch.float32, scale: float = 1.0) -> TermGradients:
    """Three terms of unlike size and shape, some entries exactly zero."""
    values = torch.randn(3, LAYOUT.size, dtype=torch.float64)
    values[1] = 1e-2 * values[1] ** 3 + 0.01
    values[2, ::3] = 0
    return TermGradients.of((scale * values).to(dtype), TERMS)


def parts(found: GradientStatistics) -> Iterator[tuple[LayerStatistics, list[ParameterSlot]]]:
    """Yields the statistics of each part, with the slots whose entries are in it."""
    matrices = [slot for slot in LAYOUT.slots if slot.is_matrix]
    yield found, list(LAYOUT.slots)
    yield found.matrices, matrices
    yield found.vectors, [slot for slot in LAYOUT.slots if slot not in matrices]


def groups(slots: list[ParameterSlot]) -> Iterator[tuple[str, list[int]]]:
    """Yields the columns of each layer that has any, and of all."""
    for layer in dict.fromkeys(slot.layer for slot in slots):
        yield layer, [c for s in slots if s.layer == layer for c in range(LAYOUT.size)[s.slice]]
    yield "all", [column for slot in slots for column in range(LAYOUT.size)[slot.slice]]


def expected(g: np.ndarray, largest: float) -> dict[str, float]:
    magnitudes = np.abs(g)
    with np.errstate(invalid="ignore"):
        return {
            "count": len(g),
            "max_magnitude": magnitudes.max(),
            "mean_magnitude": magnitudes.mean(),
            "std_magnitude": magnitudes.std(),
            "std": g.std(),
            "norm": np.linalg.norm(g),
            "kurtosis": NAN if len(g) == 1 else stats.kurtosis(g, fisher=False),
            "zeros": (g == 0).sum(),
            "near_zeros": (magnitudes < NEAR_ZERO * largest).sum(),
            "not_finite": 0,
        }


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_is_that_of_an_explicit_loop(dtype: torch.dtype) -> None:
    grads = gradients(dtype)
    rows = grads.double().numpy()
    found = gradient_statistics(grads, LAYOUT)
    assert found.terms == TERMS
    assert found.layers == (*LAYOUT.layers, "all")
    for of_part, slots in parts(found):
        assert list(of_part.layers) == [layer for layer, _ in groups(slots)]
        for column, (_, columns) in enumerate(groups(slots)):
            for row, g in enumerate(rows):
                numbers = expected(g[columns], np.abs(g).max())
                for quantity, value in numbers.items():
                    number = getattr(of_part, quantity)[row, column]
                    assert number == pytest.approx(value, rel=1e-12, abs=1e-30, nan_ok=True)
    assert found.values.dtype == found.cosines.dtype == np.float64


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
def test_angles_are_those_of_numpy_in_every_layer_and_part(dtype: torch.dtype) -> None:
    grads = gradients(dtype)
    rows = grads.double().numpy()
    for of_part, slots in parts(gradient_statistics(grads, LAYOUT)):
        for column, (_, columns) in enumerate(groups(slots)):
            units = rows[:, columns]
            with np.errstate(invalid="ignore"):
                units = units / np.linalg.norm(units, axis=1, keepdims=True)
            np.testing.assert_allclose(of_part.cosines[column], units @ units.T, atol=1e-14)
            score = 2 * np.square(units.mean(axis=0)).sum() - 1
            np.testing.assert_allclose(of_part.alignment[column], score, atol=1e-14)


def test_alignment_and_cancellation_are_those_of_the_functions() -> None:
    grads = gradients(torch.float64)
    found = gradient_statistics(grads, LAYOUT)
    np.testing.assert_allclose(found.alignment[:-1], alignment(grads, LAYOUT), atol=1e-14)
    assert found.alignment[-1] == pytest.approx(alignment(grads))
    np.testing.assert_allclose(found.cosines[:-1], cosine_matrix(grads, LAYOUT), atol=1e-14)
    weights = [1.0, -20.0, 3.0]
    left = found.cancellation(weights)
    assert left[-1] == pytest.approx(cancellation(grads, weights), abs=1e-7)
    for layer, columns in LAYOUT.slices.items():
        number = cancellation(grads[:, columns], weights)
        assert left[found.layers.index(layer)] == pytest.approx(number, abs=1e-7)


def test_what_cancels_is_nothing_and_a_zero_gradient_has_no_part_in_it() -> None:
    g = torch.randn(LAYOUT.size)
    found = gradient_statistics(torch.stack([g, -g, torch.zeros_like(g)]), LAYOUT)
    np.testing.assert_allclose(found.cancellation([1.0, 1.0, 1.0]), 0, atol=1e-7)
    np.testing.assert_allclose(found.cancellation([1.0, 3.0, 1e9]), 0.5)
    assert np.isnan(found.cancellation([0.0, 0.0, 1.0])).all()
    with pytest.raises(ArgumentError, match="one number a term"):
        found.cancellation([1.0, 2.0])


# The ratios, against the functions that look at every layer for itself.

MATRICES = npst.arrays(
    np.float64,
    st.tuples(st.integers(1, 4), st.just(LAYOUT.size)),
    elements=st.floats(-1e3, 1e3, width=32),
    fill=st.just(0.5),
)


@pytest.mark.parametrize("matrices_only", [False, True])
@given(matrix=MATRICES, exponent=st.integers(-120, 120))
def test_ratios_are_those_of_each_layer_on_its_own(
    matrices_only: bool, matrix: np.ndarray, exponent: int
) -> None:
    grads = torch.from_numpy(matrix * 2.0**exponent)
    found = gradient_statistics(grads, LAYOUT)
    ratios = (found.matrices if matrices_only else found).ratios(0)
    same = imbalance(grads, LAYOUT, 0, matrices_only=matrices_only)
    for quantity in RATIOS:
        np.testing.assert_array_equal(getattr(ratios, quantity), getattr(same, quantity))
    entries = reductions.entries_by_layer(LAYOUT, matrices_only=matrices_only)
    assert ratios.layers == (*entries, "all")
    entries["all"] = tuple(piece for pieces in entries.values() for piece in pieces)
    for column, pieces in enumerate(entries.values()):
        spread = reductions.spread(grads, pieces)
        norm = reductions.norm(grads, pieces)
        wanted = {
            "max_to_mean": reductions.magnitude_maximum(grads, pieces)[0]
            / reductions.magnitude_mean(grads, pieces),
            "norm_ratio": norm[0] / norm,
            "std_ratio": spread.deviation[0] / spread.deviation,
            "kurtosis_ratio": spread.kurtosis[0] / spread.kurtosis,
        }
        for quantity, values in wanted.items():
            number = getattr(ratios, quantity)[:, column]
            np.testing.assert_allclose(number, values.numpy(), rtol=1e-9)


def test_the_reference_is_a_name_or_the_number_of_a_row() -> None:
    found = gradient_statistics(gradients(), LAYOUT)
    by_name, by_row = found.ratios("boundary"), found.ratios(1)
    assert by_name.reference == by_row.reference == "boundary"
    np.testing.assert_array_equal(by_name.values, by_row.values)
    with pytest.raises(ArgumentError, match=r"no term 'pde'.*'residual', 'boundary', 'initial'"):
        found.ratios("pde")
    with pytest.raises(ArgumentError, match="rows 0 to 2"):
        found.ratios(3)
    plain = gradient_statistics(torch.ones(2, LAYOUT.size), LAYOUT)
    assert plain.terms == ("0", "1")
    with pytest.raises(ArgumentError, match="number of its row"):
        plain.ratios("residual")


# Moments of groups, against exact arithmetic.

NUMBERS = st.one_of(
    st.floats(-1e6, 1e6),
    st.floats(1e7, 2e7),  # of a small spread
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-38, 3e38, 1e-45]),
).map(lambda number: float(np.float32(number)))


@st.composite
def partitions(draw: st.DrawFn) -> tuple[list[list[float]], list[list[int]]]:
    """Draws the numbers of some pieces, and groups of those."""
    pieces = draw(st.lists(st.lists(NUMBERS, min_size=1, max_size=6), min_size=1, max_size=5))
    indices = st.lists(st.sampled_from(range(len(pieces))), min_size=1, unique=True)
    return pieces, draw(st.lists(indices, min_size=1, max_size=4))


def exact(numbers: list[float], largest: float) -> dict[str, float]:
    """The same in rational numbers; roots are taken at the end."""
    entries = [Fraction(number) for number in numbers]

    def mean(terms: list[Fraction]) -> Fraction:
        return sum(terms, Fraction(0)) / len(terms)

    centre, magnitude = mean(entries), mean([abs(entry) for entry in entries])
    variance = mean([(entry - centre) ** 2 for entry in entries])
    fourth = mean([(entry - centre) ** 4 for entry in entries])
    return {
        "count": len(entries),
        "max_magnitude": float(max(map(abs, entries))),
        "mean_magnitude": float(magnitude),
        "std_magnitude": math.sqrt(mean([(abs(entry) - magnitude) ** 2 for entry in entries])),
        "std": math.sqrt(variance),
        "norm": math.sqrt(sum((entry**2 for entry in entries), Fraction(0))),
        "kurtosis": float(fourth / variance**2) if variance else NAN,
        "zeros": sum(entry == 0 for entry in entries),
        "near_zeros": sum(abs(number) < NEAR_ZERO * largest or not number for number in numbers),
        "not_finite": 0,
    }


@pytest.mark.parametrize("block", [2, 1 << 18])
@given(partition=partitions())
def test_a_group_is_the_group_of_all_its_entries(
    block: int, partition: tuple[list[list[float]], list[list[int]]]
) -> None:
    pieces, members = partition
    limits = np.cumsum([0, *map(len, pieces)]).tolist()
    slices = [slice(start, stop) for start, stop in pairwise(limits)]
    numbers = [number for piece in pieces for number in piece]
    largest = max(map(abs, numbers))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reductions, "BLOCK", block)
        found = moments(torch.tensor([numbers]), Partition.of(slices, members), NEAR_ZERO)
    for group, chosen in enumerate(members):
        entries = [number for piece in chosen for number in pieces[piece]]
        for index, (quantity, value) in enumerate(exact(entries, largest).items()):
            assert QUANTITIES[index] == quantity
            number = found.values[index, 0, group]
            # The deviation of magnitudes is the difference of two squares.
            slack = 1e-7 * math.hypot(*entries) if quantity == "std_magnitude" else 0.0
            assert number == pytest.approx(value, rel=1e-6, abs=slack, nan_ok=True), quantity


@given(matrix=MATRICES, exponent=st.integers(-900, 900), order=st.randoms(use_true_random=False))
def test_a_factor_and_the_order_of_entries_change_nothing_else(
    matrix: np.ndarray, exponent: int, order: Any
) -> None:
    grads = torch.from_numpy(matrix)
    found = gradient_statistics(grads, LAYOUT)
    scaled = gradient_statistics(grads * 2.0**exponent, LAYOUT)
    powers = np.array([0, 1, 1, 1, 1, 1, 0, 0, 0, 0])[:, None, None] * exponent
    np.testing.assert_allclose(scaled.values, np.ldexp(found.values, powers), rtol=1e-12)
    np.testing.assert_allclose(scaled.cosines, found.cosines, atol=1e-12)
    columns = list(range(LAYOUT.size))
    for slot in LAYOUT.slots:
        some = columns[slot.slice]
        order.shuffle(some)
        columns[slot.slice] = some
    rows = list(range(len(grads)))
    order.shuffle(rows)
    mixed = gradient_statistics(grads[rows][:, columns], LAYOUT)
    slack = 1e-7 * found.norm[:, -1].max()  # the deviation of magnitudes is a difference of squares
    np.testing.assert_allclose(mixed.values, found.values[:, rows], rtol=1e-9, atol=slack)
    np.testing.assert_allclose(mixed.cosines, found.cosines[:, rows][:, :, rows], atol=1e-12)


# What is not an ordinary number.


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("scale", [1e-30, 1e30, 3e37])
def test_float32_of_any_scale_neither_underflows_nor_overflows(scale: float) -> None:
    grads = gradients().detach().clamp(-3, 3)
    found, scaled = (gradient_statistics(g, LAYOUT) for g in (grads, grads * scale))
    factors = np.array([1, *[scale] * 5, *[1] * 4])[:, None, None]
    np.testing.assert_allclose(scaled.values, found.values * factors, rtol=1e-5)
    np.testing.assert_allclose(scaled.cosines, found.cosines, atol=1e-6)


@pytest.mark.usefixtures("path")
def test_float64_of_any_scale_neither_underflows_nor_overflows() -> None:
    """Each layer of another scale, from the smallest to the largest normal numbers."""
    g = torch.randn(2, LAYOUT.size, dtype=torch.float64).clamp(-2, 2)
    exponents = np.array([-1000, 1000, -500, 500, -250, 0])
    factors = torch.ones(LAYOUT.size, dtype=torch.float64)
    for columns, exponent in zip(LAYOUT.slices.values(), exponents.tolist(), strict=True):
        factors[columns] = 2.0**exponent
    plain, scaled = gradient_statistics(g, LAYOUT), gradient_statistics(g * factors, LAYOUT)
    powers = np.array([0, *[1] * 5, 0])[:, None, None] * exponents
    expected = np.ldexp(plain.values[:7, :, :-1], powers)
    np.testing.assert_allclose(scaled.values[:7, :, :-1], expected, rtol=1e-12)
    np.testing.assert_allclose(scaled.cosines[:-1], plain.cosines[:-1], atol=1e-12)
    # Beside the layer that is the largest, the others are nothing.
    np.testing.assert_allclose(scaled.norm[:, -1], scaled.norm[:, 1], rtol=1e-12)
    np.testing.assert_allclose(scaled.cosines[-1], scaled.cosines[1], atol=1e-12)
    assert np.isfinite(scaled.values[:6]).all()


@pytest.mark.usefixtures("path")
def test_the_smallest_numbers_of_float64_are_measured() -> None:
    grads = torch.full((1, LAYOUT.size), 5e-324, dtype=torch.float64)
    grads[0, ::2] *= -1
    found = gradient_statistics(grads, LAYOUT)
    assert found.max_magnitude[0, -1] == found.mean_magnitude[0, -1] == 5e-324
    assert found.kurtosis[0, 0] == pytest.approx(1)
    assert (found.zeros == 0).all()
    np.testing.assert_allclose(found.cosines, 1)


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_is_counted_and_makes_its_groups_nan(
    bad: float, dtype: torch.dtype
) -> None:
    grads = gradients(dtype).detach().clone()
    clean = gradient_statistics(grads, LAYOUT)
    bias = next(slot for slot in LAYOUT.slots if slot.name == "0.bias")
    grads[1, bias.slice.start : bias.slice.start + 2] = bad
    found = gradient_statistics(grads, LAYOUT)
    is_bad = np.zeros(found.norm.shape, dtype=bool)
    is_bad[1, [0, -1]] = True
    assert (found.not_finite == 2 * is_bad).all()
    for quantity in QUANTITIES[1:7]:
        number = getattr(found, quantity)
        assert np.isnan(number[is_bad]).all(), quantity
        np.testing.assert_array_equal(number[~is_bad], getattr(clean, quantity)[~is_bad])
    assert np.isnan(found.cosines[[0, -1], 1]).all()
    assert np.isfinite(found.cosines[[0, -1], 0, 2]).all()
    assert np.isnan(found.alignment).tolist() == [True, *[False] * 5, True]
    # The largest finite entry is still what zeros are near to, and matrices have no bad entry.
    np.testing.assert_array_equal(found.near_zeros[[0, 2]], clean.near_zeros[[0, 2]])
    np.testing.assert_array_equal(found.matrices.values, clean.matrices.values)
    assert np.isnan(found.ratios(0).values[:, 1, [0, -1]]).all()


@pytest.mark.usefixtures("path")
def test_a_row_of_nothing_but_nans_has_counts_alone() -> None:
    grads = torch.full((2, LAYOUT.size), NAN)
    found = gradient_statistics(grads, LAYOUT)
    np.testing.assert_array_equal(found.not_finite, found.count)
    assert np.isnan(found.values[1:7]).all()
    assert (found.zeros == 0).all()
    assert (found.near_zeros == 0).all()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_that_is_zero_is_zero_in_every_entry(dtype: torch.dtype) -> None:
    grads = torch.zeros(2, LAYOUT.size, dtype=dtype)
    grads[0] = 1
    grads[1, ::2] = -0.0
    found = gradient_statistics(grads, LAYOUT)
    np.testing.assert_array_equal(found.zeros[1], found.count[1])
    np.testing.assert_array_equal(found.near_zeros[1], found.count[1])
    assert (found.values[1:6, 1] == 0).all()
    assert np.isnan(found.kurtosis).all()
    assert np.isnan(found.cosines[:, 1]).all()
    assert (found.cosines[:, 0, 0] == 1).all()
    assert np.isinf(found.ratios(0).norm_ratio[1]).all()
    assert np.isnan(found.ratios(1).norm_ratio[1]).all()


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("value", [-0.1, 1 / 3, 1e-300, 7e300])
def test_equal_entries_have_no_spread_and_no_kurtosis(value: float) -> None:
    grads = torch.full((1, LAYOUT.size), value, dtype=torch.float64)
    found = gradient_statistics(grads, LAYOUT)
    assert (found.std == 0).all()
    assert np.isnan(found.kurtosis).all()
    np.testing.assert_allclose(found.std_magnitude, 0, atol=1e-7 * abs(value))
    np.testing.assert_allclose(found.norm, abs(value) * np.sqrt(found.count))


def test_near_zeros_are_near_beside_the_largest_entry_of_the_whole_network() -> None:
    grads = torch.ones(2, LAYOUT.size)
    grads[0, -1] = 2e6  # the last layer's one bias: nothing else is large
    found = gradient_statistics(grads, LAYOUT)
    assert found.near_zeros[0, -1] == LAYOUT.size - 1
    np.testing.assert_array_equal(found.matrices.near_zeros[0], found.matrices.count[0])
    assert (found.near_zeros[1] == 0).all()
    assert (found.zeros == 0).all()


def test_a_model_without_matrices_has_no_layers_of_them() -> None:
    layout = ParameterLayout.of(nn.LayerNorm(4))
    found = gradient_statistics(torch.randn(2, layout.size), layout)
    assert found.matrices.layers == ()
    assert found.matrices.values.shape == (10, 2, 0)
    assert found.matrices.ratios(0).values.shape == (4, 2, 0)
    assert found.matrices.alignment.shape == (0,)
    assert found.vectors.layers == found.layers == ("LayerNorm", "all")
    np.testing.assert_array_equal(found.vectors.values, found.values)


def test_a_layer_called_all_stays_apart_from_all() -> None:
    layout = ParameterLayout.of({"all": nn.Linear(1, 1), "other": nn.Linear(2, 1)})
    found = gradient_statistics(torch.randn(1, layout.size), layout)
    assert found.layers == ("all", "other", "all")
    assert found.count[0].tolist() == [2, 3, 5]


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("terms", [0, 1, 7])
def test_any_number_of_terms_will_do(terms: int) -> None:
    grads = torch.randn(terms, LAYOUT.size)
    found = gradient_statistics(grads, LAYOUT)
    assert found.values.shape == (10, terms, 7)
    assert found.cosines.shape == (7, terms, terms)
    assert found.alignment.shape == (7,)
    np.testing.assert_allclose(found.norm[:, -1], grads.norm(dim=1), rtol=1e-6)


@pytest.mark.usefixtures("path")
def test_any_memory_layout_of_the_matrix_will_do() -> None:
    grads = torch.randn(3, LAYOUT.size)
    wanted = gradient_statistics(grads, LAYOUT).values
    for same in (
        grads.T.contiguous().T,
        grads.repeat(1, 2)[:, : LAYOUT.size],
        torch.complex(grads, -grads).conj().imag,
    ):
        found = gradient_statistics(same, LAYOUT).values
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_gradients_that_do_not_fit_are_refused() -> None:
    with pytest.raises(LayoutError, match="columns"):
        gradient_statistics(torch.ones(2, LAYOUT.size - 1), LAYOUT)
    with pytest.raises(ArgumentError, match="one row a term"):
        gradient_statistics(torch.ones(LAYOUT.size), LAYOUT)
    with pytest.raises(ArgumentError, match="real numbers"):
        gradient_statistics(torch.ones(2, LAYOUT.size, dtype=torch.complex64), LAYOUT)


# An observer.


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_of_the_gradients_changes_and_nothing_is_drawn(dtype: torch.dtype) -> None:
    grads = gradients(dtype).detach().requires_grad_()
    copy, state = grads.detach().clone(), torch.get_rng_state()
    gradient_statistics(grads, LAYOUT).ratios(0)
    assert torch.equal(grads, copy)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_remembered_of_a_layout_does_not_keep_it() -> None:
    layout = ParameterLayout.of(nn.Linear(2, 3))
    gradient_statistics(torch.ones(1, layout.size), layout)
    assert layout in module._groups
    gone = weakref.ref(layout)
    del layout
    gc.collect()
    assert gone() is None


# The memory beyond the gradients, in MB, in a process of its own: the peak of this one may be
# anywhere.
MEASURE_MEMORY = """
import resource, sys, torch
from gradpath.diagnostics import ParameterLayout, gradient_statistics

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

unit = 1e6 if sys.platform == "darwin" else 1e3
torch.set_num_threads(1)
side, dtype = int(sys.argv[1]), getattr(torch, sys.argv[2])
layout = ParameterLayout.of(torch.empty(side, 10_000, dtype=dtype, requires_grad=True))
grads = torch.ones(2, layout.size, dtype=dtype)
small = ParameterLayout.of(torch.empty(300_000, dtype=dtype, requires_grad=True))
gradient_statistics(grads[:, : small.size], small)
before = peak()
found = gradient_statistics(grads, layout)
assert found.norm[0, 0] == layout.size ** 0.5
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("side", "dtype"),
    [
        (2_000, "float32"),
        (2_000, "bfloat16"),
        pytest.param(10_000, "float32", marks=pytest.mark.slow),
    ],
)
def test_no_copy_grows_with_the_gradients(side: int, dtype: str) -> None:
    """Of 20 and 100 million parameters: a vector of the former takes 40 MB in bfloat16."""
    pytest.importorskip("resource")
    command = [sys.executable, "-c", MEASURE_MEMORY, str(side), dtype]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(output) < 20, output


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("terms", [1, 2, 3])
def test_steps_side_by_side_are_as_each_by_itself(dtype: torch.dtype, terms: int) -> None:
    layout = ParameterLayout.of(nn.Sequential(nn.Linear(3, 70), nn.Tanh(), nn.Linear(70, 2)))
    numbers = torch.Generator().manual_seed(terms)
    rows = torch.randn(50, terms, layout.size, generator=numbers).to(dtype)
    rows[3, 0, :50] = 0.0
    rows[7, -1, 4] = torch.nan
    rows[11, 0] = 0.0
    if dtype == torch.float64:
        rows[13] *= 1e200  # whose fourth powers do not fit
    names = tuple("abc"[:terms])
    found = statistics_of_steps(rows, names, layout)
    weights = np.linspace(1.0, 2.0, 50)[:, None] * np.ones(terms)
    for step in range(50):
        alone = gradient_statistics(TermGradients.of(rows[step], names), layout)
        for many, one in ((found, alone), (found.matrices, alone.matrices)):
            np.testing.assert_array_equal(many.values[:, step], one.values)
            np.testing.assert_array_equal(many.cosines[step], one.cosines)
            np.testing.assert_array_equal(many.alignment[step], one.alignment)
            np.testing.assert_array_equal(
                many.cancellation(weights)[step], one.cancellation(weights[step])
            )
            np.testing.assert_array_equal(many.ratios("a").values[:, step], one.ratios("a").values)
