"""What an instrument is.

An instrument is any object with a `name`, a `schedule` and a method `measure` that reads a snapshot
and returns records. Its attribute `reads` says when it is called:

- "losses": when all losses of the step are known; no gradient is taken for it,
- "gradients" (the default): when the gradients of all terms are known,
- "graph": while the graph of a backward pass is alive, for curvature and for the model before the
  step,
- "step": just before the optimizer steps, with the gradients that it will use in `.grad` and the
  graph alive,
- "update": after the optimizer has stepped; gradients are known as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, Protocol

from ..records import Record
from ..schedules import Schedule, any_of, every, log_spaced
from ..snapshot import Snapshot

Reads = Literal["losses", "gradients", "graph", "step", "update"]


class Instrument(Protocol):
    """Measures one thing at the steps at which its schedule is due."""

    @property
    def name(self) -> str:
        """Under which it is chosen, and its cost and its failures are recorded."""
        ...

    @property
    def schedule(self) -> Schedule:
        """At which steps it measures."""
        ...

    def measure(self, snapshot: Snapshot) -> Iterable[Record]:
        """Returns what it finds; may be a generator."""
        ...


def often() -> Schedule:
    """Returns when gradients are measured by default: often at first, then every 200 steps."""
    return any_of(log_spaced(8), every(200))


def reads(instrument: Instrument) -> Reads:
    """Returns what the instrument needs to be there."""
    wanted: Reads = getattr(instrument, "reads", "gradients")
    return wanted
