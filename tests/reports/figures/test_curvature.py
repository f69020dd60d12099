"""Eigenvalues over time: values, intervals and limits are those of the run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray

from gradpath import Run
from gradpath.diagnostics.lanczos import Eigenvalue
from gradpath.probes import EigenvalueRecord, RunWriter
from gradpath.reports.figures import NotMeasuredError, stiffness
from gradpath.reports.theme import term_lines, theme
from tests.reports.figures.written_runs import FACTOR, RATE, largest, write
from tests.reports.sweep_runs import outline_of, x_of, y_of

RunOf = Callable[[str], Run]
STEPS = range(0, 200, 20)


def line_of(axes: Axes, colour: str) -> NDArray[np.float64]:
    """The values of the first line of a colour."""
    return y_of(next(line for line in axes.lines if line.get_color() == colour))


def constant_lines(axes: Axes) -> set[float]:
    drawn = [y_of(line) for line in axes.lines]
    return {float(values[0]) for values in drawn if len(values) > 2 and np.ptp(values) == 0}


def test_lines_are_the_values_of_the_run(run_of: RunOf) -> None:
    run = run_of("plain")
    plate = stiffness(run)
    with theme():
        styles = term_lines(run.terms)
    first, second = (np.array([largest(step, term) for step in STEPS]) for term in (0, 1))
    expected = {"residual": first, "boundary": second, "total": 3 * first}
    for term, values in expected.items():
        upper, lower = (line_of(axes, styles[term]["color"]) for axes in plate.axes[:2])
        np.testing.assert_allclose(upper, values)
        np.testing.assert_allclose(lower, -values)
    preconditioned = line_of(plate.axes[2], styles["total"]["color"])
    np.testing.assert_allclose(preconditioned, 300 * first)


def test_limits_are_two_over_the_learning_rate_and_that_of_adam(run_of: RunOf) -> None:
    plate = stiffness(run_of("plain"))
    assert constant_lines(plate.axes[0]) == {2 / RATE}
    assert constant_lines(plate.axes[1]) <= {0.0}
    assert constant_lines(plate.axes[2]) == {FACTOR / RATE}
    labels = [text.get_text() for text in plate.legends[0].get_texts()]
    assert "limit of stability: 2/η, preconditioned 38/η" in labels


def test_bands_are_the_intervals(run_of: RunOf) -> None:
    plate = stiffness(run_of("plain"), terms=["residual"])
    low, high = plate.axes[0].get_ylim()
    path = outline_of(plate.axes[0].collections[0])
    middle = path[path[:, 0] == 100][:, 1]
    assert middle.min() == pytest.approx(np.clip(0.7 * largest(100, 0), low, high))
    assert middle.max() == pytest.approx(np.clip(1.2 * largest(100, 0), low, high))


def test_what_has_not_converged_is_hollow_and_counted(run_of: RunOf) -> None:
    plate = stiffness(run_of("plain"))
    hollow = [
        line for line in plate.axes[0].lines
        if line.get_marker() == "o" and line.get_markerfacecolor() != line.get_color()
    ]  # fmt: skip
    assert [len(x_of(line)) for line in hollow] == [10]  # all of the boundary's
    assert "20 of 60 values had not converged" in plate.caption


def test_the_caption_compares_with_the_limits(run_of: RunOf) -> None:
    caption = stiffness(run_of("plain")).caption
    assert "goes from 3 at step 0 to 543 at step 180" in caption
    assert "above the limit of gradient descent, 2/η, at 0 of 10 measurements" in caption
    ratio = 300 * largest(180, 0) / (FACTOR / RATE)
    assert f"at 3 of 10 measurements, and {ratio:.3g} times it at most" in caption


def test_several_runs_are_shown_by_what_they_differ_in(tmp_path: Path) -> None:
    several = [
        write(tmp_path / str(number), steps=(0, 10), metadata={"model": name, "seed": 0})
        for number, name in enumerate(("M1", "M3"))
    ]
    plate = stiffness(several)
    labels = [text.get_text() for text in plate.legends[0].get_texts()]
    assert labels[:2] == ["M1", "M3"]
    assert "The largest of M3 goes from 3 at step 0 to 33 at step 10" in plate.caption
    named = stiffness({"a": several[0], "b": several[1]}, terms=["residual", "total"])
    labels = [text.get_text() for text in named.legends[0].get_texts()]
    assert labels[:4] == ["a, residual", "a, total", "b, residual", "b, total"]


def test_runs_without_eigenvalues_are_named(tmp_path: Path, run_of: RunOf) -> None:
    empty = write(tmp_path / "run", terms=(), steps=())
    plate = stiffness({"known": run_of("plain"), "unknown": empty})
    assert "Without eigenvalues: unknown." in plate.caption
    with pytest.raises(NotMeasuredError, match="Stiffness"):
        stiffness(empty)
    with pytest.raises(ValueError, match="at least one"):
        stiffness([])


def test_every_value_is_within_its_panel_whenever_it_was_measured(tmp_path: Path) -> None:
    def found(value: float) -> Eigenvalue:
        return Eigenvalue(value, value, value, 0.0, True, "Said.", 9)

    smallest = {"residual": -3.0, "boundary": -0.8, "total": -2.9}
    with RunWriter(tmp_path / "run") as writer:
        first = [
            EigenvalueRecord(found(sign * value), end, term)
            for term, value in smallest.items()
            for end, sign in (("largest", -1), ("smallest", 1))
        ]
        writer.record(0, first)
        name = "preconditioned_hessian"
        writer.record(274, [EigenvalueRecord(found(200.0), "largest", "total", name=name)])
    plate = stiffness(Run(tmp_path / "run"))
    drawn = [[*smallest.values()], [200.0]]
    for axes, values in zip(plate.axes[1:], drawn, strict=True):
        low, high = axes.get_ylim()
        assert low < min(values) <= max(values) < high
        assert axes.get_xlim()[0] < 0 < 274 < axes.get_xlim()[1]
