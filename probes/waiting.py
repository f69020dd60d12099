"""Steps that are recorded and wait to be measured: the file that keeps them meanwhile.

Where every step is recorded, a stretch of them is measured at once. Until then their gradients, as
they are, wait in the file run.waiting beside the database. To append them takes a hundredth of what
a transaction takes, and what was handed to the operating system is there however the process ends.
A step counts when all of its slot is in the file; its number at the end says so.

A run whose writer was killed is completed by whoever opens it next (`recovery.py`). So the file
says all that is needed to measure its steps: the layers, the terms and the instruments.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..diagnostics.layout import ParameterLayout, ParameterSlot
from .errors import StoreError, explained
from .lock import WAITING
from .records import Stamp
from .stretch import Stretch

_PROGRAM, _VERSION = b"gradpath steps ", b"1"
_MAGIC = _PROGRAM + _VERSION
_LENGTH = struct.Struct("<Q")  # of the header
_NUMBER = struct.Struct("<q")  # of the step, once more at the end of its slot
_NO_STEP = _NOT_COUNTED = -1


@dataclass(frozen=True, eq=False)
class Kind:
    """What steps have in common that can wait together.

    Attributes:
        part: which of several models or optimizers.
        layout: of the parameters.
        terms: the names of the loss terms.
        scattered: the names of those of which there are values at points.
        dtype: of the gradients.
        instruments: by name, their settings.
    """

    part: str
    layout: ParameterLayout
    terms: tuple[str, ...]
    scattered: tuple[str, ...]
    dtype: torch.dtype
    instruments: Mapping[str, Mapping[str, Any]]

    @property
    def numbers(self) -> struct.Struct:
        """The layout of what stands before the gradients in a slot."""
        return struct.Struct(f"<qddqdddd{2 * len(self.terms) + len(self.scattered)}d")

    @property
    def gradient_bytes(self) -> int:
        """What the gradients of one step take."""
        return len(self.terms) * self.layout.size * self.dtype.itemsize

    def to_json(self) -> bytes:
        """Returns it as bytes that `from_json` reads."""
        slots = [
            (slot.name, slot.layer, slot.kind, slot.slice.start, slot.slice.stop, [*slot.shape])
            for slot in self.layout.slots
        ]
        return json.dumps(
            {
                "part": self.part,
                "slots": slots,
                "terms": self.terms,
                "scattered": self.scattered,
                "dtype": str(self.dtype).removeprefix("torch."),
                "instruments": self.instruments,
            }
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Kind:
        """Returns what `to_json` wrote; the layout without the parameters themselves."""
        known = json.loads(data)
        slots = tuple(
            ParameterSlot(name, layer, kind, slice(start, stop), torch.Size(shape))
            for name, layer, kind, start, stop, shape in known["slots"]
        )
        dtype = getattr(torch, known["dtype"])
        layout = ParameterLayout(slots, ())
        terms, scattered = tuple(known["terms"]), tuple(known["scattered"])
        return cls(known["part"], layout, terms, scattered, dtype, known["instruments"])


class WaitingStep(NamedTuple):
    """One step, as it waits.

    Attributes:
        stamp: which, and when.
        losses, weights: of each term.
        loss, learning_rate: of the step.
        deviations: of the scattered terms over their points.
        self_check: how far the weighted gradients are from `.grad`; NaN: unchecked.
        seconds: spent on it before it waited.
    """

    stamp: Stamp
    losses: Sequence[float]
    weights: Sequence[float]
    loss: float
    learning_rate: float
    deviations: Sequence[float]
    self_check: float
    seconds: float


class WaitingFile:
    """The file that steps of one kind are appended to, and its slots in memory.

    Args:
        folder: of the run.
        kind: of the steps.
        most: how many wait at once.

    Attributes:
        steps: that wait.
        gradients: of all slots, those of the steps that wait before the others.

    Raises:
        StoreError: it cannot be written.
    """

    gradients: Float[Tensor, "most terms params"]

    def __init__(self, folder: Path, kind: Kind, most: int) -> None:
        self._folder = folder
        self._numbers = kind.numbers
        start, stop = kind.numbers.size, kind.numbers.size + kind.gradient_bytes
        slots = np.empty((most, stop + _NUMBER.size), dtype=np.uint8)
        entries = torch.from_numpy(slots)[:, start:stop].view(kind.dtype)
        self.gradients = entries.unflatten(1, (len(kind.terms), -1))
        self.steps: list[WaitingStep] = []
        self._slots = [memoryview(slot.data) for slot in slots]
        header = kind.to_json()
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
            self._file = os.open(folder / WAITING, flags, 0o666)
            self._write(_MAGIC + _LENGTH.pack(len(header)) + header)
            self._begin = os.lseek(self._file, 0, os.SEEK_CUR)
        except OSError as error:
            raise explained(error, folder) from error

    def append(self, step: WaitingStep, gradients: Float[Tensor, "terms params"]) -> None:
        """Appends a step and its unweighted gradients, which is then in the run.

        Raises:
            StoreError: it cannot be written.
        """
        at = step.stamp
        evaluations = _NOT_COUNTED if at.evaluations is None else at.evaluations
        place = len(self.steps)
        slot = self._slots[place]
        self._numbers.pack_into(
            slot, 0, at.step, at.time, at.elapsed, evaluations, step.loss, step.learning_rate,
            step.self_check, step.seconds, *step.losses, *step.weights, *step.deviations,
        )  # fmt: skip
        self.gradients[place].copy_(gradients)
        _NUMBER.pack_into(slot, len(slot) - _NUMBER.size, at.step)
        self.steps.append(step)  # before it is written: Ctrl-C may come in between
        try:
            # Where it is even if the one before was torn.
            os.lseek(self._file, self._begin + place * len(slot), os.SEEK_SET)
            self._write(slot)
        except OSError as error:
            del self.steps[place:]
            raise explained(error, self._folder) from error

    def clear(self) -> None:
        """Lets further steps take the places of those that are in the database now.

        To grow a file takes longer than to write into it, so that it keeps its length; a number
        that no step has says that nothing waits.
        """
        self.steps = []
        os.lseek(self._file, self._begin, os.SEEK_SET)
        self._write(_NUMBER.pack(_NO_STEP))

    def close(self) -> None:
        """Closes the file and removes it, where nothing waits in it any more."""
        os.close(self._file)
        with contextlib.suppress(OSError):  # what is in the database already does no harm
            (self._folder / WAITING).unlink()

    def _write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while len(rest):  # a full disk takes a part of it, and the next call tells
            rest = rest[os.write(self._file, rest) :]


def read_waiting(folder: Path) -> tuple[Kind, Stretch] | None:
    """Returns the steps that wait in a run's folder; None where none does.

    Raises:
        StoreError: they were recorded by a newer version, or cannot be read.
    """
    try:
        data = (folder / WAITING).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explained(error, folder) from error
    begin = len(_MAGIC) + _LENGTH.size
    if data.startswith(_PROGRAM) and data[len(_PROGRAM) : len(_MAGIC)] > _VERSION:
        raise StoreError(
            f"Run {folder} was recorded by a newer gradpath, whose last steps wait to be measured: "
            "update gradpath (`pip install -U gradpath`)."
        )
    if not data.startswith(_MAGIC) or len(data) < begin:
        return None  # killed while it was begun
    (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
    if len(data) < begin + length:
        return None
    try:
        kind = Kind.from_json(data[begin : begin + length])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"Run {folder} cannot be completed: its {WAITING} is damaged; restore it from a copy, "
            "or delete it to go without the last steps."
        ) from error
    steps, gradients = _steps_in(memoryview(data)[begin + length :], kind)
    if not steps:
        return None
    return kind, stretch_of(kind, steps, torch.stack(gradients))


def stretch_of(kind: Kind, steps: Sequence[WaitingStep], gradients: Tensor) -> Stretch:
    """Returns steps of one kind side by side, whose gradients are the first (terms, params)."""
    return Stretch(
        kind.part,
        [step.stamp for step in steps],
        kind.layout,
        kind.terms,
        kind.scattered,
        gradients[: len(steps)],
        np.array([step.losses for step in steps]),
        np.array([step.weights for step in steps]),
        np.array([step.loss for step in steps]),
        np.array([step.learning_rate for step in steps]),
        np.array([step.deviations for step in steps]),
        np.array([step.self_check for step in steps]),
        np.array([step.seconds for step in steps]),
    )


def _steps_in(data: memoryview, kind: Kind) -> tuple[list[WaitingStep], list[Tensor]]:
    """Returns the steps in the slots of a file, and the gradients of each."""
    numbers, size = kind.numbers, kind.gradient_bytes
    length = numbers.size + size + _NUMBER.size
    terms = len(kind.terms)
    steps: list[WaitingStep] = []
    gradients: list[Tensor] = []
    for first in range(0, len(data) - length + 1, length):
        number, time, elapsed, evaluations, *others = numbers.unpack_from(data, first)
        loss, rate, check, seconds, *values = others
        if _NUMBER.unpack_from(data, first + length - _NUMBER.size) != (number,):
            break
        if steps and number <= steps[-1].stamp.step:
            break  # of the stretch before
        entries = bytearray(data[first + numbers.size : first + numbers.size + size])
        gradients.append(torch.frombuffer(entries, dtype=kind.dtype).reshape(terms, -1))
        counted = None if evaluations == _NOT_COUNTED else evaluations
        stamp = Stamp(number, time, elapsed, counted)
        losses, weights, deviations = (
            values[:terms],
            values[terms : 2 * terms],
            values[2 * terms :],
        )
        steps.append(WaitingStep(stamp, losses, weights, loss, rate, deviations, check, seconds))
    return steps, gradients
