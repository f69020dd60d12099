"""The parts of a run: sets of parameters that are trained together, each with steps of its own.

Most loops have one. The generator and the discriminator of a GAN are two, and so are two networks
that one script trains one after the other. What is trained together shows when optimizers step: a
part is what the optimizers own that step between two backward passes. Before a first step it is a
guess, which `Parts.settle` corrects.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from types import FrameType
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.optim import Optimizer

from ..diagnostics.layout import ParameterLayout
from .models import (
    MovedByHand,
    Optimizers,
    find_models,
    layout_of,
    owned,
    signature,
    variables_with,
)

Key = frozenset[str]  # the identities of the terms of a loss


@dataclass(eq=False)
class Part:
    """One set of parameters that are trained together.

    Attributes:
        name: "" while the run has one part alone.
        models: that own the parameters, by the prefixes of their layers.
        layout: of all the parameters.
        signature: of the models when the layout was made.
        step: the number of the step that is being taken.
        evaluations: of the loss so far, where an optimizer takes several a step; None elsewhere.
        is_counted: whether the step since the last backward pass has been counted.
        counts_passes: whether nobody steps, so that each backward pass is a step.
        has_passed: whether a backward pass of it was seen.
        is_guess: whether it is not known yet which optimizers step.
        follow_up: a step and its losses, with which those of the next are to be compared.
        idle_until: the step before which nothing is due.
    """

    name: str
    models: Mapping[str, nn.Module]
    layout: ParameterLayout
    signature: tuple[tuple[int, bool], ...]
    step: int = 0
    evaluations: int | None = None
    is_counted: bool = False
    counts_passes: bool = False
    has_passed: bool = False
    is_guess: bool = True
    follow_up: tuple[int, dict[str, float | None]] | None = None
    idle_until: int = 0
    _ids: tuple[ParameterLayout, set[int]] | None = None
    _optimizers: list[weakref.ref[Optimizer]] = field(default_factory=list)

    @property
    def optimizers(self) -> list[Optimizer]:
        """The living optimizers that move it."""
        return [optimizer for ref in self._optimizers if (optimizer := ref()) is not None]

    @optimizers.setter
    def optimizers(self, optimizers: Iterable[Optimizer]) -> None:
        self._optimizers = [weakref.ref(optimizer) for optimizer in optimizers]

    @property
    def parameter_ids(self) -> set[int]:
        """The ids of its parameters."""
        if self._ids is None or self._ids[0] is not self.layout:
            self._ids = self.layout, set(map(id, self.layout.parameters))
        return self._ids[1]

    def is_moved_by(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer is one of those that move it."""
        return optimizer in [ref() for ref in self._optimizers]

    def count_step(self) -> None:
        """Counts a step, once between two backward passes."""
        if not self.is_counted:
            self.is_counted = True
            self.step += 1


@dataclass(eq=False)
class _Count:
    """Steps of one optimizer; a dictionary with weak keys would take longer than all the rest."""

    of: weakref.ref[Optimizer]
    steps: int = 0


class Parts:
    """All parts seen so far.

    Args:
        models: what the user wants watched, by prefix; empty: whatever the losses reach.
        optimizers: the living ones.
    """

    def __init__(self, models: Mapping[str, nn.Module], optimizers: Optimizers) -> None:
        self._models = models
        self._optimizers = optimizers
        self._learned: dict[Key, Part] = {}
        # Steps of optimizers that belong to no part yet, and of all, since they are watched.
        self._uncounted: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._session_steps: dict[int, _Count] = {}
        self._by_hand = MovedByHand()
        self.all: list[Part] = []

    def find(
        self,
        key: Key,
        reaches: Callable[[set[int]], bool],
        leaves: Callable[[], Sequence[Tensor]],
        frame: FrameType | None,
        look_again: bool,
    ) -> Part | None:
        """Returns the part that a loss trains, a new one where it is none of those known.

        Args:
            key: the identities of its terms.
            reaches: says whether its graph reaches any of some parameters, given by their ids.
            leaves: returns the leaves of its graph; finding them takes as long as a small network.
            frame: where names are looked for.
            look_again: whether there may be new parameters.

        Returns:
            None where the loss does not reach the models that are watched.

        Raises:
            LayoutError: nobody trains what the loss reaches.
        """
        part = self._learned.get(key)
        if part is not None and not reaches(part.parameter_ids):
            part = None  # another model, with terms of the same names
        if part is not None and not look_again and signature(part.models) == part.signature:
            return part
        reached = leaves()
        if self._models and not self._reaches_models(reached):
            return None
        owners = self._owners(reached)
        part = part or self._known(reached, owners)
        if part is None:
            part = self._make(reached, owners, frame)
            self.all.append(part)
        elif not part.is_guess:
            self._refresh(part, reached, frame)
        if part.counts_passes and part.has_passed and self.hand_moved > 1:
            part.step += 1
        part.has_passed = True
        if not part.is_guess:
            self._learned[key] = part
        return part

    def settle(
        self, part: Part, keys: Iterable[Key], stepped: Sequence[Optimizer]
    ) -> tuple[Part, bool]:
        """Says which optimizers stepped after the backward passes of some losses.

        Returns:
            The part that they belong to, and whether it is smaller than the guess was, so that
            curvature of the guess is not its own.
        """
        moved = set().union(*map(owned, stepped))
        found, shrunk = part, False
        if stepped and part.is_guess:
            found, shrunk = self._settled(part, moved, stepped)
        elif stepped:
            part.optimizers = stepped
        if not found.is_guess:
            self._learned.update(dict.fromkeys(keys, found))
        return found, shrunk

    def _settled(
        self, part: Part, moved: set[int], stepped: Sequence[Optimizer]
    ) -> tuple[Part, bool]:
        shrunk = not part.parameter_ids <= moved
        others = (other for other in self.all if other is not part and not other.is_guess)
        known = next((other for other in others if other.parameter_ids & moved), None)
        if shrunk and known is not None:
            self.all = [other for other in self.all if other is not part]
            return known, True
        if shrunk:
            part.layout = part.layout.select(lambda _, parameter: id(parameter) in moved)
        part.optimizers, part.is_guess = stepped, False
        return part, shrunk

    @property
    def hand_moved(self) -> int:
        """How many parts there are that no optimizer moves."""
        return sum(part.counts_passes for part in self.all)

    def stepped(self, optimizer: Optimizer) -> Part | None:
        """Counts the step of an optimizer; returns its part, None where it has none yet."""
        count = self._session_steps.get(id(optimizer))
        if count is None or count.of() is not optimizer:
            count = self._session_steps[id(optimizer)] = _Count(weakref.ref(optimizer))
        count.steps += 1
        part = self._moved_by(optimizer)
        if part is not None:
            part.counts_passes = False
            part.count_step()
            return part
        self._uncounted[optimizer] = self._uncounted.get(optimizer, 0) + 1
        return None

    def session_steps(self, optimizer: Optimizer) -> int:
        """Returns how many steps an optimizer has taken since it is watched."""
        count = self._session_steps.get(id(optimizer))
        return count.steps if count is not None and count.of() is optimizer else 0

    def new_pass(self) -> None:
        """A backward pass begins: the next step of each part counts."""
        for part in self.all:
            part.is_counted = False
            if part.counts_passes and part.has_passed and self.hand_moved == 1:
                part.step += 1

    def _moved_by(self, optimizer: Optimizer) -> Part | None:
        for part in self.all:
            if part.is_moved_by(optimizer):
                return part
        moved = owned(optimizer)
        known = (part for part in self.all if not part.is_guess)
        return next((part for part in known if not moved.isdisjoint(part.parameter_ids)), None)

    def _owners(self, leaves: Sequence[Tensor]) -> list[Optimizer]:
        owners = self._optimizers.owners(leaves)
        if self._models:
            # The optimizer of a discriminator is nobody's business where a generator is watched.
            ids = {id(p) for model in self._models.values() for p in model.parameters()}
            owners = [each for each in owners if not ids.isdisjoint(owned(each))]
        return owners

    def _reaches_models(self, leaves: Iterable[Tensor]) -> bool:
        ids = {id(p) for model in self._models.values() for p in model.parameters()}
        return any(id(leaf) in ids for leaf in leaves)

    def _known(self, leaves: Sequence[Tensor], owners: Sequence[Optimizer]) -> Part | None:
        ids = set(map(id, leaves))
        if owners:
            groups = _joined([owned(optimizer) & ids for optimizer in owners])
            if len(groups) > 1:
                # Several optimizers move disjoint parts of it; who steps is not known yet.
                joint = set().union(*groups)
                return next((p for p in self.all if p.parameter_ids >= joint), None)
            ids = set().union(*(owned(optimizer) for optimizer in owners))
        overlapping = (part for part in self.all if part.parameter_ids & ids)
        return max(overlapping, key=lambda part: len(part.parameter_ids & ids), default=None)

    def _make(
        self, leaves: Sequence[Tensor], owners: Sequence[Optimizer], frame: FrameType | None
    ) -> Part:
        models = self._models or find_models(_trained(leaves, owners), frame)
        layout = layout_of(models, leaves, owners, self._bare(leaves, owners), frame)
        part = Part("", models, layout, signature(models))
        part.optimizers = owners
        part.counts_passes = not owners
        part.step = max((self._uncounted.pop(o, 0) for o in owners), default=0)
        part.is_guess = len(_joined([owned(o) & part.parameter_ids for o in owners])) > 1
        return part

    def _refresh(self, part: Part, leaves: Sequence[Tensor], frame: FrameType | None) -> None:
        """Makes the layout anew where parameters were added, frozen or unfrozen."""
        owners = part.optimizers or self._owners(leaves)
        now = signature(part.models)
        trained = _trained(leaves, owners)
        bare = self._bare(leaves, owners)
        missing = {id(leaf) for leaf in (*trained, *bare)} - part.parameter_ids
        if now == part.signature and not missing:
            return
        models = part.models
        if missing and not self._models:
            models = find_models(_trained(leaves, owners), frame)
        part.layout = layout_of(models, leaves, owners, bare, frame)
        part.models, part.signature = models, signature(models)
        if owners:
            part.optimizers = owners

    def _bare(self, leaves: Sequence[Tensor], owners: Sequence[Optimizer]) -> list[Tensor]:
        if owners:
            return []
        return self._by_hand.among(leaf for leaf in leaves if not isinstance(leaf, nn.Parameter))


def label_of(part: Part, frame: FrameType | None) -> str:
    """Returns what a part is called beside others: its place in a model, or the model's name."""
    paths = [layer.split(".") for layer in part.layout.layers]
    shared = list(takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False)))
    pieces = [names[0] for names in shared]
    if len(paths) == 1:
        pieces = pieces[:-1]  # the layer itself
    while pieces and pieces[-1].isdigit():
        pieces.pop()
    if pieces:
        return ".".join(pieces)
    main = max(
        part.models.values(),
        key=lambda model: len({id(p) for p in model.parameters()} & part.parameter_ids),
        default=None,
    )
    if main is None:
        return "parameters"
    return variables_with([main], frame).get(id(main), type(main).__name__)


def _trained(leaves: Sequence[Tensor], owners: Sequence[Optimizer]) -> list[Tensor]:
    """Returns the leaves that are parameters: what an optimizer owns, else what modules do."""
    if owners:
        moved = set().union(*map(owned, owners))
        return [leaf for leaf in leaves if id(leaf) in moved]
    return [leaf for leaf in leaves if isinstance(leaf, nn.Parameter)]


def _joined(sets: Sequence[set[int]]) -> list[set[int]]:
    """Returns the unions of those sets that overlap, directly or through others."""
    groups: list[set[int]] = []
    for each in sets:
        overlapping = [group for group in groups if group & each]
        groups = [group for group in groups if not group & each]
        groups.append(each.union(*overlapping))
    return groups
