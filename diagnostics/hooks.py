"""Keeping the user's backward hooks silent while gradpath differentiates the user's graph.

`torch.autograd.grad` runs the hooks that users and their tools (wandb.watch, module backward hooks,
`retain_grad`) have put on the tensors and nodes it passes. They would see gradients that no
training step ever had. PyTorch has no switch for it, but every Python hook lives in an ordinary
dictionary that the engine looks into when it runs. For the moment each hook there is replaced by
one that knows in whose backward pass it is called: nothing is removed, the order stays, and a
training in another thread keeps its hooks meanwhile.

Finding those dictionaries is the work here:

- a leaf shows its own: `tensor._backward_hooks`;
- a node's comes with the handle of a hook that we add and take away at once;
- that of a tensor inside the graph can be reached from the tensor alone, which may be anywhere or
  gone, so the garbage collector's list of objects is searched, which takes tens of milliseconds.

Every handle of PyTorch takes the next number of one counter. While that stands still nobody has
registered anything, so a graph built since can carry no hook, and the search is left out.
"""

from __future__ import annotations

import functools
import gc
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.nn.modules import module as torch_module
from torch.utils.hooks import RemovableHandle

from .hook_search import Hook, Hooks, search
from .instances import instances_among

# Elsewhere the collector has no middle generation that would hold what a step has just made.
_HAS_YOUNG_GENERATIONS = sys.version_info < (3, 14) and not sysconfig.get_config_var(
    "Py_GIL_DISABLED"
)

_MARK = "gradpath is differentiating"


def walk(roots: Iterable[Node]) -> Iterator[Node]:
    """Yields every node at and below `roots`, each once."""
    waiting = list(roots)
    seen = set(waiting)
    take, wait, note = waiting.pop, waiting.append, seen.add  # a loop that every step runs
    while waiting:
        node = take()
        yield node
        for child, _ in node.next_functions:
            if child is not None and child not in seen:
                note(child)
                wait(child)


def walk_below(ends: Iterable[Tensor | GradientEdge]) -> Iterator[Node]:
    """Yields every node of the graph at and below `ends`, each once."""
    nodes = (end.grad_fn if isinstance(end, Tensor) else end.node for end in ends)
    return walk(node for node in nodes if node is not None)


@contextmanager
def quiet(
    outputs: Sequence[Tensor | GradientEdge], inputs: Sequence[Tensor | GradientEdge]
) -> Iterator[None]:
    """Silences every backward hook between `outputs` and `inputs` for the length of the block.

    Hooks of leaves, of tensors inside the graph (also where the tensor itself is gone), of nodes
    and modules are kept from running; `.grad` of tensors with `retain_grad()` is put back
    afterwards, which a block inside another leaves to the outer one. One thread at a time is
    inside; the ordinary backward passes of others go on with their hooks.

    Hooks written in C++ and `saved_tensors_hooks`, which the backward pass needs, do run. So do
    those of a tensor inside the graph that `gc.freeze()` has hidden together with the graph.
    """
    ends = [*outputs, *inputs]
    with _census.lock:
        outermost = not _census.depth
        retaining = _census.retaining_below(ends) if outermost else []
        retained = [(tensor, tensor.grad) for tensor in retaining]
        with _silenced(_census.hooks_of(ends)), Ours():
            try:
                yield
            finally:
                for tensor, gradient in retained:
                    tensor.grad = gradient
        if outermost:
            _census.skip_own_collections()


@contextmanager
def unwatched_modules() -> Iterator[None]:
    """Silences the hooks that are on all modules of the process, while a copy of one runs."""
    with _census.lock, _silenced(_dictionaries_of_all_modules()), Ours():
        yield


def is_ours() -> bool:
    """Whether this is called, by the autograd engine or otherwise, from within an `Ours` block."""
    return bool(torch._C._is_key_in_tls(_MARK) and torch._C._get_obj_in_tls(_MARK))


def are_unhooked(leaves: Sequence[Tensor]) -> bool:
    """Whether nothing would be called for a gradient that arrives at some leaves.

    Only what was found is known, so after a `quiet` block between a loss and these leaves.
    """
    with _census.lock:
        if not _census.is_up_to_date or _own_hooks(leaves):
            return False
        return not _census.known_hooks() or _census.nodes_are_unhooked(leaves)


def handles_so_far() -> int:
    """Returns a number that grows with every hook that anybody registers, and with nothing else."""
    return RemovableHandle.next_id


def none_retains_its_gradient() -> bool:
    """Whether no tensor in a graph is known to, and whoever asks for it from now on will be."""
    census = _census
    return census.follows_retain_grad and not any(ref() is not None for ref in census.retaining)


@contextmanager
def known_silenced() -> Iterator[None]:
    """Silences the hooks that are known, as `quiet` does, which looks for others as well."""
    with _census.lock, _silenced(_census.known_hooks()), Ours():
        yield


def follow_retain_grad() -> Callable[[], None]:
    """Takes note of every call of `Tensor.retain_grad` from now on.

    The search for tensors that retain their gradients is needed once then, not at each `quiet`.

    Returns:
        what puts `Tensor.retain_grad` back.
    """
    original = Tensor.retain_grad

    @functools.wraps(original)
    def retain_grad(self: Tensor) -> None:
        original(self)
        if not self.is_leaf:
            _census.retaining.append(weakref.ref(self))

    with _census.lock:
        setattr(Tensor, "retain_grad", retain_grad)  # noqa: B010
        found = instances_among(gc.get_objects(), Tensor)
        _census.retaining = [weakref.ref(tensor) for tensor in found if tensor.retains_grad]
        _census.follows_retain_grad = True

    def stop() -> None:
        with _census.lock:
            # Where somebody has wrapped ours meanwhile, theirs stays.
            if Tensor.retain_grad is retain_grad:
                setattr(Tensor, "retain_grad", original)  # noqa: B010
            _census.follows_retain_grad = False
            _census.collections = -1

    return stop


def account_for(handle: RemovableHandle) -> None:
    """Says that a handle just taken by gradpath leads to no backward hook."""
    if _census.next_handle == handle.id:
        _census.next_handle += 1


@cache
def pre_hooks_of_all_modules() -> Hooks:
    """Returns the dictionary of hooks that run before any module does.

    To put one in and take it out again takes a tenth of the time of a handle.
    """
    handle = torch_module.register_module_forward_pre_hook(_nothing)
    account_for(handle)
    hooks = cast(Hooks, handle.hooks_dict_ref())
    handle.remove()
    return hooks


@cache
def _dictionaries_of_all_modules() -> list[Hooks]:
    registers: tuple[Callable[..., RemovableHandle], ...] = (
        torch_module.register_module_forward_hook,
        torch_module.register_module_forward_pre_hook,
        torch_module.register_module_full_backward_hook,
        torch_module.register_module_full_backward_pre_hook,
    )
    return [hooks for hooks in map(_dictionary_behind, registers) if hooks is not None]


@contextmanager
def _silenced(dictionaries: Iterable[Hooks]) -> Iterator[None]:
    replaced: list[tuple[Hooks, int, _Silenced]] = []
    try:
        for hooks in dictionaries:
            for number, hook in list(hooks.items()):
                if type(hook) is not _Silenced:
                    hooks[number] = silent = _Silenced(hook)
                    replaced.append((hooks, number, silent))
        yield
    finally:
        for hooks, number, silent in replaced:
            # Unless it was removed meanwhile.
            if hooks.get(number) is silent:
                hooks[number] = silent.hook


class Ours:
    """Marks this thread, and those in which the engine runs its backward passes (one a GPU)."""

    def __enter__(self) -> None:
        _census.depth += 1
        torch._C._stash_obj_in_tls(_MARK, True)

    def __exit__(self, *_: object) -> None:
        _census.depth -= 1
        torch._C._stash_obj_in_tls(_MARK, _census.depth > 0)


class _Silenced:
    """Stands for a hook: runs it in the user's own backward passes, not in ours."""

    __slots__ = ("hook",)

    def __init__(self, hook: Hook) -> None:
        self.hook = hook

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None if is_ours() else self.hook(*args, **kwargs)


class _Census:
    """What is known of the hooks in this process, and up to which handle it is known."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.depth = 0  # of nested `quiet` blocks
        self.next_handle = 0  # handles from here on have not been accounted for
        self.collections = -1
        self.known: list[weakref.ref[Hooks]] = []
        self.looked_at: tuple[int, list[int]] = (0, [])  # at how many handles, which leaves by id
        self.are_unhooked = False  # those
        self.retaining: list[weakref.ref[Tensor]] = []
        self.follows_retain_grad = False  # whether each new one is noted in `retaining`

    @property
    def is_up_to_date(self) -> bool:
        """Whether nobody has registered anything since it was last looked at."""
        return self.next_handle == RemovableHandle.next_id

    def hooks_of(self, ends: Sequence[Tensor | GradientEdge]) -> list[Hooks]:
        """Returns the hook dictionaries of all tensors and nodes, those below `ends` for certain.

        It may return a dictionary twice.
        """
        new = range(self.next_handle, RemovableHandle.next_id)
        if new:
            nodes = list(walk_below(ends))
            found = [hooks for node in nodes for hooks in _node_hooks(node)]
            # Looking into the nodes has used up handles; if others were taken meanwhile, then by
            # another thread, and all of them are looked at once more.
            used = RemovableHandle.next_id
            self.next_handle = used if used == new.stop + 2 * len(nodes) else new.stop
            found += _own_hooks(ends)
            accounted = {number for hooks in found for number in hooks if number in new}
            if len(accounted) < len(new):
                found += search(new, accounted)
            known = {id(hooks): hooks for ref in self.known if (hooks := ref()) is not None}
            known.update((id(hooks), hooks) for hooks in found)
            self.known = [weakref.ref(hooks) for hooks in known.values()]
        # A leaf that was in no graph looked at so far may have been hidden from the search.
        return _own_hooks(ends) + self.known_hooks()

    def known_hooks(self) -> list[Hooks]:
        """Returns the dictionaries that were found and still hold a hook."""
        return [hooks for ref in self.known if (hooks := ref())]

    def nodes_are_unhooked(self, leaves: Sequence[Tensor]) -> bool:
        """Whether the nodes have no hooks that pass a gradient on to some leaves."""
        handles, ids = RemovableHandle.next_id, [*map(id, leaves)]
        if (handles, ids) != self.looked_at:
            nodes = [get_gradient_edge(leaf).node for leaf in leaves]
            hooks = [_node_hooks(node) for node in nodes]
            self.are_unhooked = not any(hooks)
            if RemovableHandle.next_id == handles + 2 * len(nodes):
                # Looking into the nodes has used up handles; no other thread has.
                self.next_handle = RemovableHandle.next_id
                self.looked_at = self.next_handle, ids
        return self.are_unhooked

    def retaining_below(self, ends: Sequence[Tensor | GradientEdge]) -> list[Tensor]:
        """Returns the tensors inside the graph whose `.grad` a backward pass would write."""
        with torch._C.DisableTorchFunction():  # else modes and subclasses of the user's would see
            tensors = self._retaining_tensors()
            if not tensors:
                return []
            below = set(walk_below(ends))
            return [tensor for tensor in tensors if tensor.grad_fn in below]

    def _retaining_tensors(self) -> list[Tensor]:
        if self.follows_retain_grad:
            living = [tensor for ref in self.retaining if (tensor := ref()) is not None]
            self.retaining = [weakref.ref(tensor) for tensor in living]
            return living
        collections = _collections()
        if _HAS_YOUNG_GENERATIONS and collections == self.collections:
            # Nothing has been moved to the oldest generation since it was last searched, so what
            # was made since is among the few thousand objects of the two young ones.
            objects = gc.get_objects(generation=0) + gc.get_objects(generation=1)
            if collections != _collections():
                objects = gc.get_objects()
        else:
            objects = gc.get_objects()
        self.collections = collections
        known = {id(tensor): tensor for ref in self.retaining if (tensor := ref()) is not None}
        tensors = instances_among(objects, Tensor)
        known.update((id(tensor), tensor) for tensor in tensors if tensor.retains_grad)
        self.retaining = [weakref.ref(tensor) for tensor in known.values()]
        return list(known.values())

    def skip_own_collections(self) -> None:
        """Says that what was collected since the last search is only what gradpath has made.

        Silencing hundreds of hooks makes as many objects, and so brings collections on.
        """
        if threading.active_count() == 1:
            self.collections = _collections()


_census = _Census()


def _collections() -> int:
    """How often objects have been moved to the oldest generation."""
    return sum(statistics["collections"] for statistics in gc.get_stats()[1:])


def _own_hooks(ends: Sequence[Tensor | GradientEdge]) -> list[Hooks]:
    """Returns the dictionaries that tensors among `ends`, and the leaves at edges, show."""
    found: list[Hooks] = []
    for end in ends:
        tensor: Any = end if isinstance(end, Tensor) else getattr(end.node, "variable", None)
        if isinstance(tensor, Tensor):
            own = [tensor._backward_hooks]
            if tensor.is_leaf:
                own.append(tensor._post_accumulate_grad_hooks)
            found += [cast(Hooks, hooks) for hooks in own if hooks]
    return found


def _node_hooks(node: Node) -> list[Hooks]:
    """Returns a node's dictionaries of hooks before and after it runs; takes two handles."""
    both = _dictionary_behind(node.register_prehook), _dictionary_behind(node.register_hook)
    return [hooks for hooks in both if hooks]


def _dictionary_behind(register: Callable[[Hook], RemovableHandle]) -> Hooks | None:
    """Returns the dictionary that a hook would be put in, found by putting one there."""
    handle = register(_nothing)
    hooks: Hooks | None = handle.hooks_dict_ref()
    handle.remove()
    return hooks


def _nothing(*_: object) -> None:
    """A hook that does nothing; being there for a moment, it leads to the others."""
