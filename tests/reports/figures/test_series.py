"""Numbers over the steps are drawn as they were recorded, and read in the captions."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from gradpath import Run
from gradpath.probes import RunWriter, Scalar
from gradpath.reports.figures import (
    alignment,
    imbalance,
    losses,
    predicted_change,
    probing_cost,
    sorted_spectrum,
    spectral_density,
    update_sizes,
    weights,
)
from gradpath.reports.figures.drawing import layer_labels, thinned, tick
from gradpath.reports.figures.measured import Series
from tests.reports.figures.written_runs import loss, weight
from tests.reports.sweep_runs import outline_of, x_of, y_of

RunOf = Callable[[str], Run]
STEPS = np.arange(0.0, 200, 20)


def test_losses_are_those_of_the_run(run_of: RunOf) -> None:
    plate = losses(run_of("plain"))
    for number, line in enumerate(plate.axes[0].lines):
        np.testing.assert_allclose(x_of(line), STEPS)
        np.testing.assert_allclose(y_of(line), [loss(step, number) for step in STEPS])
    assert "residual goes from 1 at step 0 to 0.357 at step 180" in plate.caption
    assert plate.axes[0].get_yscale() == "log"


def test_a_series_breaks_where_it_is_not_finite(run_of: RunOf) -> None:
    values = y_of(losses(run_of("broken")).axes[0].lines[0])
    assert np.isfinite(values).tolist() == [True] * 5 + [False] * 5


def test_what_scatters_is_drawn_by_medians_and_ranges(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        for step in range(1200):  # ten records a stretch: 1, 2, ..., 10
            writer.record(step, [Scalar("loss", 1.0 + step % 10, "residual")])
    plate = losses(Run(tmp_path / "run"))
    (line,) = plate.axes[0].lines
    assert y_of(line)[[0, -1]].tolist() == [1.0, 10.0]
    np.testing.assert_allclose(y_of(line)[2:-2], 5.5, atol=1)
    band = outline_of(plate.axes[0].collections[0])[:, 1]
    assert (band.min(), band.max()) == (1.0, 10.0)
    assert "Lines are medians over 120 equal stretches" in plate.caption
    assert "residual goes from 1 at step 0 to 10 at step 1,199" in plate.caption


def test_weights_are_those_of_the_run(run_of: RunOf) -> None:
    plate = weights(run_of("plain"))
    boundary = plate.axes[0].lines[1]
    np.testing.assert_allclose(y_of(boundary), [weight(step, 1) for step in STEPS])
    assert "boundary goes from 1 at step 0 to 4.6 at step 180" in plate.caption
    assert "residual: 1 all the time" in plate.caption


def test_imbalance_is_the_ratio_of_the_whole_and_the_range_of_layers(run_of: RunOf) -> None:
    plate = imbalance(run_of("plain"))
    np.testing.assert_allclose(y_of(plate.axes[0].lines[0]), 90)
    band = outline_of(plate.axes[0].collections[0])[:, 1]
    assert (band.min(), band.max()) == pytest.approx((30, 90))
    assert plate.title.startswith("How much harder residual pulls")
    assert "is 90 times the mean entry of boundary" in plate.caption


def test_update_sizes_are_relative_to_the_parameters(run_of: RunOf) -> None:
    plate = update_sizes(run_of("plain"))
    np.testing.assert_allclose(y_of(plate.axes[0].lines[0]), 0.5e-3 / (1 + STEPS))
    np.testing.assert_allclose(y_of(plate.axes[1].lines[0]), 0.005 * STEPS)


def test_alignment_has_the_network_on_top_then_the_layers(run_of: RunOf) -> None:
    plate = alignment(run_of("plain"))
    cells = np.asarray(plate.axes[0].collections[0].get_array())
    expected = [[math.sin(step / 100 + place) for step in STEPS] for place in (2, 0, 1)]
    np.testing.assert_allclose(cells, expected, rtol=1e-6)
    labels = [label.get_text() for label in plate.axes[0].get_yticklabels()]
    assert labels == ["all layers", "layer 0", "layer 2"]
    below = sum(math.sin(step / 100 + 2) < 0 for step in STEPS)
    assert f"below zero at {below} of 10 measurements" in plate.caption


def test_alignment_of_a_pair_is_its_cosine_either_way_round(run_of: RunOf) -> None:
    for pair in (("residual", "boundary"), ("boundary", "residual")):
        cells = np.asarray(alignment(run_of("plain"), pair).axes[0].collections[0].get_array())
        np.testing.assert_allclose(cells[0], np.cos(STEPS / 50), rtol=1e-6)
    with pytest.raises(ValueError, match="no cosine"):
        alignment(run_of("plain"), ("residual", "data"))


def test_predictions_stand_over_what_happened(run_of: RunOf) -> None:
    plate = predicted_change(run_of("plain"))
    first, second = plate.axes[0].lines[:2]
    actual = [-loss(step, 0) / 50 for step in STEPS]
    np.testing.assert_allclose(x_of(second), actual)
    np.testing.assert_allclose(y_of(second), 1.01 * np.array(actual))
    np.testing.assert_allclose(y_of(first), 1.5 * np.array(actual))
    assert "off by 1 % of the actual change at the median step, without it by 50 %" in plate.caption
    line = plate.axes[0].lines[2]
    np.testing.assert_array_equal(x_of(line), y_of(line))


def test_cost_is_the_sum_by_instrument(run_of: RunOf) -> None:
    plate = probing_cost(run_of("plain"))
    widths = [bar.get_width() for bar in plate.axes[0].patches if isinstance(bar, Rectangle)]
    assert widths == pytest.approx([2.0, 0.1])
    assert "took 2.1 s" in plate.caption


def test_a_sorted_spectrum_has_every_eigenvalue(run_of: RunOf) -> None:
    plate = sorted_spectrum(run_of("plain"), terms=["residual"])
    line = plate.axes[0].lines[0]
    expected = np.sort(np.random.default_rng(0).normal(size=(2, 20)).ravel())
    assert len(expected) == 40  # the generator has drawn so many before
    rng = np.random.default_rng(0)
    rng.normal(size=(2, 20))
    np.testing.assert_allclose(y_of(line), np.sort(rng.standard_normal(50)))
    np.testing.assert_array_equal(x_of(line), np.arange(1, 51))
    assert f"{int((y_of(line) < 0).sum())} of 50 below zero" in plate.caption


def test_the_area_below_a_spectral_density_is_one(run_of: RunOf) -> None:
    plate = spectral_density(run_of("plain"))
    axes = plate.axes[0]
    decades = axes.xaxis.get_transform()
    for line in axes.lines:
        places = decades.transform(x_of(line))
        lengths = places / places[-1] * (len(places) - 1) / 16 / 2  # 16 points a decade
        area = np.trapezoid(y_of(line), lengths - lengths[0])
        assert area == pytest.approx(1, abs=0.15)
    assert "2 random vectors" in plate.caption


def test_thinning_keeps_the_ends_the_peaks_and_the_gaps() -> None:
    steps = np.arange(40_000.0)
    values = np.sin(steps / 3_000)
    values[12_345], values[30_000] = 50.0, np.nan
    found = thinned(Series(steps, values))
    assert len(found.steps) < 600
    assert set(found.steps) >= {0.0, 12_345.0, 30_000.0, 39_999.0}
    assert (np.diff(found.steps) > 0).all()
    np.testing.assert_array_equal(found.values, values[found.steps.astype(int)])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.01, "0.01"), (200, "200"), (1e5, "10⁵"), (-1e-3, "−10⁻³"),  # noqa: RUF001
        (2e7, "2·10⁷"), (0.5, "0.5"), (9999, "9999"),
    ],
)  # fmt: skip
def test_ticks_are_short(value: float, text: str) -> None:
    assert tick(value) == text


def test_labels_of_layers_leave_out_what_all_share() -> None:
    names = [f"encoder.blocks.{number}.attention.out_proj" for number in (0, 11)]
    assert [*layer_labels(names, 20).values()] == ["…0…", "…11…"]
    assert [*layer_labels(["0", "2"], 20).values()] == ["layer 0", "layer 2"]
