"""From committed records to what sinks take; what goes wrong there never reaches the training.

A run of the paper's size has thousands of numbers a step, one for each measurement, term and layer.
A tracker draws a curve for each, so it gets those of the whole network; layers it gets as
histograms. All of them are in the run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ...diagnostics.histograms import GradientHistogram
from ..bench import ProbeWarning
from ..records import EigenvalueRecord, Event, HistogramRecord, Record, Scalar, ScalarTable
from .sink import Sink
from .tags import tag

_WHOLE = ("", "all")  # layers of numbers that are of the whole network, or of none


class Broadcast:
    """Passes steps on to sinks.

    Args:
        sinks: that get a copy.
        note: writes into the run why one of them gets nothing more.
    """

    def __init__(self, sinks: Sequence[Sink], note: Callable[[Event], None]) -> None:
        self._sinks = list(sinks)
        self._note = note
        self._lacking: set[tuple[int, str]] = set()

    @property
    def is_wanted(self) -> bool:
        """Whether there is a sink that gets anything."""
        return bool(self._sinks)

    def step(self, step: int, records: Sequence[Record], part: str) -> None:
        """Passes on the numbers and histograms of a step that is committed."""
        if not self._sinks:
            return
        values = dict(_numbers(records, part))
        histograms = [
            (tag(each.name, part, each.term, each.layer, each.batch), _histogram(each))
            for each in records
            if isinstance(each, HistogramRecord)
        ]
        for sink in list(self._sinks):
            if values:
                self._try(sink, "scalars", step, values)
            for name, histogram in histograms:
                self._try(sink, "histogram", step, name, histogram)

    def close(self) -> None:
        """Tells the sinks that the run has ended."""
        for sink in list(self._sinks):
            self._try(sink, "close")

    def _try(self, sink: Sink, capability: str, *what: Any) -> None:
        key = id(sink), capability
        if key in self._lacking or not any(sink is each for each in self._sinks):
            return
        name = type(sink).__name__
        try:
            getattr(sink, capability)(*what)
        except NotImplementedError as error:
            self._lacking.add(key)
            self._tell("sink_lacks", f"{name} gets no {capability} of this run: {error}.")
        except Exception as error:
            self._sinks = [each for each in self._sinks if each is not sink]
            self._tell("sink_off", f"{name} failed and gets nothing more ({_line(error)}).")

    def _tell(self, kind: str, text: str) -> None:
        warnings.warn(
            f"gradpath: {text} The run has everything; the training goes on.",
            ProbeWarning,
            stacklevel=2,
        )
        self._note(Event(kind, text, "sinks"))


def _numbers(records: Iterable[Record], part: str) -> Iterator[tuple[str, float]]:
    for record in records:
        if isinstance(record, EigenvalueRecord) and record.layer in _WHOLE:
            name = tag(record.name, part, record.term, "", record.batch)
            yield f"{name}/{record.end}", record.eigenvalue.value
        elif isinstance(record, Scalar | ScalarTable):
            scalars = [record] if isinstance(record, Scalar) else record.scalars()
            for scalar in scalars:
                if scalar.layer in _WHOLE:
                    yield tag(scalar.name, part, scalar.term, "", scalar.batch), scalar.value


def _histogram(record: HistogramRecord) -> GradientHistogram:
    histogram = record.histogram
    if isinstance(histogram, GradientHistogram):
        return histogram
    return GradientHistogram.from_bytes(histogram.to_bytes())


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
