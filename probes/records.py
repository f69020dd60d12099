"""What a run can hold: the records that a step is made of.

A record is a plain value with the names it will be found by. `name` says what was measured, `term`
of which term of the loss ("" where it belongs to none, "total" for the weighted sum), `layer` in
which layer of the network ("" likewise, "all" for the whole). `batch` says on which points:
"training" for those of the training step, anything else for a fixed batch of the user's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from ..diagnostics.errors import ArgumentError
from ..diagnostics.findings import Finding as Finding

TRAINING_BATCH = "training"


class EncodedHistogram(Protocol):
    """What a `GradientHistogram` is to the store."""

    def to_bytes(self) -> bytes:
        """Returns what `GradientHistogram.from_bytes` reads."""
        ...


class EigenvalueBounds(Protocol):
    """What an `Eigenvalue` is to the store."""

    @property
    def value(self) -> float: ...  # noqa: D102
    @property
    def lower(self) -> float: ...  # noqa: D102
    @property
    def upper(self) -> float: ...  # noqa: D102
    @property
    def residual(self) -> float: ...  # noqa: D102
    @property
    def products(self) -> int: ...  # noqa: D102
    @property
    def converged(self) -> bool: ...  # noqa: D102
    @property
    def status(self) -> str: ...  # noqa: D102


class Stamp(NamedTuple):
    """Which step something was recorded of, and when."""

    step: int
    time: float  # in seconds since 1970
    elapsed: float  # seconds that the run had been going on
    evaluations: int | None = None  # of the loss so far, where they are counted apart from steps


@dataclass(frozen=True)
class Scalar:
    """One number; NaN and infinity are numbers as well."""

    name: str
    value: float
    term: str = ""
    layer: str = ""
    batch: str = TRAINING_BATCH


@dataclass(frozen=True, eq=False)
class ScalarTable:
    """A number for each of some names, of some terms, in some layers: as many `Scalar`s.

    It is read like them, and costs a fraction of their time: all tables of a step are one row of
    the database, and what their numbers are called is stored once. Without terms or layers, the
    numbers belong to none. Of a stretch of steps, the values have an axis of steps after that of
    names.

    Raises:
        ArgumentError: the values have another shape.
    """

    names: tuple[str, ...]
    # (names, *steps, terms, layers); float32 is stored as such, others as float64
    values: NDArray[Any]
    terms: tuple[str, ...] = ("",)
    layers: tuple[str, ...] = ("",)
    batch: str = TRAINING_BATCH

    def __post_init__(self) -> None:
        shape = (len(self.names), len(self.terms), len(self.layers))
        found = self.values.shape
        if len(found) not in (3, 4) or (found[0], *found[-2:]) != shape:
            raise ArgumentError(
                f"A table of shape {tuple(self.values.shape)} was given for {shape[0]} names, "
                f"{shape[1]} terms and {shape[2]} layers; it must have a number for each of them."
            )

    def scalars(self) -> Iterator[Scalar]:
        """Yields its numbers one by one."""
        for (name, term, layer), value in zip(self.columns(), self.values.reshape(-1), strict=True):
            yield Scalar(name, float(value), term, layer, self.batch)

    def columns(self) -> Iterator[tuple[str, str, str]]:
        """Yields what each of its numbers is called: name, term, layer."""
        yield from product(self.names, self.terms, self.layers)


@dataclass(frozen=True)
class HistogramRecord:
    """The histogram of a gradient, or under another name of something else."""

    histogram: EncodedHistogram
    term: str = ""
    layer: str = ""
    name: str = "gradient"
    batch: str = TRAINING_BATCH


@dataclass(frozen=True, eq=False)
class HistogramTable:
    """The gradient histograms of a stretch of steps, of some terms in some layers.

    They are read like as many `HistogramRecord`s.
    """

    data: Sequence[bytes]  # of each step, by term and layer, as `decode_table` reads them
    terms: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class EigenvalueRecord:
    """One end of a spectrum, with the evidence that an `Eigenvalue` carries."""

    eigenvalue: EigenvalueBounds
    end: str  # "largest" or "smallest"
    term: str = "total"
    layer: str = "all"
    name: str = "hessian"  # the operator: also "preconditioned_hessian", "gauss_newton", ...
    batch: str = TRAINING_BATCH


@dataclass(frozen=True, eq=False)
class Field:
    """An array of the model's, such as its prediction on a grid."""

    name: str
    values: NDArray[Any]  # float32 or float64; other dtypes are stored as float64
    grid: NDArray[Any] | None = None  # where the values belong; stored once, however often given
    term: str = ""
    layer: str = ""
    batch: str = TRAINING_BATCH


@dataclass(frozen=True)
class Cost:
    """What a measurement took."""

    instrument: str
    seconds: float


@dataclass(frozen=True)
class Event:
    """Something that a reader of the run should know, such as why a measurement is missing."""

    kind: str  # "missing", "instrument_off", "resumed", ...
    text: str  # one sentence
    source: str = ""  # who says so: an instrument, the store


Record = Scalar | ScalarTable | HistogramRecord | EigenvalueRecord | Field | Cost | Event | Finding
