"""Finding the hooks of tensors inside a graph, which nothing leads to but the collector's list."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .instances import instances_among

Hook = Callable[..., Any]
Hooks = OrderedDict[Any, Hook]


def search(handles: range, accounted: set[int]) -> list[Hooks]:
    """Returns the dictionaries of tensors, alive or gone, that hold a handle not accounted for."""
    objects = gc.get_objects()
    with torch._C.DisableTorchFunction():
        tensors = instances_among(objects, Tensor)
        shown = [hooks for tensor in tensors if (hooks := tensor._backward_hooks)]
    known = {id(hooks) for hooks in shown}
    hidden = [
        item
        for item in objects
        if type(item) is OrderedDict
        and id(item) not in known
        and any(type(k) is int and k in handles and k not in accounted for k in item)
        and all(map(callable, item.values()))
    ]
    # The dictionary of a tensor that is gone, or of a node, is held by the graph, which the
    # collector does not see into. A module or an optimizer holds its own where it does see.
    held = _referred_to(hidden, ignoring=(objects, hidden)) if hidden else set()
    return shown + [hooks for hooks in hidden if id(hooks) not in held]


def _referred_to(items: Sequence[object], ignoring: Sequence[object]) -> set[int]:
    """Returns the id of each item that some Python object (other than those) refers to."""
    ids = set(map(id, items))
    ignored = set(map(id, ignoring))
    return {
        id(item)
        for holder in gc.get_referrers(*items)
        # Frames are those of this search: a debugger or profiler makes them visible.
        if id(holder) not in ignored and type(holder).__name__ not in ("frame", "list_iterator")
        for item in gc.get_referents(holder)
        if id(item) in ids
    }
