"""Gradients compared: magnitudes against explicit loops and scipy, directions against geometry."""

from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradpath.diagnostics import reductions
from gradpath.diagnostics.errors import ArgumentError, LayoutError
from gradpath.diagnostics.gradients import TermGradients
from gradpath.diagnostics.imbalance import (
    ConflictingPair,
    Imbalance,
    alignment,
    cancellation,
    conflict,
    cosine_matrix,
    imbalance,
)
from gradpath.diagnostics.layout import ParameterLayout

# The function of that name may hide the module on the package.
module = import_module("gradpath.diagnostics.imbalance")

TERMS = ("residual", "boundary", "initial")
QUANTITIES = ("max_to_mean", "norm_ratio", "std_ratio", "kurtosis_ratio", "distance")


def network(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(n, m) for n, m in pairwise(widths)))


LAYOUT = ParameterLayout.of(network(2, 50, 50, 50, 1))
SMALL = ParameterLayout.of(network(2, 3, 1))  # layers "0" (columns 0 to 8) and "1" (9 to 12)


def gradients(layout: ParameterLayout = LAYOUT, dtype: torch.dtype = torch.float64) -> Tensor:
    """Three terms of unlike scale and shape, some entries exactly zero."""
    values = torch.randn(3, layout.size, dtype=torch.float64)
    values[1] = 1e-2 * values[1] ** 3
    values[2, ::3] = 0
    return TermGradients.of(values.to(dtype), TERMS)


def expected(reference: np.ndarray, term: np.ndarray) -> dict[str, float]:
    decades = [np.log10(np.abs(g[g != 0])) for g in (reference, term)]
    return {
        "max_to_mean": np.abs(reference).max() / np.abs(term).mean(),
        "norm_ratio": np.linalg.norm(reference) / np.linalg.norm(term),
        "std_ratio": reference.std() / term.std(),
        "kurtosis_ratio": stats.kurtosis(reference, fisher=False)
        / stats.kurtosis(term, fisher=False),
        "distance": stats.wasserstein_distance(*decades),
    }


def columns(layout: ParameterLayout, matrices_only: bool) -> Iterator[tuple[str, list[int]]]:
    """The columns of each layer and of all, one by one."""
    everything: list[int] = []
    for layer in layout.layers:
        chosen = [
            column
            for slot in layout.slots
            if slot.layer == layer and (slot.is_matrix or not matrices_only)
            for column in range(slot.slice.start, slot.slice.stop)
        ]
        everything += chosen
        yield layer, chosen
    yield "all", everything


@pytest.mark.parametrize("matrices_only", [False, True])
@pytest.mark.parametrize("block", [7, 1 << 18])
def test_every_ratio_is_that_of_an_explicit_loop(
    matrices_only: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reductions, "BLOCK", block)
    layout = SMALL if block == 7 else LAYOUT
    grads = gradients(layout)
    found = imbalance(grads, layout, matrices_only=matrices_only)
    assert found.terms == TERMS
    assert found.layers == (*layout.layers, "all")
    rows = grads.numpy()
    for column, (_, entries) in enumerate(columns(layout, matrices_only)):
        for row in range(3):
            for quantity, value in expected(rows[0, entries], rows[row, entries]).items():
                assert getattr(found, quantity)[row, column].item() == pytest.approx(
                    value, rel=1e-12
                )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_floats_are_compared_in_double_precision(dtype: torch.dtype) -> None:
    grads = gradients(SMALL, dtype)
    exact = TermGradients.of(grads.detach().double(), TERMS)
    short, double = imbalance(grads, SMALL), imbalance(exact, SMALL)
    for quantity in QUANTITIES:
        assert torch.equal(getattr(short, quantity), getattr(double, quantity))


def test_a_factor_between_two_gradients_shifts_magnitudes_and_nothing_else() -> None:
    g = torch.randn(LAYOUT.size, dtype=torch.float64)
    found = imbalance(torch.stack([1000 * g, g]), LAYOUT, reference=0)
    torch.testing.assert_close(found.norm_ratio[1], torch.full((5,), 1000.0).double())
    torch.testing.assert_close(found.std_ratio[1], torch.full((5,), 1000.0).double())
    torch.testing.assert_close(found.kurtosis_ratio[1], torch.ones(5).double())
    torch.testing.assert_close(found.distance[1], torch.full((5,), 3.0).double())


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_float32_gradients_of_any_scale_neither_underflow_nor_overflow(scale: float) -> None:
    g = torch.randn(2, SMALL.size)
    base, scaled = imbalance(g, SMALL, 0), imbalance(g * scale, SMALL, 0)
    for quantity in QUANTITIES:
        torch.testing.assert_close(getattr(scaled, quantity), getattr(base, quantity), rtol=1e-6,
                                   atol=1e-6)  # fmt: skip
    torch.testing.assert_close(cosine_matrix(g * scale), cosine_matrix(g))
    assert alignment(g * scale) == pytest.approx(alignment(g), abs=1e-6)
    assert cancellation(g * scale, [1.0, 2.0]) == pytest.approx(cancellation(g, [1.0, 2.0]))


def test_a_term_without_gradient_in_a_layer_is_infinitely_weaker_there() -> None:
    grads = torch.randn(3, SMALL.size)
    grads[1, SMALL.slices["1"]] = 0
    grads[2] = 0
    found = imbalance(grads, SMALL, reference=0)
    for ratio in (found.max_to_mean, found.norm_ratio, found.std_ratio):
        assert ratio[1].isinf().tolist() == [False, True, False]
        assert ratio[2].isinf().all()
    assert found.kurtosis_ratio[2].isnan().all()
    assert found.distance[2].isnan().all()
    # Where the reference has none either there is nothing to compare; where it alone has none the
    # ratio is measured, and zero.
    silent = imbalance(grads, SMALL, reference=2)
    assert silent.norm_ratio[2].isnan().all()
    assert silent.norm_ratio[1].nan_to_num(nan=-1.0).tolist() == [0, -1, 0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_gradients_that_are_not_finite_make_what_they_enter_nan(bad: float) -> None:
    grads = torch.randn(3, SMALL.size)
    grads[1, SMALL.slices["1"].start] = bad
    found = imbalance(grads, SMALL, reference=0)
    for quantity in QUANTITIES:
        assert getattr(found, quantity).isnan().tolist() == [
            [False] * 3, [False, True, True], [False] * 3
        ]  # fmt: skip
    assert imbalance(grads, SMALL, reference=1).norm_ratio[:, 1:].isnan().all()
    assert cosine_matrix(grads).isnan().sum() == 5
    assert np.isnan(alignment(grads))
    assert np.isnan(cancellation(grads, [1.0, 1.0, 1.0]))


def test_equal_entries_have_no_kurtosis_and_no_spread() -> None:
    grads = torch.stack([torch.full((LAYOUT.size,), -0.1), torch.randn(LAYOUT.size)])
    found = imbalance(grads, LAYOUT, reference=1)
    assert found.std_ratio[0].isinf().all()
    assert found.kurtosis_ratio[0].isnan().all()


def test_more_entries_than_are_sorted_are_thinned_out(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = gradients()
    exact = imbalance(grads, LAYOUT).distance
    monkeypatch.setattr(module, "_MOST_SORTED", 1000)
    before = torch.get_rng_state()
    thinned = imbalance(grads, LAYOUT).distance
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(thinned, imbalance(grads, LAYOUT).distance)
    torch.testing.assert_close(thinned, exact, rtol=0.1, atol=0.1)
    assert not torch.equal(thinned, exact)


def test_the_table_has_one_row_a_number() -> None:
    found = imbalance(gradients(SMALL), SMALL)
    frame = found.to_frame()
    assert list(frame.columns) == ["term", "layer", "quantity", "value"]
    assert len(frame) == 3 * 3 * 5
    table = frame.set_index(["quantity", "term", "layer"])["value"]
    for quantity in QUANTITIES:
        for row, term in enumerate(TERMS):
            for column, layer in enumerate(("0", "1", "all")):
                assert table[quantity, term, layer] == getattr(found, quantity)[row, column]


def test_a_layer_without_weight_matrix_is_left_out_on_request() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
    layout = ParameterLayout.of(model)
    grads = torch.randn(2, layout.size)
    assert imbalance(grads, layout, 0).layers == ("0", "1", "2", "all")
    assert imbalance(grads, layout, 0, matrices_only=True).layers == ("0", "2", "all")


def test_what_cannot_be_compared_is_refused_with_the_mend() -> None:
    named = gradients(SMALL)
    plain = named.detach()
    with pytest.raises(ArgumentError, match=r"no term 'pde'.*'residual', 'boundary', 'initial'"):
        imbalance(named, SMALL, "pde")
    with pytest.raises(ArgumentError, match=r"number of its row, or TermGradients\.of"):
        imbalance(plain, SMALL)
    with pytest.raises(ArgumentError, match="rows 0 to 2"):
        imbalance(plain, SMALL, 3)
    with pytest.raises(LayoutError, match="13 columns were given to a layout of 5301"):
        imbalance(named, LAYOUT)
    with pytest.raises(ArgumentError, match="matrices_only=False"):
        imbalance(torch.randn(2, 6), ParameterLayout.of(nn.LayerNorm(3)), 0, matrices_only=True)
    with pytest.raises(ArgumentError, match="one row a term"):
        cosine_matrix(torch.randn(5))
    with pytest.raises(ArgumentError, match="one number a term"):
        cancellation(plain, [1.0, 2.0])


def test_nothing_of_the_gradients_changes_and_nothing_is_drawn() -> None:
    grads = gradients(SMALL).requires_grad_()
    copy, state = grads.detach().clone(), torch.get_rng_state()
    found: list[Any] = [
        imbalance(TermGradients.of(grads, TERMS), SMALL),
        cosine_matrix(grads, SMALL),
        alignment(grads, SMALL),
        conflict(grads, SMALL),
        cancellation(grads, [1.0, 1.0, 1.0]),
    ]
    assert isinstance(found[0], Imbalance)
    assert not found[1].requires_grad
    assert torch.equal(grads, copy)
    assert torch.equal(state, torch.get_rng_state())


# Directions


def test_cosines_are_those_of_numpy_overall_and_in_each_layer() -> None:
    grads = gradients()
    rows = grads.numpy()

    def cosines(part: np.ndarray) -> np.ndarray:
        units = part / np.linalg.norm(part, axis=1, keepdims=True)
        return np.asarray(units @ units.T)

    np.testing.assert_allclose(cosine_matrix(grads), cosines(rows), atol=1e-14)
    by_layer = cosine_matrix(grads, LAYOUT)
    assert by_layer.shape == (4, 3, 3)
    for found, part in zip(by_layer, LAYOUT.slices.values(), strict=True):
        np.testing.assert_allclose(found, cosines(rows[:, part]), atol=1e-14)


def test_no_cosine_lies_beyond_one() -> None:
    g = torch.randn(40, 1, 7, dtype=torch.float64)
    for line in g:
        cosines = cosine_matrix(line * torch.tensor([[1.0], [3.0], [-0.7]], dtype=torch.float64))
        assert cosines.abs().max() <= 1
        torch.testing.assert_close(cosines.abs(), torch.ones(3, 3).double())


def test_cosines_with_a_gradient_that_is_zero_are_missing() -> None:
    cosines = cosine_matrix(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    assert cosines.isnan().tolist() == [[False, True, False], [True] * 3, [False, True, False]]


@pytest.mark.parametrize(
    ("dtype", "result"),
    [(torch.float16, torch.float32), (torch.float32, torch.float32),
     (torch.float64, torch.float64)],
)  # fmt: skip
def test_cosines_have_the_dtype_of_the_gradients(dtype: torch.dtype, result: torch.dtype) -> None:
    assert cosine_matrix(torch.randn(2, 5).to(dtype)).dtype == result


VECTORS = st.integers(0, 2**32 - 1).map(
    lambda seed: torch.randn(
        int(seed % 4) + 2, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
)


@given(VECTORS, st.lists(st.floats(1e-250, 1e250), min_size=5, max_size=5))
def test_directions_do_not_depend_on_lengths(grads: Tensor, factors: list[float]) -> None:
    scaled = grads * torch.tensor(factors[: len(grads)], dtype=torch.float64)[:, None]
    torch.testing.assert_close(cosine_matrix(scaled), cosine_matrix(grads), rtol=0, atol=1e-13)
    assert alignment(scaled) == pytest.approx(alignment(grads), abs=1e-13)


@given(VECTORS, st.randoms(use_true_random=False))
def test_the_order_of_terms_and_parameters_does_not_matter(grads: Tensor, random: Any) -> None:
    rows, order = list(range(len(grads))), list(range(7))
    random.shuffle(rows)
    random.shuffle(order)
    mixed = grads[rows][:, order]
    assert alignment(mixed) == pytest.approx(alignment(grads), abs=1e-13)
    torch.testing.assert_close(cosine_matrix(mixed), cosine_matrix(grads)[rows][:, rows])
    weights = [float(row + 1) for row in range(len(grads))]
    assert cancellation(mixed, [weights[row] for row in rows]) == pytest.approx(
        cancellation(grads, weights)
    )


@given(VECTORS)
def test_the_alignment_score_is_its_formula_and_in_its_bounds(grads: Tensor) -> None:
    units = grads / grads.norm(dim=1, keepdim=True)
    score = alignment(grads)
    assert score == pytest.approx(2 * units.mean(0).square().sum().item() - 1, abs=1e-13)
    assert -1 <= score <= 1
    assert alignment(grads[:2]) == pytest.approx(cosine_matrix(grads)[0, 1].item(), abs=1e-13)


def test_alignment_at_its_ends_and_at_right_angles() -> None:
    g = torch.randn(9, dtype=torch.float64)
    assert alignment(torch.stack([g, 3 * g, 1e-9 * g])) == pytest.approx(1)
    assert alignment(torch.stack([g, -5 * g])) == pytest.approx(-1)
    star = torch.tensor([[1.0, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]], dtype=torch.float64)
    assert alignment(star) == pytest.approx(-1)
    assert alignment(torch.eye(5)) == pytest.approx(2 / 5 - 1)
    assert alignment(g[None]) == pytest.approx(1)
    by_layer = alignment(torch.stack([torch.arange(13.0), torch.arange(13.0) - 9]), SMALL)
    assert by_layer[0] < 0 < by_layer[1]


def test_pairs_that_pull_against_each_other_are_named_most_opposed_first() -> None:
    grads = torch.zeros(3, SMALL.size)
    grads[:, 0] = torch.tensor([1.0, 2.0, -1.0])  # layer "0"
    grads[:, 9] = torch.tensor([1.0, -1.0, -1.0])  # layer "1"
    named = TermGradients.of(grads, TERMS)
    overall = {(pair.first, pair.second) for pair in conflict(named)}
    assert overall == {("residual", "initial"), ("boundary", "initial")}
    pairs = conflict(named, SMALL)
    assert pairs[0].cosine == pytest.approx(-1)
    assert [pair.cosine for pair in pairs] == sorted(pair.cosine for pair in pairs)
    # These two agree as a whole and oppose each other in one layer.
    assert ConflictingPair("1", "residual", "boundary", -1.0) in pairs
    assert {pair.layer for pair in pairs} == {"0", "1", "all"}


def test_cancellation_is_its_formula() -> None:
    grads, weights = torch.randn(3, 20, dtype=torch.float64), torch.tensor([1.0, -2.0, 100.0])
    weighted = weights[:, None].double() * grads
    expected = weighted.sum(0).norm() / weighted.norm(dim=1).sum()
    assert cancellation(grads, weights) == pytest.approx(expected.item())
    assert cancellation(torch.stack([grads[0], -grads[0]]), [1.0, 1.0]) == 0
    assert cancellation(grads[:1], [7.0]) == pytest.approx(1)
    assert cancellation(grads, 1e200 * weights.double()) == pytest.approx(expected.item())
    assert np.isnan(cancellation(torch.zeros(2, 3), [1.0, 1.0]))
    for order in permutations(range(3)):
        assert cancellation(grads[list(order)], weights[list(order)]) == pytest.approx(
            expected.item()
        )


class LargestDouble(TorchDispatchMode):
    """Remembers the largest float64 tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float64:
            self.entries = max(self.entries, result.numel())
        return result


def test_no_double_precision_copy_of_all_parameters_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reductions, "BLOCK", 1000)
    monkeypatch.setattr(module, "_MOST_SORTED", 1000)
    layout = ParameterLayout.of(nn.Linear(100, 100))
    grads = torch.randn(2, layout.size)
    with LargestDouble() as seen:
        imbalance(grads, layout, 0)
        cosine_matrix(grads)
        alignment(grads, layout)
        cancellation(grads, [1.0, 1.0])
    assert 0 < seen.entries <= 2 * 1000
