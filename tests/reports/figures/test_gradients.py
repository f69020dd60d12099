"""Gradient histograms show the entries that were recorded, and say how far terms are apart."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from numpy.typing import NDArray
from scipy.stats import gaussian_kde

from gradpath import Run
from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.reports.figures import (
    Plate,
    gradient_histograms,
    histograms_over_time,
)
from gradpath.reports.figures.density_curves import SignedDecades, WeightedHistogram
from tests.reports.figures.written_runs import gradient, weight
from tests.reports.sweep_runs import x_of, y_of

RunOf = Callable[[str], Run]


def areas(plate: Plate, panel: int = 0) -> NDArray[np.float64]:
    """The share of entries that each curve of a signed logarithmic panel has below it."""
    points_per_decade = 5
    return np.array([y_of(line).sum() for line in plate.axes[panel].lines]) / points_per_decade


def legend_of(plate: Plate) -> list[str]:
    return [text.get_text() for text in plate.legends[0].get_texts()]


def test_areas_are_shares_of_entries(run_of: RunOf) -> None:
    plate = gradient_histograms(run_of("plain"))
    assert [axes.get_title(loc="left") for axes in plate.axes] == ["layer 0", "layer 2"]
    for panel in (0, 1):
        np.testing.assert_allclose(areas(plate, panel), 1, atol=0.01)


def test_a_curve_lies_where_the_entries_are(run_of: RunOf) -> None:
    line = gradient_histograms(run_of("plain")).axes[0].lines[0]
    entries = gradient(180, 0, 0).numpy()
    share_below = y_of(line)[x_of(line) < -0.5].sum() / y_of(line).sum()
    assert share_below == pytest.approx((entries < -0.5).mean(), abs=0.06)


@pytest.mark.parametrize("weight", [1.0, 100.0, -3.0])
def test_a_weight_moves_the_entries_that_a_curve_stands_for(weight: float) -> None:
    entries = torch.cat([torch.full((30,), 2e-3), torch.full((10,), -0.5), torch.zeros(60)])
    one = WeightedHistogram(GradientHistogram.of(entries), weight)
    axis = SignedDecades.of([one])
    shares, centres = one.shares(axis.edges), axis.centres
    assert shares.sum() == pytest.approx(0.4)  # exact zeros are left out
    sign = np.sign(weight)
    assert shares[np.sign(centres) == sign].sum() == pytest.approx(0.3, abs=0.001)
    fullest = centres[shares.argmax()]
    assert abs(np.log10(abs(fullest / (2e-3 * weight)))) < 0.3


def test_the_legend_says_weights(run_of: RunOf) -> None:
    run = run_of("plain")
    assert legend_of(gradient_histograms(run)) == ["residual", "boundary"]
    weighted = gradient_histograms(run, 100, weighted=True)
    factor = f"{weight(100, 1):g}"
    assert legend_of(weighted) == ["1 × residual", f"{factor} × boundary"]  # noqa: RUF001
    assert "unweighted" in gradient_histograms(run).caption
    assert "the weighted gradient" in weighted.caption


def test_the_nearest_earlier_step_is_shown_and_said(run_of: RunOf) -> None:
    run = run_of("plain")
    assert "step 100 (the nearest earlier one to 115)" in gradient_histograms(run, 115).caption
    assert "nearest" not in gradient_histograms(run, 100).caption
    assert "step 180," in gradient_histograms(run).caption


def test_the_caption_has_the_gap_between_the_terms(run_of: RunOf) -> None:
    """Each term is 30 times smaller than the one before it."""
    caption = gradient_histograms(run_of("plain")).caption
    factor = float(caption.split("a factor of ")[1].split(". ")[0].rstrip("."))
    assert factor == pytest.approx(30, rel=0.07)


def test_layers_that_are_left_out_are_counted(run_of: RunOf) -> None:
    run = run_of("many layers")
    plate = gradient_histograms(run)
    assert "12 of 200 layers" in plate.caption
    titles = [axes.get_title(loc="left") for axes in plate.axes]
    assert (titles[0], titles[-1]) == ("…0…", "…199…")
    chosen = gradient_histograms(run, layers=["blocks.7.attention.projection"])
    assert [axes.get_title(loc="left") for axes in chosen.axes] == ["blocks.7.atte…n.projection"]


def test_what_no_curve_shows_is_noted(run_of: RunOf) -> None:
    plate = gradient_histograms(run_of("broken"))
    assert [text.get_text() for text in plate.axes[0].texts] == ["3 not finite"] * 2
    assert "not finite are left out of residual in layer 0" in plate.caption


@pytest.mark.parametrize("options", [{"axis": "log"}, {"style": "nature"}, {"layers": ["head"]}])
def test_what_does_not_exist_is_refused(options: dict[str, str], run_of: RunOf) -> None:
    with pytest.raises(ValueError, match=r"log|nature|head"):
        gradient_histograms(run_of("plain"), **options)  # type: ignore[arg-type]


def test_the_linear_axis_has_the_kernel_density_of_the_entries(run_of: RunOf) -> None:
    line = gradient_histograms(run_of("plain"), axis="linear").axes[0].lines[0]
    expected = gaussian_kde(gradient(180, 0, 0).numpy())(x_of(line))
    np.testing.assert_allclose(y_of(line), expected, atol=0.02)


def test_the_style_of_the_paper(run_of: RunOf) -> None:
    """Its code: x within 3, y to 100 for Helmholtz, weighted, weight matrices, no encoders."""
    plate = gradient_histograms(run_of("paper"), style="paper")
    assert [axes.get_title(loc="left") for axes in plate.axes] == ["layers.0", "layers.1"]
    axes = plate.axes[0]
    assert axes.get_xlim() == (-3, 3)
    assert axes.get_ylim() == (0, 100)
    assert (axes.get_xscale(), axes.get_yscale()) == ("linear", "symlog")
    assert "×" in legend_of(plate)[0]  # noqa: RUF001


def test_over_time_the_colours_are_the_shares_at_each_step(run_of: RunOf) -> None:
    plate = histograms_over_time(run_of("plain"), term="residual", layer="2")
    mesh = plate.axes[0].collections[0]
    assert isinstance(mesh, QuadMesh)
    cells = np.asarray(mesh.get_array())
    edges = np.unique(np.asarray(mesh.get_coordinates())[:, 0, 1])
    assert cells.shape[1] == 10
    for column, step in enumerate(range(0, 200, 20)):
        magnitudes = gradient(step, 0, 1).abs().log10().numpy()
        counts, _ = np.histogram(magnitudes, edges)
        widths = np.diff(edges)
        found = np.nan_to_num(np.ma.filled(cells[:, column], 0)) * widths
        # To within the entries of the bins that a recorded bin straddles.
        np.testing.assert_allclose(np.cumsum(found), np.cumsum(counts) / 80, atol=0.06)


def test_over_time_the_lines_are_quantiles_of_all_layers(run_of: RunOf) -> None:
    plate = histograms_over_time(run_of("plain"))
    assert [axes.get_title(loc="left") for axes in plate.axes[:2]] == ["residual", "boundary"]
    median = y_of(plate.axes[0].lines[1])
    for value, step in zip(median, range(0, 200, 20), strict=True):
        entries = torch.cat([gradient(step, 0, 0), gradient(step, 0, 1)]).abs()
        assert value == pytest.approx(float(entries.quantile(0.5).log10()), abs=0.03)
    assert isinstance(plate.axes[0].collections[0], QuadMesh)
    assert plate.axes[0].collections[0].get_rasterized()


def test_over_time_an_unknown_layer_is_refused(run_of: RunOf) -> None:
    with pytest.raises(ValueError, match=r"no histograms .* layer 'head'"):
        histograms_over_time(run_of("plain"), layer="head")
