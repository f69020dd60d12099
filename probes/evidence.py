"""From a run to what a diagnosis looks at, read when a check asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from ..diagnostics.diagnosis import combined, diagnose
from ..diagnostics.findings import Diagnosis
from ..diagnostics.measurements import Measurements

if TYPE_CHECKING:
    from .store import Run

_OPERATORS = ("hessian", "preconditioned_hessian", "tangent_kernel")
_FIELDS = ("prediction", "error", "residual")
# Of fields only the last is looked at, or the one before where the last is of a divergence.
_LAST_FIELDS = 2


def diagnosis(run: Run) -> Diagnosis:
    """Returns the diagnosis of a run, of all its parts together.

    Raises:
        StoreError: the run has become unreadable.
    """
    scalars = _Scalars(run)
    parts = run.parts or ("",)
    return combined({part: diagnose(measurements(run, part, scalars)) for part in parts})


def measurements(run: Run, part: str = "", scalars: _Scalars | None = None) -> Measurements:
    """Returns what a run shows of one of its parts.

    Args:
        run: may be written meanwhile.
        part: one of `run.parts`.
        scalars: of the run, where they are read already.
    """
    scalars = _Scalars(run) if scalars is None else scalars
    numbers = scalars.of_part(part)
    terms, layers = (_names(numbers.values(), names) for names in ("term", "layer"))
    coordinates = run.metadata.get("coordinates")
    return Measurements(
        terms=tuple(term for term in run.terms if term in terms),
        layers=tuple(layer for layer in run.layers if layer in layers),
        scalars=numbers,
        eigenvalues=_Read(_OPERATORS, lambda name: _of_part(run.eigenvalues(name), part)),
        fields=_Read(_FIELDS, lambda name: _of_part(_last_fields(run, name), part)),
        events=_of_part(run.events(), part),
        recorded=run.recorded_findings(part),
        coordinates=tuple(map(str, coordinates)) if isinstance(coordinates, list) else None,
    )


class _Scalars:
    """The scalars of a run, read at once: that takes less than reading a dozen of names apart."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def of_part(self, part: str) -> dict[str, pd.DataFrame]:
        """Returns frames by name."""
        return {str(name): frame for name, frame in _of_part(self._all, part).groupby("name")}

    @cached_property
    def _all(self) -> pd.DataFrame:
        return self._run.scalars()


class _Read(Mapping[str, pd.DataFrame]):
    """Frames by name, each read when it is first asked for."""

    def __init__(self, names: tuple[str, ...], read: Callable[[str], pd.DataFrame]) -> None:
        self._names = names
        self._read = read
        self._known: dict[str, pd.DataFrame] = {}

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _last_fields(run: Run, name: str) -> pd.DataFrame:
    steps = run.field_steps(name)[-_LAST_FIELDS:]
    if not steps:
        return pd.DataFrame(columns=["step", "term", "layer", "values", "grid"])
    return pd.concat([run.fields(name, step) for step in steps], ignore_index=True)


def _of_part(frame: pd.DataFrame, part: str) -> pd.DataFrame:
    return frame[frame["part"] == part] if "part" in frame else frame


def _names(frames: Iterable[pd.DataFrame], column: str) -> set[str]:
    return {str(each) for frame in frames for each in frame[column].unique()}
