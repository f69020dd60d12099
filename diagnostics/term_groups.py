"""Which leaves of an expression make one term together, and what the terms are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from torch.autograd.graph import GradientEdge

from .expression import Expression, entries, inputs_of, is_container, leaf_of, operation, shape
from .hooks import walk
from .recording import ForwardRecording
from .term_names import Found, graph_name, signature

NamedBy = Literal["variable", "position", "source", "nothing"]
FoundEdges = Mapping[GradientEdge, Found]

# A sum of more terms than this that are computed in one and the same way is a sum over samples or
# points, written as a loop: one term. No loss has that many conditions of one kind.
MOST_ALIKE = 16

# From this many on, functions of one parameter each that are computed in the same way are one
# penalty on all parameters: a network with two layers has four.
FEWEST_PENALIZED = 4

# What a term can be multiplied by and still be the same term.
_SCALINGS = frozenset(["Mul", "Div", "Neg"])

# A penalty is a norm, perhaps of a difference, perhaps weighted and scaled.
_PENALTY_NODES = 12


@dataclass(frozen=True)
class Draft:
    """A term before its weight and value are known."""

    edges: tuple[GradientEdge, ...]
    name: str | None
    named_by: NamedBy
    place: str | None  # file and line where it was computed, where known
    by_sum: bool = False  # whether its edges count by their sum, not by their mean

    @property
    def has_own_name(self) -> bool:
        """Whether the user has given a name to just this one."""
        return self.named_by in ("variable", "position")


def group_leaves(
    expression: Expression, found: FoundEdges, recording: ForwardRecording | None
) -> list[Draft]:
    """Returns the terms of an expression, in the order they are written.

    Args:
        expression: the expanded top of the loss.
        found: the caller's variables that hold tensors of it.
        recording: of the forward pass, where there is one.
    """
    parents = _parents(expression)
    leaves = [_recorded(leaf, parents, recording) for leaf in expression.leaves]
    if recording is not None and len(leaves) > 1:  # what holds the whole loss is no term
        leaves = [_assigned(leaf, parents, recording) for leaf in leaves]
    edges = dict.fromkeys(_reduced(leaf, parents, found) for leaf in leaves)
    drafts = [_draft(edge, found, recording) for edge in edges]
    drafts = _merge_named(drafts, expression, parents, found)
    return _merge_alike(_merge_penalty(drafts, found), found)


def with_unique_names(drafts: Sequence[Draft]) -> Iterator[tuple[Draft, str, str]]:
    """Yields (draft, identity, name); the second of one name is called "name#2"."""
    names: set[str] = set()
    identities: set[str] = set()
    for draft in drafts:
        base = draft.name or graph_name(draft.edges[0])
        name = numbered(base, names)
        code = name if draft.name else f"{base}:{signature(draft.edges[0])}"
        yield draft, numbered(code, identities), name


def numbered(base: str, taken: set[str]) -> str:
    """Returns a name that is not taken, "base" or "base#2" and so on, and takes it."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}#{count}"
    taken.add(name)
    return name


def _parents(expression: Expression) -> dict[GradientEdge, set[GradientEdge]]:
    parents: dict[GradientEdge, set[GradientEdge]] = {}
    for edge, inputs in expression.inputs.items():
        for child in inputs:
            if child is not None:
                parents.setdefault(child, set()).add(edge)
    return parents


def _recorded(
    leaf: GradientEdge,
    parents: Mapping[GradientEdge, set[GradientEdge]],
    recording: ForwardRecording | None,
) -> GradientEdge:
    """Returns the alias as which a leaf was recorded: tensor classes make one of every result."""
    edge = leaf
    while recording is not None and recording.origin(edge) is None:
        above = parents.get(edge, set())
        if len(above) != 1:
            return leaf
        (edge,) = above
        if operation(edge.node) != "Alias":
            return leaf
    return edge


def _assigned(
    leaf: GradientEdge,
    parents: Mapping[GradientEdge, set[GradientEdge]],
    recording: ForwardRecording,
) -> GradientEdge:
    """Returns the scaled leaf that the source has a variable for, if it has none for the leaf.

    `kl = -0.5 * (...).sum()` is called `kl` by its author, and has the sign that is meant.
    """
    edge = leaf
    while (origin := recording.origin(edge)) is None or origin.variable is None:
        above = parents.get(edge, set())
        if len(above) != 1:
            return leaf
        (edge,) = above
        if operation(edge.node) not in _SCALINGS or shape(edge) != shape(leaf):
            return leaf
        if sum(each is not None for each in inputs_of(edge.node)) > 1:
            return leaf
    return edge


def _reduced(
    leaf: GradientEdge, parents: Mapping[GradientEdge, set[GradientEdge]], found: FoundEdges
) -> GradientEdge:
    """Returns the sum or mean that a leaf ends in, where that has one point by chance.

    The mean over a batch of one is expanded, as one entry is a term like any other. But a term
    should not change its name with the size of the batch.
    """
    edge = leaf
    while edge not in found and shape(edge) != ():
        above = parents.get(edge, set())
        if len(above) != 1:
            return leaf
        (edge,) = above
        if is_container(edge) or sum(each is not None for each in inputs_of(edge.node)) > 1:
            return leaf
        if operation(edge.node) in ("Sum", "Mean"):
            return edge
    return edge if edge in found else leaf


def _draft(edge: GradientEdge, found: FoundEdges, recording: ForwardRecording | None) -> Draft:
    origin = None if recording is None else recording.origin(edge)
    place = None if origin is None else origin.place
    if edge in found:
        named_by: NamedBy = "position" if found[edge].kind == "item" else "variable"
        return Draft((edge,), found[edge].name, named_by, place)
    if origin is not None and origin.name is not None:
        return Draft((edge,), origin.name, "source", place)
    return Draft((edge,), None, "nothing", place)


def _merge_named(
    drafts: list[Draft],
    expression: Expression,
    parents: Mapping[GradientEdge, set[GradientEdge]],
    found: FoundEdges,
) -> list[Draft]:
    """Puts nameless terms together that the user has put together under a name.

    `loss_b = mse(left) + mse(right)` is one term to its author. A variable that holds the whole
    loss is not a term, and neither are terms put together that have names of their own.
    """
    named = [edge for edge in expression.inputs if edge in found and entries(edge) == 1]
    parts = {edge: _below(edge, expression) for edge in named}
    for edge in sorted(named, key=lambda each: (found[each].is_left_over, len(parts[each]))):
        inside = [draft for draft in drafts if draft.edges[0] in parts[edge]]
        # A term that is also used outside would be counted twice.
        apart = all(parents[part] <= parts[edge] for part in parts[edge] if part != edge)
        nameless = all(not d.has_own_name or _is_left_over(d, inside, found) for d in inside)
        if apart and nameless and 0 < len(inside) < len(drafts):
            merged = replace(_draft(edge, found, None), place=inside[0].place)
            drafts = _put_together(drafts, inside, merged)
    return drafts


def _below(edge: GradientEdge, expression: Expression) -> set[GradientEdge]:
    below: set[GradientEdge] = set()
    waiting = [edge]
    while waiting:
        part = waiting.pop()
        if part not in below:
            below.add(part)
            waiting.extend(c for c in expression.inputs.get(part, ()) if c is not None)
    return below


def _is_left_over(draft: Draft, others: Sequence[Draft], found: FoundEdges) -> bool:
    """Whether a variable names the last of several nameless terms by chance (`loop_variables`)."""
    edge = draft.edges[0]
    return (
        draft.named_by == "variable"
        and found[edge].is_left_over
        and any(not o.has_own_name and signature(o.edges[0]) == signature(edge) for o in others)
    )


def _put_together(drafts: list[Draft], inside: Sequence[Draft], merged: Draft) -> list[Draft]:
    """Returns the drafts with `merged` in the place of the first of those inside it."""
    ids = {id(draft) for draft in inside[1:]}
    return [merged if d is inside[0] else d for d in drafts if id(d) not in ids]


def _merge_penalty(drafts: list[Draft], found: FoundEdges) -> list[Draft]:
    """Puts the penalties on single parameters together, as in a weight decay."""
    if len(drafts) < FEWEST_PENALIZED:
        return drafts
    nameless = [d for d in drafts if not d.has_own_name or _is_left_over(d, drafts, found)]
    groups: dict[tuple[str, ...], list[Draft]] = {}
    for draft in nameless:
        operations = _penalty(draft.edges[0])
        if operations is not None:
            groups.setdefault(operations, []).append(draft)
    for group in groups.values():
        if len({_leaf_below(draft.edges[0]) for draft in group}) >= FEWEST_PENALIZED:
            drafts = _put_together(drafts, group, _joined(group, by_sum=True))
    return drafts


def _penalty(edge: GradientEdge) -> tuple[str, ...] | None:
    """Returns the operations of a short expression of one leaf; None for anything else."""
    nodes = list(islice(walk([edge.node]), _PENALTY_NODES))
    leaves = [node for node in nodes if leaf_of(node) is not None]
    if len(nodes) == _PENALTY_NODES or len(leaves) != 1:
        return None
    return tuple(operation(node) for node in nodes)


def _leaf_below(edge: GradientEdge) -> int:
    return next(id(leaf) for node in walk([edge.node]) if (leaf := leaf_of(node)) is not None)


def _merge_alike(drafts: list[Draft], found: FoundEdges) -> list[Draft]:
    """Puts terms together that are one term computed point by point in a loop."""
    if len(drafts) <= MOST_ALIKE:
        return drafts
    groups: dict[tuple[str, str], list[Draft]] = {}
    for draft in drafts:
        if draft.named_by != "variable":
            kind = _loop_name(draft) or "", signature(draft.edges[0])
            groups.setdefault(kind, []).append(draft)
    for group in groups.values():
        if len(group) > MOST_ALIKE:
            named = (draft for draft in drafts if draft.named_by == "variable")
            last = [d for d in named if _is_left_over(d, group[:1], found)]
            drafts = _put_together(drafts, [*group, *last], _joined([*group, *last]))
    return drafts


def _joined(group: Sequence[Draft], *, by_sum: bool = False) -> Draft:
    names = [d.name for d in group if d.named_by == "variable"]
    name = names[0] if names else _loop_name(group[0])
    return replace(group[0], edges=tuple(d.edges[0] for d in group), name=name, by_sum=by_sum)


def _loop_name(draft: Draft) -> str | None:
    """Returns what the members of a list have in common, which is the name of the list."""
    if draft.name is not None and draft.named_by == "position":
        return draft.name.partition("[")[0]
    return draft.name
