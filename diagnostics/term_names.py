"""What the terms of a loss are called: in the caller's variables, else by their place in the graph.

Names are looked for where a training loop keeps its losses: local variables of the calling
functions, attributes of the objects among them, and one level of dictionaries and lists. A key of
a dictionary is a label somebody chose, so it wins over a variable; the position in a list comes
last, unless the variable is left over from a loop over just that list.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, Literal, cast
from zlib import crc32

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node
from torch.nn import Module

from .adjoints import backward_of
from .expression import Expression, dtype, entries, leaf_member, leaf_of, operation, shape
from .loop_variables import loop_variables
from .recording import user_frames

# Longer lists and dictionaries are data, not losses.
_MOST_MEMBERS = 256

# How much of a term's own graph tells it from others: enough for the loss function and the last
# layer's shapes, little enough to be read at every step.
_SIGNATURE_NODES = 12

# Operations that scale the entries of a vector one by one.
_ELEMENTWISE = frozenset(["Mul", "Div", "Neg", "Clone", "Alias", "ToCopy"])

# What PyTorch itself keeps in a module; its parameters are looked at separately.
_MODULE_STATE = frozenset(vars(Module()))


@dataclass(frozen=True, eq=False)
class Found:
    """A variable of the caller that holds the tensor of an edge."""

    name: str
    tensor: Tensor | None  # None where only the name is known
    kind: Literal["key", "variable", "attribute", "item"]
    container: int = 0  # identity of the list or dictionary it is a member of
    code: CodeType | None = None  # the function whose variable it is, and the instruction it is at
    instruction: int = 0

    @property
    def is_left_over(self) -> bool:
        """Whether it is a variable of a finished loop, which names only the last of the round."""
        return self.code is not None and self.name in loop_variables(self.code, self.instruction)


def find_variables(
    frame: FrameType | None, edges: Iterable[GradientEdge]
) -> dict[GradientEdge, Found]:
    """Returns the best name for each edge whose tensor is in a variable of `frame` or its callers.

    Args:
        frame: the innermost frame to search; frames inside PyTorch and gradpath are passed over.
        edges: the edges to be named.
    """
    by_place = {(id(edge.node), edge.output_nr): edge for edge in edges}
    by_leaf = {id(leaf): edge for edge in edges if (leaf := leaf_of(edge.node)) is not None}
    candidates: dict[GradientEdge, list[Found]] = {}
    for user_frame in user_frames(frame):
        for found in _tensors_of(user_frame):
            tensor = cast(Tensor, found.tensor)
            try:
                node = tensor.grad_fn
            except RuntimeError:
                continue  # one of several views of a tensor that was changed in place
            if node is None:
                edge = by_leaf.get(id(tensor))
            else:
                edge = by_place.get((id(node), tensor.output_nr))
            if edge is not None:
                candidates.setdefault(edge, []).append(found)
    incomplete = _partly_named_lists(candidates.values())
    return {edge: _best(founds, incomplete) for edge, founds in candidates.items()}


def name_tensors(frame: FrameType | None, tensors: Iterable[Tensor]) -> dict[int, str]:
    """Returns the name of the innermost variable that each tensor is in, by the tensor's id.

    Args:
        frame: the innermost frame to search, with its callers and what is global to them.
        tensors: what is to be named; those that are in no variable are left out.
    """
    wanted = set(map(id, tensors))
    names: dict[int, str] = {}
    for user_frame in user_frames(frame):
        variables = [*_tensors_of(user_frame), *_tensors_among(user_frame.f_globals.items())]
        for found in variables:
            if id(found.tensor) in wanted:
                names.setdefault(id(found.tensor), found.name)
    return names


def find_members(
    found: Mapping[GradientEdge, Found], expression: Expression
) -> dict[GradientEdge, Found]:
    """Returns names for the members of vectors that are in a variable, such as "losses[1]".

    The vector may have been scaled since it was put together (`losses *= weights`); the values of
    the members are what they were before.
    """
    members: dict[GradientEdge, Found] = {}
    for edge, vector in found.items():
        if vector.tensor is None or len(shape(edge)) != 1:
            continue
        container, scale = _unscaled(edge, expression)
        if container is not None:
            values = vector.tensor.detach() / scale
            for index, member in enumerate(expression.inputs[container]):
                if member is not None and member not in found:
                    value = values[index].reshape(shape(member)) if scale[index] != 0 else None
                    name = f"{vector.name}[{index}]"
                    members.setdefault(member, Found(name, value, "item", id(vector.tensor)))
    for edge in expression.leaves:
        place = leaf_member(edge)
        if place is not None and edge not in found and place[0] in found:
            vector = found[place[0]]
            if vector.tensor is not None:
                value = vector.tensor.detach()[place[1]]
                members[edge] = Found(f"{vector.name}[{place[1]}]", value, "item")
    return members


def _unscaled(edge: GradientEdge, expression: Expression) -> tuple[GradientEdge | None, Tensor]:
    """Returns the stack or cat of numbers that a vector is made from, and what it is scaled by."""
    scale = torch.ones(shape(edge), dtype=dtype(edge), device=edge.node._input_metadata[0].device)
    while edge in expression.inputs:
        children = expression.inputs[edge]
        if operation(edge.node) in ("Stack", "Cat"):
            numbers = len(children) == entries(edge)
            return (edge if numbers else None), scale
        if operation(edge.node) not in _ELEMENTWISE:
            break
        below = [child for child in children if child is not None]
        if len(below) != 1 or shape(below[0]) != shape(edge):
            break
        scale = cast(Tensor, backward_of(edge, scale)[children.index(below[0])]).detach()
        edge = below[0]
    return None, scale


def graph_name(edge: GradientEdge) -> str:
    """Returns a name for an edge from its operations, such as "mse_loss" or "mean(pow)"."""
    if leaf_of(edge.node) is not None:
        return "parameter"
    if (member := leaf_member(edge)) is not None:
        return f"parameter[{member[1]}]"
    kind = operation(edge.node)
    name = _snake_case(kind)
    if kind in ("Mean", "Sum"):
        child = next((child for child, _ in edge.node.next_functions if child is not None), None)
        if child is not None and leaf_of(child) is None:
            name += f"({_snake_case(operation(child))})"
    return name


def signature(edge: GradientEdge) -> str:
    """Returns a short code of how a term is computed: the same at every step of a loop."""
    parts: list[str] = []
    level: list[Node] = [edge.node]
    while level and len(parts) < _SIGNATURE_NODES:
        parts += [
            f"{operation(node)}{_width(node)}" for node in level[: _SIGNATURE_NODES - len(parts)]
        ]
        level = [child for node in level for child, _ in node.next_functions if child is not None]
    return f"{crc32(' '.join(parts).encode()):08x}"


def _width(node: Node) -> tuple[int, ...]:
    # Number of dimensions and features: the others are points or samples, and change in the last
    # batch of an epoch.
    sizes = shape(GradientEdge(node, 0))
    return (len(sizes), *sizes[1:][-1:])


def _tensors_of(frame: FrameType) -> Iterator[Found]:
    for found in _tensors_among(variables_of(frame)):
        if found.kind == "variable":
            yield replace(found, code=frame.f_code, instruction=frame.f_lasti)
        else:
            yield found


def _tensors_among(variables: Iterable[tuple[str, Any]]) -> Iterator[Found]:
    for name, value in list(variables):
        kind = type(value)
        if not name.isidentifier():
            continue  # written by a tool, such as pytest in an assertion
        if issubclass(kind, Tensor):
            yield Found(name, value, "variable")
        elif issubclass(kind, dict | list | tuple):
            yield from _members(name, value)
        elif not issubclass(kind, ModuleType | FunctionType | type):
            for attribute, content in _attributes(value):
                if issubclass(type(content), Tensor):
                    yield Found(attribute, content, "attribute")
                elif issubclass(type(content), dict | list | tuple):
                    yield from _members(attribute, content)


def variables_of(frame: FrameType) -> list[tuple[str, Any]]:
    """Returns the variables of a frame, without keeping them alive where that can be avoided."""
    variables = frame.f_locals
    items = list(variables.items())
    # Before Python 3.13 the frame keeps this dictionary, and with it the user's tensors after the
    # user has deleted them. Emptied, it holds none; but a debugger would take it for the variables
    # themselves. References that are nobody else's: the frame's, ours, the argument's.
    if (
        sys.version_info < (3, 13)
        and frame.f_code.co_flags & inspect.CO_OPTIMIZED
        and frame.f_trace is None
        and sys.getrefcount(variables) <= 3
    ):
        variables.clear()
    return items


def _members(name: str, container: Any) -> Iterator[Found]:
    # The methods of dict, list and tuple themselves: those of a subclass are the user's own code.
    if issubclass(type(container), dict):
        if dict.__len__(container) <= _MOST_MEMBERS:
            for key, value in list(dict.items(container)):
                if issubclass(type(value), Tensor):
                    label = key if type(key) is str and key else None
                    shown = f"{name}[{key!r}]" if label is None else label
                    yield Found(shown, value, "item" if label is None else "key", id(container))
        return
    base = list if issubclass(type(container), list) else tuple
    if base.__len__(container) <= _MOST_MEMBERS:
        fields = getattr(type(container), "_fields", None) if base is tuple else None
        for index, value in enumerate(base.__iter__(container)):
            if issubclass(type(value), Tensor):
                if fields is None:
                    yield Found(f"{name}[{index}]", value, "item", id(container))
                else:
                    yield Found(fields[index], value, "key", id(container))


def _attributes(value: object) -> Iterator[tuple[str, Any]]:
    # Past __getattribute__, which may be the user's own code.
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        yield from _slots(value)
        return
    if not issubclass(type(attributes), dict):
        return
    inner = _MODULE_STATE if issubclass(type(value), Module) else frozenset[str]()
    for name, content in islice(list(dict.items(attributes)), _MOST_MEMBERS):
        if name not in inner:
            yield name, content
    if inner:
        yield from list(attributes.get("_parameters", {}).items())


def _slots(value: object) -> Iterator[tuple[str, Any]]:
    for kind in type(value).__mro__:
        names = vars(kind).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else tuple(names):
            try:
                yield name, object.__getattribute__(value, name)
            except AttributeError:
                continue  # not set, or private


def _partly_named_lists(candidates: Iterable[list[Found]]) -> set[int]:
    """Returns the lists of which some members have no other name than their position."""
    incomplete: set[int] = set()
    for founds in candidates:
        if all(found.kind == "item" for found in founds):
            incomplete.update(found.container for found in founds)
    return incomplete


def _best(founds: list[Found], incomplete: set[int]) -> Found:
    def rank(found: Found) -> int:
        if found.kind == "key":
            return 0
        if found.kind == "item":
            return 5
        if found.kind == "attribute":
            return 3
        if found.name.startswith("_"):
            return 4
        return 2

    best = min(founds, key=rank)
    if best.code is not None:
        items = [f for f in founds if f.kind == "item" and f.container in incomplete]
        if items and best.is_left_over:
            return items[0]
    return best


def _snake_case(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("Backward"))
    return words.lower() or "term"
