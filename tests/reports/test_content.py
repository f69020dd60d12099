"""What pages are made of: legible text, binned histograms, figures that fail, where files go."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.probes import HistogramRecord, Run, RunWriter
from gradpath.reports.content import LONGEST_TEXT, Gap, Picture, legible
from gradpath.reports.figures.plate import NotMeasuredError
from gradpath.reports.histogram_panels import HistogramPanels, histogram_panels
from gradpath.reports.pictures import picture
from gradpath.reports.writing import ReportError, target_of, write
from tests.reports.contents import content_of, write_histograms


def edges_of(panels: HistogramPanels) -> np.ndarray:
    header = panels.header
    per = header["per_octave"]
    number = np.arange(header["bins"] + 1)
    above = header["first"] * 2.0 ** (number // per) * (1 + (number % per) / per)
    return np.concatenate([-above[::-1], above])


def test_joined_bins_count_what_numpy_counts(tmp_path: Path) -> None:
    entries = torch.cat([torch.randn(500), 1e-3 * torch.randn(500), torch.zeros(7),
                         torch.tensor([float("nan"), float("inf"), -float("inf")])])  # fmt: skip
    with RunWriter(tmp_path / "run") as writer:
        writer.record(3, [HistogramRecord(GradientHistogram.of(entries), "residual", "net")])
    panels = histogram_panels({"run": Run(tmp_path / "run")})
    numbers = entries[entries.isfinite() & (entries != 0)].double().numpy()
    edges = edges_of(panels)
    # Bins are closed towards zero: those below it are the mirror image of those above.
    below, _ = np.histogram(-numbers[numbers < 0], np.sort(-edges[edges < 0]))
    above, _ = np.histogram(numbers[numbers > 0], edges[edges > 0])
    middle = int((np.abs(numbers) < panels.header["first"]).sum())
    assert panels.counts.tolist() == [3, 7, *below[::-1], middle, *above]


def test_packed_counts_are_what_the_script_unpacks(tmp_path: Path) -> None:
    run = write_histograms(tmp_path / "run", ("a", "b"), ("x", "y"), (0, 10, 20))
    panels = histogram_panels({"run": run})
    data = zlib.decompress(base64.b64decode(panels.packed()))
    assert np.frombuffer(data, f"<u{panels.bytes_each}").tolist() == panels.counts.tolist()
    assert len(panels.counts) == 2 * 2 * 3 * (2 * panels.header["bins"] + 3)
    assert panels.header["runs"][0]["weights"] == [[1.0, 10.0]] * 3


def test_steps_are_left_out_where_there_is_no_room(tmp_path: Path) -> None:
    run = write_histograms(tmp_path / "run", ("a",), ("x",), tuple(range(50)))
    panels = histogram_panels({"run": run}, most=10 * 123)
    steps = panels.header["runs"][0]["steps"]
    assert (steps[0], steps[-1], len(steps), panels.left_out) == (0, 49, 10, 40)


def test_without_histograms_there_are_no_panels(tmp_path: Path) -> None:
    RunWriter(tmp_path / "run").finish()
    with pytest.raises(NotMeasuredError, match="GradientHistograms"):
        histogram_panels({"run": Run(tmp_path / "run")})


def test_text_is_legible_whatever_it_holds() -> None:
    assert legible("größe 境界") == "größe 境界"
    assert legible("a\u202e\ud800\x07b") == "a\\u202e\\ud800\\x07b"
    assert len(legible("x" * 10_000)) < LONGEST_TEXT + 10


@pytest.mark.parametrize("error", [NotMeasuredError("No weights."), ValueError("a mistake")])
def test_a_figure_that_raises_is_a_line(error: Exception) -> None:
    def draw() -> Figure:
        raise error

    found = picture("weights", draw)
    assert isinstance(found, Gap)
    assert str(error) in found.reason
    assert found.is_error == isinstance(error, ValueError)


def test_a_figure_is_small_svg_that_says_the_same_every_time() -> None:
    def draw() -> Figure:
        figure = Figure(figsize=(3, 2))
        figure.subplots().plot(np.linspace(0, 1, 500), np.random.default_rng(0).random(500))
        return figure

    first, second = picture("losses", draw), picture("losses", draw)
    assert isinstance(first, Picture)
    assert first == second
    assert b"<metadata>" not in first.svg
    assert len(first.svg) < 20_000


def test_a_report_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    for name in ("a.html", "a.pdf"):
        write(content_of("first"), target_of(tmp_path / name))
        size = write(content_of("second, longer"), target_of(tmp_path / name)).stat().st_size
        assert size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "a.pdf"]
    (tmp_path / "mine.html").write_text("<p>my own page")
    with pytest.raises(ReportError, match="no report of gradpath"):
        target_of(tmp_path / "mine.html")


@pytest.mark.parametrize("name", ["a.docx", "a", "missing/a.html"])
def test_a_place_that_will_not_do_is_said_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReportError, match=r"such as a\.html|make it first"):
        target_of(tmp_path / name)
