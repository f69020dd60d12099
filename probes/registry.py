"""The parts of a run and what belongs to each: name, first number, processes, description."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..diagnostics.errors import ArgumentError, GradpathError
from ..diagnostics.layout import ParameterLayout
from ..diagnostics.term_groups import numbered
from .bench import Bench
from .models import Optimizers, signature
from .open_step import OpenStep
from .parts import Part, Parts, label_of
from .recorder import Recorder
from .records import Event
from .replicas import Replicas
from .snapshot import Pass

PROBE = "probe"  # who is named where the probe itself has something to say

_PATIENCE = 50  # backward passes after which an optimizer that has not stepped is not expected to


class Registry:
    """Finds the part that a backward pass belongs to, and introduces new ones to the run.

    Args:
        models: what the user wants watched, by prefix; empty: whatever the losses reach.
        optimizers: the living ones.
        bench: the instruments.
        recorder: of the run.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        optimizers: Optimizers,
        bench: Bench,
        recorder: Recorder,
    ) -> None:
        self.parts = Parts(models, optimizers)
        self.look_again = True
        self._models = models
        self._bench = bench
        self._recorder = recorder
        self._replicas: dict[Part, Replicas] = {}
        self._expected: list[weakref.ref[Optimizer]] = []  # new ones, which have not stepped yet
        self._patience = 0

    def expect(self, optimizer: Optimizer) -> None:
        """Looks at the next backward passes, whatever is due: one may belong to a new part."""
        self.look_again, self._patience = True, _PATIENCE
        self._expected.append(weakref.ref(optimizer))

    def replicas_of(self, part: Part) -> Replicas:
        """Returns the processes that train the part."""
        if part not in self._replicas:
            self._replicas[part] = Replicas.of(part.models.values())
        return self._replicas[part]

    def find(self, one: Pass, leaves: Callable[[], Sequence[Tensor]]) -> Part | None:
        """Returns the part that a pass belongs to; None where it is not watched."""
        frame = sys._getframe(1)
        known = len(self.parts.all)
        try:
            part = self.parts.find(one.key, one.reaches, leaves, frame, self.look_again)
        except GradpathError as error:
            self.note_missing(str(error))
            return None
        # Who is moved by hand is found out by looking at all leaves each time.
        self.look_again = self.parts.hand_moved > 1 or self._expects_one()
        if part is not None and len(self.parts.all) > known:
            self._introduce(part, one, frame)
        return part

    def _expects_one(self) -> bool:
        """Whether a new optimizer may be about to step; of some that are made, none ever does."""
        living = [ref for ref in self._expected if not self._has_stepped(ref())]
        self._expected = living if self._patience > 0 else []
        self._patience -= 1
        return bool(self._expected)

    def _has_stepped(self, optimizer: Optimizer | None) -> bool:
        return optimizer is None or self.parts.session_steps(optimizer) > 0

    def of_model(self) -> Part:
        """Returns the part of the whole model, for steps that nobody sees a backward pass of.

        Raises:
            ArgumentError: the probe was made without a model.
        """
        if not self.parts.all:
            if not self._models:
                raise ArgumentError(
                    "probe.record needs to know the parameters: make the probe with the model."
                )
            sources: list[Any] = [
                {prefix: model} if prefix else model for prefix, model in self._models.items()
            ]
            layout = ParameterLayout.of(*sources)
            part = Part("", self._models, layout, signature(self._models))
            part.is_guess = False
            self.parts.all.append(part)
        return self.parts.all[0]

    def note_missing(self, reason: str) -> None:
        """Says once why something is missing that belongs to no step."""
        events = self._bench.missing("", PROBE, reason)
        self._recorder.note(*(event for event in events if isinstance(event, Event)))

    def describe(self, part: Part, one: Pass) -> None:
        """Says in run.json what is trained, and on what loss."""
        about = {
            "loss_expression": " + ".join(f"{t.weight:g} * {t.name}" for t in one.terms),
            "parameters": part.layout.size,
            "dtype": str(part.layout.dtype).removeprefix("torch."),
            "device": str(part.layout.device),
            "layers": [
                {"layer": slot.layer, "parameter": slot.kind, "shape": list(slot.shape)}
                for slot in part.layout.slots
            ],
            "optimizers": [type(optimizer).__name__ for optimizer in part.optimizers],
        }
        if part.name:
            self._recorder.describe_part(part.name, about)
        else:
            self._recorder.describe(torch_seed=torch.initial_seed(), **about)

    def settle(self, step: OpenStep) -> Part:
        """Returns the part that a step is of, now that it is known which optimizers took it."""
        guess = step.part
        was_guess = guess.is_guess
        part, shrunk = self.parts.settle(guess, list(step.passes), step.stepped)
        if shrunk:
            step.restrict(part)
        if was_guess and part is guess and not part.is_guess:
            self._introduce(part, next(iter(step.passes.values())), sys._getframe(1))
            step.number = max(0, part.step - 1)
        return part

    def _introduce(self, part: Part, one: Pass, frame: FrameType | None) -> None:
        self._recorder.begin()
        self.replicas_of(part)
        if part.is_guess:
            return  # until it is known what it is
        self._name_apart(part, frame)
        self._continue_number(part)
        self.describe(part, one)

    def _name_apart(self, new: Part, frame: FrameType | None) -> None:
        """Gives all parts names as soon as there are two, or were before a resume."""
        known = [part for part in self.parts.all if not part.is_guess]
        if len(self.parts.all) < 2 and not self._recorder.named_parts():
            return
        taken = {part.name for part in known if part.name}
        for part in known:
            if part.name:
                continue
            name = numbered(label_of(part, frame), taken)
            if part is not new:
                self._recorder.rename_part(part.name, name)
                self._bench.rename_part(part.name, name)
            part.name = name

    def _continue_number(self, part: Part) -> None:
        """After a resume, counts on from the optimizer's own number, else from the last step."""
        if not self._recorder.is_resumed:
            return
        # Without the steps that it has taken since it is watched.
        since = self.parts.session_steps
        own = [
            before
            for each in part.optimizers
            if (before := (_steps_taken(each) or 0) - since(each)) > 0
        ]
        last = self._recorder.last_step(part.name)
        if own:
            part.step += max(own)
        elif last is not None:
            part.step += last + 1


def _steps_taken(optimizer: Optimizer) -> int | None:
    """Returns how many steps an optimizer has taken, where its state says so."""
    steps = [
        float(state["step"])
        for state in optimizer.state.values()
        if isinstance(state, Mapping) and "step" in state
    ]
    return int(max(steps)) if steps else None
