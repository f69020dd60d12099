"""What was measured of a training, as a diagnosis takes it: tidy frames, and who is who.

It knows no run and no file. The frames may be made when they are first asked for (any `Mapping`
will do), so that a check that needs no fields does not read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np
import pandas as pd

from .findings import Finding

_Measured = TypeVar("_Measured", pd.DataFrame, pd.Series)

TOTAL = "total"  # the term that stands for the weighted sum
WHOLE = "all"  # the layer that stands for the whole network

_SCALAR = {"step": "int64", "term": "str", "layer": "str", "value": "float64"}
_NO_SCALARS = pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in _SCALAR.items()})
_NO_EVENTS = pd.DataFrame(columns=["step", "kind", "text", "source"])


@dataclass(frozen=True, eq=False)
class Measurements:
    """All that a diagnosis may look at.

    Attributes:
        terms: of the loss, without "total".
        layers: of the network, without "all".
        scalars: by name, frames with the columns step, term, layer, value, and `batch` where
            measurements were made on other points than those of the training step.
        eigenvalues: by operator, frames with the columns step, term, layer, end, value, lower,
            upper, products, converged, batch.
        fields: by name, frames with the columns step, term, values, grid.
        events: a frame with the columns step, kind, text, source.
        recorded: what was already found while the training went on.
        coordinates: what the columns of the grids are called; None where nobody said.
        until: the step from which nothing counts, because something was not finite there.
    """

    terms: tuple[str, ...]
    layers: tuple[str, ...] = ()
    scalars: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    eigenvalues: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    fields: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    events: pd.DataFrame = field(default_factory=lambda: _NO_EVENTS)
    recorded: tuple[Finding, ...] = ()
    coordinates: tuple[str, ...] | None = None
    until: int | None = None
    _known: dict[tuple[str, ...], pd.DataFrame] = field(default_factory=dict, repr=False)

    def before(self, step: int) -> Measurements:
        """Returns what was measured before a step."""
        return replace(self, until=step, _known={})

    def scalar(self, name: str) -> pd.DataFrame:
        """Returns the measurements of a name on one batch: the one that has most of them.

        Columns: step, term, layer, value, batch.
        """
        if (name,) not in self._known:
            self._known[name,] = self._on_one_batch(self.scalars.get(name, _NO_SCALARS))
        return self._known[name,]

    def of_network(self, name: str) -> pd.DataFrame:
        """Returns numbers of the whole network: steps down, terms across ("" for none)."""
        if (name, WHOLE) not in self._known:
            found = self.scalar(name)
            self._known[name, WHOLE] = _wide(found[found["layer"].isin(["", WHOLE])], "term")
        return self._known[name, WHOLE]

    def of_run(self, name: str) -> pd.Series:
        """Returns numbers that belong to no term, of the whole network, by step."""
        found = self.of_network(name)
        return found[""] if "" in found else pd.Series(dtype="float64")

    def of_term(self, name: str, term: str) -> pd.Series:
        """Returns numbers of one term, of the whole network, by step."""
        found = self.of_network(name)
        return found[term].dropna() if term in found else pd.Series(dtype="float64")

    def in_layers(self, name: str, term: str = "") -> pd.DataFrame:
        """Returns numbers of one term: steps down, layers across."""
        key = name, "by layer", term
        if key not in self._known:
            found = self.scalar(name)
            chosen = (found["term"] == term) & ~found["layer"].isin(["", WHOLE])
            self._known[key] = _wide(found[chosen], "layer")
        return self._known[key]

    def ends(self, operator: str, term: str = TOTAL) -> pd.DataFrame:
        """Returns both ends of the spectrum of a term, of the whole network, by step.

        Columns: largest, smallest, each also with the ending _lower and _upper; converged,
        products.
        """
        key = operator, "ends", term
        if key not in self._known:
            self._known[key] = self._ends(operator, term)
        return self._known[key]

    def spectra(self, operator: str) -> pd.DataFrame:
        """Returns all eigenvalues of an operator, with the columns of `eigenvalues`."""
        found = self.eigenvalues.get(operator, pd.DataFrame())
        if self.until is not None and not found.empty:
            found = found[found["step"] < self.until]
        return found

    def batch(self, name: str) -> str:
        """Returns on which points something was measured."""
        found = self.scalar(name)
        return str(found["batch"].iloc[0]) if len(found) else ""

    def last_fields(self, name: str) -> pd.DataFrame:
        """Returns the fields of a name at the last step that has them."""
        found = self.fields.get(name)
        if found is None or found.empty:
            return pd.DataFrame(columns=["step", "term", "values", "grid"])
        if self.until is not None:
            found = found[found["step"] < self.until]
        last: pd.DataFrame = found[found["step"] == found["step"].max()]
        return last

    def _ends(self, operator: str, term: str) -> pd.DataFrame:
        found = self.spectra(operator)
        if found.empty:
            return pd.DataFrame({"largest": [], "smallest": []}, dtype="float64")
        found = found[(found["layer"].isin(["", WHOLE])) & (found["term"] == term)]
        found = self._on_one_batch(found)
        by_end = {
            end: found[found["end"] == end].set_index("step") for end in ("largest", "smallest")
        }
        columns = {
            f"{end}{suffix}": by_end[end][column]
            for end in by_end
            for suffix, column in (("", "value"), ("_lower", "lower"), ("_upper", "upper"))
        }
        both = pd.DataFrame(columns)
        both["converged"] = by_end["largest"]["converged"] & by_end["smallest"]["converged"]
        finite: pd.DataFrame = both[np.isfinite(both["largest"]) & np.isfinite(both["smallest"])]
        return finite

    def _on_one_batch(self, found: pd.DataFrame) -> pd.DataFrame:
        if self.until is not None:
            found = found[found["step"] < self.until]
        if "batch" not in found:
            return found.assign(batch="training")
        if len(found) and found["batch"].nunique() > 1:
            found = found[found["batch"] == found["batch"].value_counts().index[0]]
        return found


def late(measured: _Measured) -> _Measured:
    """Returns the second half of what was measured, by steps: what a training has come to."""
    if len(measured) < 2:
        return measured
    first, last = measured.index[0], measured.index[-1]
    recent: _Measured = measured[measured.index >= first + (last - first) / 2]
    return recent


def _wide(found: pd.DataFrame, across: str) -> pd.DataFrame:
    # As `pivot` does it, in a fifth of its time; the last of several values counts.
    steps, rows = np.unique(found["step"].to_numpy(dtype=np.int64), return_inverse=True)
    columns, names = pd.factorize(found[across])
    values = np.full((len(steps), len(names)), np.nan)
    values[rows, columns] = found["value"]
    return pd.DataFrame(values, pd.Index(steps, name="step"), [str(name) for name in names])
