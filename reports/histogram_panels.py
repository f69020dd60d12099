"""The histograms of whole runs as a page can hold them: binned counts for its script to draw.

A run has thousands of histograms, each with hundreds of bins. A panel on a page resolves about a
hundred of them, so the bins are joined, exactly: the joined edges are edges of the recorded bins.
Below a lowest magnitude everything is one bin around zero. Steps are left out evenly where all of
them would make the page too large.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..diagnostics.histogram_bins import INFINITY_BIN, PER_OCTAVE, ranges
from ..diagnostics.histograms import GradientHistogram
from ..probes.store import Run
from .figures.drawing import layer_in_words
from .figures.plate import NotMeasuredError
from .theme import plain, term_lines, theme

MOST_COUNTS = 700_000
"""Counts in one page. Compressed, and as text, they take about 0.6 bytes each."""

_MOST_BINS = 60  # on either side of zero
_MOST_OCTAVES = 30  # nine decades
_FEWEST_STEPS = 2
_SHOWN_LAYERS = 24

# Asking for each step by itself takes longer than reading so many, of some 300 bytes each.
_MOST_READ_AT_ONCE = 60_000


@dataclass(frozen=True)
class HistogramPanels:
    """Histograms of the gradient, of all terms and layers at all shown steps of some runs.

    Args:
        header: what the counts are of, as JSON can hold it. `first` is the smallest edge above
            zero; from it on there are `per_octave` bins of equal width between a number and its
            double, `bins` in all on either side. `runs` have their steps, weights (by step and
            term) and series (term, layer); terms and layers are given by number.
        counts: of each run, of each of its series, of each step, a row of 2 `bins` + 3 numbers:
            not finite, exactly zero, then from the lowest bin to the highest; those around zero in
            the middle, zeros left out.
        left_out: how many recorded steps are not among them.
    """

    header: Mapping[str, Any]
    counts: NDArray[np.uint32]
    left_out: int = 0

    @property
    def colours(self) -> tuple[tuple[str, str], ...]:
        """The colour of each term on a light and on a dark page."""
        names = [term["key"] for term in self.header["terms"]]
        with theme():
            light = term_lines(names)
        with theme(dark=True):
            dark = term_lines(names)
        return tuple((light[name]["color"], dark[name]["color"]) for name in names)

    def packed(self) -> str:
        """Returns the counts for a page: little-endian integers, deflated, in base64."""
        kind = np.dtype("<u2" if self.bytes_each == 2 else "<u4")
        return base64.b64encode(zlib.compress(self.counts.astype(kind).tobytes(), 9)).decode()

    @property
    def bytes_each(self) -> int:
        """Bytes of one count."""
        return 2 if self.counts.size == 0 or self.counts.max() < 1 << 16 else 4


def histogram_panels(runs: Mapping[str, Run], most: int = MOST_COUNTS) -> HistogramPanels:
    """Returns the histograms of runs, all over the same bins.

    Args:
        runs: by the name to show.
        most: counts at most; steps are left out accordingly, but for the first and the last.

    Raises:
        NotMeasuredError: none of the runs has a histogram.
    """
    found = {name: _recorded(run, most // max(len(runs), 1)) for name, run in runs.items()}
    if not any(len(frame) for frame, _ in found.values()):
        raise NotMeasuredError(
            "No histogram of a gradient was recorded; the instrument GradientHistograms, one of "
            "the standard set, records them."
        )
    grid = _Grid.of([frame for frame, _ in found.values()])
    terms = list(dict.fromkeys(term for run in runs.values() for term in run.terms))
    layers: dict[str, int] = {}
    entries, rows, left_out = [], [], 0
    for name, (frame, missing) in found.items():
        if frame.empty:
            continue
        left_out += missing
        entry, counts = _of_run(frame, terms, layers, grid)
        entries.append(
            {"name": plain(name), "weights": _weights(runs[name], entry, terms), **entry}
        )
        rows.append(counts)
    with theme():
        lines = term_lines(terms)
    header = {
        "first": grid.first,
        "per_octave": grid.per_octave,
        "bins": grid.bins,
        "linear_limit": grid.linear_limit,
        "terms": [
            {"name": plain(term), "key": term, "dash": _dash(lines[term]["linestyle"])}
            for term in terms
        ],
        "layers": [plain(layer_in_words(layer)) for layer in layers],
        "shown_layers": _shown(len(layers)),
        "runs": entries,
    }
    return HistogramPanels(header, np.concatenate(rows), left_out)


def _recorded(run: Run, most: int) -> tuple[pd.DataFrame, int]:
    """Returns histograms at as many steps as there is room for, and how many steps are left out."""
    if not run.layers or not run.terms:
        return pd.DataFrame(columns=["step"]), 0
    recorded = run.histogram_steps()
    steps = np.unique(recorded["step"])
    series = max(len(run.layers) * len(run.terms), 1)
    room = max(most // (series * (2 * _MOST_BINS + 3)), _FEWEST_STEPS)
    if len(steps) <= room:
        return _one_batch(run.histograms()), 0
    kept = steps[np.unique(np.linspace(0, len(steps) - 1, room).round().astype(int))]
    if recorded["count"].sum() > _MOST_READ_AT_ONCE:
        frames = [run.histograms(step=int(step)) for step in kept]
        return _one_batch(pd.concat(frames, ignore_index=True)), len(steps) - len(kept)
    encoded = run.encoded_histograms()
    frame = encoded[encoded["step"].isin(kept)].rename(columns={"data": "histogram"})
    frame["histogram"] = frame["histogram"].map(GradientHistogram.from_bytes)
    return _one_batch(frame), len(steps) - len(kept)


def _one_batch(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns one histogram a step and series, and layers that are told apart by their part."""
    if "part" in frame:
        frame = frame.assign(layer=frame["part"] + ": " + frame["layer"])
    return frame.drop_duplicates(["step", "term", "layer"])


@dataclass(frozen=True)
class _Grid:
    """The bins of all panels."""

    lowest: int  # the recorded bin that the smallest edge above zero is the lower edge of
    per_octave: int
    bins: int  # on either side
    first: float
    linear_limit: float  # 99.9 % of the entries are within

    @classmethod
    def of(cls, frames: list[pd.DataFrame]) -> _Grid:
        bins, counts = (np.concatenate(each) for each in zip(*map(_occupied, frames), strict=True))
        bins = np.abs(bins)
        inner = (bins > 0) & (bins < INFINITY_BIN)
        if not inner.any():
            bins, counts, inner = np.array([1 + 1075 * PER_OCTAVE]), np.ones(1), np.array([True])
        numbers = np.bincount(bins[inner] - 1, counts[inner])
        below = np.cumsum(numbers) / numbers.sum()
        last = (len(numbers) - 1) // PER_OCTAVE  # octaves, counted from the smallest number
        one_in_a_hundred = int(np.searchsorted(below, 0.01)) // PER_OCTAVE
        start = min(max(one_in_a_hundred, last + 1 - _MOST_OCTAVES), last)
        octaves = last + 1 - start
        per_octave = next(each for each in (4, 2, 1) if each * octaves <= _MOST_BINS or each == 1)
        lowest = start * PER_OCTAVE + 1
        limit = int(np.searchsorted(below, 0.999)) + 1
        edges = ranges(np.array([lowest, limit], dtype=np.int32))
        return cls(lowest, per_octave, octaves * per_octave, float(edges[0][0]), float(edges[1][1]))

    def rows(self, histograms: pd.Series[Any]) -> NDArray[np.uint32]:
        """Returns a row of counts for each histogram."""
        width = 2 * self.bins + 3
        lengths = [len(each.bins) for each in histograms]
        if not lengths:
            return np.zeros((0, width), np.uint32)
        bins = np.concatenate([each.bins for each in histograms]).astype(np.int64)
        counts = np.concatenate([each.counts for each in histograms])
        joined = (np.abs(bins) - self.lowest) // (PER_OCTAVE // self.per_octave) + 1
        middle = 2 + self.bins
        place = middle + np.sign(bins) * np.clip(joined, 0, self.bins)
        place[bins == 0] = 1
        place[np.abs(bins) >= INFINITY_BIN] = 0
        place += np.repeat(np.arange(len(lengths)), lengths) * width
        summed = np.bincount(place, counts, minlength=len(lengths) * width)
        return summed.reshape(-1, width).astype(np.uint32)


def _occupied(frame: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    if frame.empty:
        return np.zeros(0, np.int64), np.zeros(0)
    histograms = frame["histogram"]
    return (
        np.concatenate([each.bins for each in histograms]).astype(np.int64),
        np.concatenate([each.counts for each in histograms]).astype(float),
    )


def _of_run(
    frame: pd.DataFrame, terms: list[str], layers: dict[str, int], grid: _Grid
) -> tuple[dict[str, Any], NDArray[np.uint32]]:
    """Returns what the header has of a run, and its counts; new layers get the next numbers."""
    steps = np.unique(frame["step"])
    order = {term: number for number, term in enumerate(terms)}
    series, rows = [], []
    for (layer, term), group in frame.groupby(["layer", "term"], sort=False):
        number = layers.setdefault(str(layer), len(layers))
        # A term that has come in meanwhile, such as the total where the terms are not known.
        if str(term) not in order:
            order[str(term)] = len(terms)
            terms.append(str(term))
        counts = np.zeros((len(steps), 2 * grid.bins + 3), np.uint32)
        counts[np.searchsorted(steps, group["step"])] = grid.rows(group["histogram"])
        series.append([order[str(term)], number])
        rows.append(counts)
    entry = {"steps": steps.tolist(), "series": series}
    return entry, np.concatenate(rows).reshape(-1)


def _weights(run: Run, entry: Mapping[str, Any], terms: list[str]) -> list[list[float | None]]:
    """Returns the weight of each term at each step: the last recorded one; None where none was."""
    weights = run.scalars("weight")
    by_term = {}
    for term, group in weights.groupby("term"):
        group = group.drop_duplicates("step")
        places = np.searchsorted(group["step"], entry["steps"], side="right") - 1
        by_term[term] = group["value"].to_numpy()[np.maximum(places, 0)]
    finite = [by_term.get(term, np.full(len(entry["steps"]), np.nan)) for term in terms]
    columns = zip(*finite, strict=True)
    return [[float(f"{w:.6g}") if np.isfinite(w) else None for w in row] for row in columns]


def _dash(style: Any) -> str:
    """Returns matplotlib's kind of line as SVG's attribute."""
    return "" if isinstance(style, str) else " ".join(f"{length * 1.4:g}" for length in style[1])


def _shown(number: int) -> list[int]:
    """Returns the layers that a page begins with: all, or some from the first to the last."""
    if number <= _SHOWN_LAYERS:
        return list(range(number))
    return [int(each) for each in np.linspace(0, number - 1, _SHOWN_LAYERS).round()]
