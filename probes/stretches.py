"""Which instruments can measure a stretch of steps at once, and what they find."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from .instruments.alignment import Alignment
from .instruments.base import Instrument
from .instruments.gradient_histograms import GradientHistograms
from .instruments.gradient_statistics import GradientStatistics
from .instruments.imbalance import Imbalance
from .instruments.losses import Losses
from .records import Cost, ScalarTable
from .stretch import Stretch
from .stretch_rows import StretchRecord

Joining = Losses | GradientHistograms | GradientStatistics | Imbalance | Alignment
"""An instrument with `measure_stretch`; not a subclass, which may measure something else."""

_KINDS: dict[str, type[Joining]] = {
    kind.__name__: kind
    for kind in (Losses, GradientHistograms, GradientStatistics, Imbalance, Alignment)
}

Settings = Mapping[str, Mapping[str, Any]]


def joining(instruments: Iterable[Instrument]) -> tuple[Joining, ...] | None:
    """Returns the instruments if all of them can measure steps in a stretch, else None."""
    found: list[Joining] = []
    for instrument in instruments:
        if _KINDS.get(type(instrument).__name__) is not type(instrument):
            return None
        assert isinstance(instrument, Joining)
        found.append(instrument)
    return tuple(found)


def all_join(
    instruments: Iterable[Joining],
    step: int,
    terms: Collection[str],
    values: Collection[float | None],
    learning_rate: float | None,
) -> bool:
    """Whether a step is none that one of the instruments has to look at by itself.

    Args:
        instruments: that measure it.
        step: its number.
        terms: their names.
        values: of all terms, and of the loss.
        learning_rate: of the step.
    """
    for each in instruments:
        if isinstance(each, Losses) and not each.joins(values, learning_rate):
            return False
        if isinstance(each, Imbalance) and not each.joins(step, terms):
            return False
    return True


def settings_of(instruments: Iterable[Joining]) -> Settings:
    """Returns by name what `with_settings` needs to make them again, as JSON can hold it."""
    return {
        each.name: {
            "kind": type(each).__name__,
            **(each.settings if isinstance(each, Imbalance) else {}),
        }
        for each in instruments
    }


def with_settings(settings: Settings) -> list[Joining]:
    """Returns instruments that measure stretches as those did whose settings these are."""
    made: list[Joining] = []
    for name, known in settings.items():
        kind = _KINDS[known["kind"]]
        each = kind.with_settings(known) if kind is Imbalance else kind()
        each.name = name
        made.append(each)
    return made


def measure(
    stretch: Stretch,
    instruments: Sequence[Joining],
    failed: Callable[[Joining, Exception], None],
) -> list[StretchRecord]:
    """Returns what instruments find in a stretch, and what that has cost a step.

    Args:
        stretch: the steps.
        instruments: that measure it.
        failed: told of an instrument that raises; the others go on.
    """
    records: list[StretchRecord] = []
    number = len(stretch.stamps)
    for instrument in instruments:
        begun = time.perf_counter()
        try:
            records += instrument.measure_stretch(stretch)
        except Exception as error:
            failed(instrument, error)
        records.append(Cost(instrument.name, (time.perf_counter() - begun) / number))
    records.append(ScalarTable(("self_check",), stretch.self_check[None, :, None, None]))
    records.append(Cost("probe", float(stretch.seconds.mean())))
    return records
