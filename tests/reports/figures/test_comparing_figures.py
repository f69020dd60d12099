"""Figures of several runs: what is drawn is what was recorded."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from gradpath import Run
from gradpath.diagnostics.errors import ArgumentError
from gradpath.reports.comparison import Comparison, compare_runs
from gradpath.reports.figures import (
    NotMeasuredError,
    Plate,
    compared,
    error_against_sharpness,
    histogram_grid,
    scaling,
    stiffness_grid,
)
from gradpath.reports.theme import svg
from tests.reports.sweep_runs import write_member, x_of, y_of

COMPLEXITIES = (1, 2, 4)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Errors grow as the square of the complexity, eigenvalues as its fourth power."""
    folder = tmp_path_factory.mktemp("grid")
    for model, factor in (("M1", 1.0), ("M4", 0.1)):
        for a2 in COMPLEXITIES:
            for seed in (0, 1):
                write_member(
                    folder / f"{model}_{a2}_{seed}", model=model, complexity=a2, seed=seed,
                    error=factor * 0.01 * a2**2 * (1 + seed),
                    sharpness={"residual": 9.0 * a2**4, "boundary": 2.0, "total": 10.0 * a2**4},
                    failed="it broke" if (model, a2, seed) == ("M4", 4, 1) else None,
                )  # fmt: skip
    return compare_runs(folder)


def dots(axes: Axes) -> list[tuple[float, float]]:
    """All single marks of a panel."""
    return [
        (float(x), float(y))
        for line in axes.lines
        if line.get_marker() not in ("", "None") and line.get_linestyle() == "None"
        for x, y in zip(x_of(line), y_of(line), strict=True)
    ]


def test_a_dot_plot_has_a_dot_for_each_run_that_counts(comparison: Comparison) -> None:
    plate = compared(comparison, "error")
    assert [axes.get_title(loc="left") for axes in plate.axes] == [
        f"a2 = {a2}" for a2 in COMPLEXITIES
    ]
    for axes, a2 in zip(plate.axes, COMPLEXITIES, strict=True):
        expected = [
            *((0, value) for value in comparison.numbers("error", "M1", a2).values()),
            *((1, value) for value in comparison.numbers("error", "M4", a2).values()),
        ]
        assert sorted((round(y), x) for x, y in dots(axes)) == sorted(expected)
        low, high = axes.get_xlim()
        assert all(low < value < high for _, value in expected)
    assert [each.get_text() for each in plate.axes[0].get_yticklabels()] == ["M1", "M4"]
    assert "M4 0.016 (1 of 2 runs)" in plate.caption


def test_a_dot_plot_marks_median_and_quartiles(comparison: Comparison) -> None:
    axes = compared(comparison, "error").axes[0]
    bars = [line for line in axes.lines if line.get_linewidth() == 7]
    spread = comparison.spread("error", "M1", 1)
    assert list(x_of(bars[0])) == [spread.lower, spread.upper]
    middles = [float(x_of(line)[0]) for line in axes.lines if line.get_linewidth() == 1.4]
    assert middles == [spread.median, comparison.spread("error", "M4", 1).median]


def test_scaling_finds_the_powers_that_were_written(comparison: Comparison) -> None:
    plate = scaling(comparison, "sharpness")
    assert "M1 goes like a2^4.00 (95 % interval 4.00 to 4.00, 6 runs)" in plate.caption
    axes = plate.axes[0]
    assert sorted(set(dots(axes))) == [(float(a2), 10.0 * a2**4) for a2 in COMPLEXITIES]
    assert (axes.get_xlabel(), axes.get_xscale(), axes.get_yscale()) == ("a2", "log", "log")
    assert "a2^2" in scaling(comparison, "error").caption


def test_the_papers_bound_is_drawn_for_poisson_alone(tmp_path: Path) -> None:
    for C in (1, 2, 4):
        write_member(
            tmp_path / str(C), complexity=C, complexity_parameter="C", problem="poisson",
            gradient=3.0 * C**3,
        )  # fmt: skip
    plate = scaling(compare_runs(tmp_path), "reference_gradient")
    (bound,) = [line for line in plate.axes[0].lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(y_of(bound), [3.0, 3.0 * 2**4, 3.0 * 4**4])
    assert "C^3.00" in plate.caption
    assert "bound" in plate.caption
    other = compare_runs([tmp_path / "1", tmp_path / "2"])
    assert "too few for a fit" in scaling(other, "imbalance").caption


def test_nothing_grows_along_one_value(comparison: Comparison) -> None:
    one = compare_runs([Path(member.path) for member in comparison.members[:2]])
    with pytest.raises(NotMeasuredError, match="fewer than two values of a2"):
        scaling(one)
    with pytest.raises(ArgumentError, match=r"no quantity 'speed': choose one of error"):
        compared(comparison, "speed")


def test_error_and_sharpness_of_every_run_are_one_mark(comparison: Comparison) -> None:
    plate = error_against_sharpness(comparison)
    expected = [
        (member.numbers["sharpness"], member.numbers["error"])
        for member in comparison.members
        if member.counts
    ]
    assert sorted(dots(plate.axes[0])) == sorted(expected)
    assert "over 11 runs of 6 groups" in plate.caption


def test_without_errors_there_is_nothing_to_hold_against_sharpness(tmp_path: Path) -> None:
    write_member(tmp_path / "a", error=None)
    found = compare_runs(tmp_path)
    with pytest.raises(NotMeasuredError, match="both an error and"):
        error_against_sharpness(found)
    with pytest.raises(NotMeasuredError, match="relative L2 error recorded"):
        compared(found, "error")


def test_a_grid_has_a_panel_for_each_place_and_the_terms_in_it(comparison: Comparison) -> None:
    for plate in (stiffness_grid(comparison), histogram_grid(comparison)):
        assert [axes.get_title(loc="left") for axes in plate.axes] == [
            f"{model}, a2 = {a2}" for model in ("M1", "M4") for a2 in COMPLEXITIES
        ]
    panel = stiffness_grid(comparison).axes[2]
    drawn = {tuple(y_of(line)) for line in panel.lines}
    assert drawn == {
        (1152.0, 2304.0, 2304.0),  # residual
        (1.0, 2.0, 2.0),  # boundary
        (1280.0, 2560.0, 2560.0),  # total
    }


def test_histograms_of_a_grid_hold_all_entries(comparison: Comparison) -> None:
    plate = histogram_grid(comparison)
    for line in plate.axes[0].lines:
        # Shares per decade, of five bins a decade.
        assert sum(y_of(line)) / 5 == pytest.approx(1.0)
    ratios = re.findall(r"residual is (\d+) times that of boundary", plate.caption)
    # Medians are known to a bin, 1/16 wide.
    assert [float(each) for each in ratios] == pytest.approx(6 * [1000], rel=0.1)
    weighted = histogram_grid(comparison, weighted=True).caption
    assert "weighted gradient" in weighted


def test_a_grid_of_one_run_and_one_that_measured_nothing(tmp_path: Path) -> None:
    one = Run(write_member(tmp_path / "one"))
    assert len(stiffness_grid([one]).axes) == 1
    bare = Run(write_member(tmp_path / "bare", model="M2", sharpness={}))
    both = stiffness_grid([one, bare])
    assert [text.get_text() for text in both.axes[1].texts] == ["not measured"]
    with pytest.raises(NotMeasuredError, match="instrument Stiffness"):
        stiffness_grid([bare])
    with pytest.raises(NotMeasuredError, match="histograms of gradients of no layer"):
        histogram_grid([one], layer="no layer")
    with pytest.raises(ArgumentError, match="No run was given"):
        histogram_grid([])


def test_any_name_can_be_drawn(tmp_path: Path) -> None:
    hostile = ("$x^2$ <b>", "_hidden", "a\u202eb\ud800", "x" * 3000)
    for place, model in enumerate(hostile):
        write_member(tmp_path / str(place), model=model, complexity=place + 1, error=float("nan")
                     if place == 1 else 0.1)  # fmt: skip
    found = compare_runs(tmp_path)
    plates: list[Plate] = [
        compared(found, "imbalance", dark=True),
        error_against_sharpness(found, dark=True),
        stiffness_grid(found, dark=True),
        histogram_grid(found, dark=True),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for plate in plates:
            text = svg(plate).decode()
            assert "nan" not in text
            assert plate.caption.endswith(".")
            assert max(map(len, plate.caption.split())) < 200
