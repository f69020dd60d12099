"""Which parameters a backward pass trains, and what they are called.

The leaves of the graph are what can be trained. Those that an optimizer owns are; where no living
optimizer owns any of them, the loop moves them by hand, and then those of modules are, and bare
tensors that are seen to change. Inputs with `requires_grad`, such as collocation points, are leaves
as well, but nobody moves them.

A layer is called after its path in the largest living module that it is a part of, as in
`named_modules()`, without the wrappers that PyTorch puts around modules.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer

from ..diagnostics.errors import LayoutError
from ..diagnostics.hooks import walk_below
from ..diagnostics.instances import alive
from ..diagnostics.layout import ParameterLayout
from ..diagnostics.recording import user_frames
from ..diagnostics.term_groups import numbered
from ..diagnostics.term_names import name_tensors, variables_of

Model = nn.Module | Mapping[str, nn.Module] | Sequence[nn.Module]

# What PyTorch's wrappers call the module that they wrap, as a piece of a path.
_WRAPPED = re.compile(r"(^|\.)(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)(?=\.|$)")


def leaves_below(roots: Iterable[Tensor | GradientEdge]) -> list[Tensor]:
    """Returns the leaves that a backward pass from the roots reaches, each once."""
    variables = (getattr(node, "variable", None) for node in walk_below(roots))
    found = {id(leaf): leaf for leaf in variables if isinstance(leaf, Tensor)}
    for root in roots:  # a root may itself be a leaf
        if isinstance(root, Tensor) and root.grad_fn is None and root.requires_grad:
            found[id(root)] = root
    return list(found.values())


class Optimizers:
    """The living optimizers, and which parameters each of them moves."""

    def __init__(self) -> None:
        self._known: list[weakref.ref[Optimizer]] = []
        self.is_stale = True

    def add(self, optimizer: Optimizer) -> None:
        """Takes note of an optimizer."""
        if all(other() is not optimizer for other in self._known):
            self._known.append(weakref.ref(optimizer))

    def owners(self, leaves: Iterable[Tensor]) -> list[Optimizer]:
        """Returns the optimizers that move any of the leaves."""
        if self.is_stale:
            self.is_stale = False
            for optimizer in alive(Optimizer):
                self.add(optimizer)
        ids = set(map(id, leaves))
        living = [each for ref in self._known if (each := ref()) is not None]
        return [each for each in living if not ids.isdisjoint(owned(each))]


def owned(optimizer: Optimizer) -> set[int]:
    """Returns the ids of the parameters that an optimizer moves."""
    # One that is being made, or was unpickled badly, has no groups yet; and one that has those of
    # another as a property, as Accelerate's, only passes on to that one.
    groups = vars(optimizer).get("param_groups", ())
    return {id(parameter) for group in groups for parameter in group["params"]}


def learning_rate_of(optimizer: Optimizer) -> float | None:
    """Returns the learning rate of the first group of an optimizer, where it has one."""
    groups = optimizer.param_groups
    return float(groups[0]["lr"]) if groups and "lr" in groups[0] else None


class MovedByHand:
    """Bare tensors that no optimizer owns, of which those count that change between two looks."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[weakref.ref[Tensor], object]] = {}
        self._moved: dict[int, weakref.ref[Tensor]] = {}

    def among(self, leaves: Iterable[Tensor]) -> list[Tensor]:
        """Returns those of the leaves that were ever seen to change; looks at all of them."""
        moved = []
        for leaf in leaves:
            print_of = (leaf._version, leaf.detach().reshape(-1)[:4].tolist())
            known = self._seen.get(id(leaf))
            if known is not None and known[0]() is leaf and known[1] != print_of:
                self._moved[id(leaf)] = known[0]
            self._seen[id(leaf)] = (weakref.ref(leaf), print_of)
            if id(leaf) in self._moved and self._moved[id(leaf)]() is leaf:
                moved.append(leaf)
        self._seen = {key: value for key, value in self._seen.items() if value[0]() is not None}
        return moved


def unwrapped(module: nn.Module) -> nn.Module:
    """Returns the module inside the wrappers that PyTorch puts around whole models."""
    while True:
        inner = None
        if type(module).__name__ == "OptimizedModule":
            inner = getattr(module, "_orig_mod", None)
        elif isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def named_models(model: Model) -> dict[str, nn.Module]:
    """Returns what the user gave as the model, by the prefixes of its layers' names."""
    if isinstance(model, nn.Module):
        return {"": unwrapped(model)}
    if isinstance(model, Mapping):
        named = dict(model)
    else:
        members = list(model) if isinstance(model, list | tuple) else []
        named = {str(position): each for position, each in enumerate(members)}
    if not named or not all(isinstance(each, nn.Module) for each in named.values()):
        raise LayoutError(
            "A probe watches a module, or several as a list or a dictionary with their names: "
            f"it was given {type(model).__name__}."
        )
    return {str(name): unwrapped(each) for name, each in named.items()}


def find_models(leaves: Sequence[Tensor], frame: FrameType | None) -> dict[str, nn.Module]:
    """Returns the largest living modules that the leaves are parameters of, by a prefix each.

    The one that has most of them comes first; one that has none of the rest is left out. Where
    there is but one, its prefix is empty.
    """
    wanted = set(map(id, leaves))
    modules = alive(nn.Module)
    inside = {id(child) for module in modules for child in _children(module)}
    reach = [
        (module, {id(p) for p in module.parameters()} & wanted)
        for module in modules
        if id(module) not in inside and hasattr(module, "_parameters")
    ]
    chosen: list[nn.Module] = []
    for module, reached in sorted(reach, key=lambda each: -len(each[1])):
        if reached & wanted:
            chosen.append(unwrapped(module))
            wanted -= reached
    if len(chosen) == 1:
        return {"": chosen[0]}
    names = variables_with(chosen, frame)
    found: dict[str, nn.Module] = {}
    taken: set[str] = set()
    for module in chosen:
        found[numbered(names.get(id(module), type(module).__name__), taken)] = module
    return found


def layout_of(
    models: Mapping[str, nn.Module],
    leaves: Sequence[Tensor],
    optimizers: Sequence[Optimizer],
    bare: Sequence[Tensor],
    frame: FrameType | None,
) -> ParameterLayout:
    """Returns the layout of what is trained.

    Args:
        models: by prefix.
        leaves: of the graph.
        optimizers: that own any of them; where there are any, only what they own counts.
        bare: leaves outside of the models that count although no optimizer owns them.
        frame: where names of bare tensors are looked for.

    Raises:
        LayoutError: nothing counts.
    """
    moved = {parameter for optimizer in optimizers for parameter in owned(optimizer)}
    sources: list[Any] = []
    for prefix, model in models.items():
        if any(p.requires_grad for p in model.parameters()):
            sources.append({prefix: model} if prefix else model)
    in_models = {id(p) for model in models.values() for p in model.parameters()}
    others = [leaf for leaf in leaves if id(leaf) in moved and id(leaf) not in in_models]
    others += [leaf for leaf in bare if all(leaf is not other for other in others)]
    if others:
        sources.append(_named(others, frame))
    if len(sources) > 1:
        # Several modules are told apart by their prefixes; bare tensors beside one need none.
        sources = [_prefixed(source) for source in sources]
    whole = ParameterLayout.of(*sources) if sources else None
    if whole is None:
        raise LayoutError("The loss reaches no parameter that anybody trains.")
    return whole.select(
        lambda _, parameter: not moved or id(parameter) in moved,
        lambda layer: _WRAPPED.sub("", layer).lstrip(".") or "model",
    )


def signature(models: Mapping[str, nn.Module]) -> tuple[tuple[int, bool], ...]:
    """Returns a value that changes when a parameter is added, replaced, frozen or unfrozen."""
    # Not `model.parameters()`, which takes five times as long, at every step.
    waiting, seen = list(models.values()), set[nn.Module]()
    found: list[tuple[int, bool]] = []
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if children := module._modules:
            waiting += [child for child in children.values() if child is not None]
        if own := module._parameters:
            found += [(id(each), each.requires_grad) for each in own.values() if each is not None]
    return tuple(found)


def _prefixed(source: Any) -> Any:
    # A mapping without prefix: names as the module itself has them.
    return source if isinstance(source, Mapping) else _paths(source)


def _paths(module: nn.Module) -> dict[str, Tensor]:
    layout = ParameterLayout.of(module)
    return {
        slot.name: parameter
        for slot, parameter in zip(layout.slots, layout.parameters, strict=True)
    }


def _named(tensors: Sequence[Tensor], frame: FrameType | None) -> dict[str, Tensor]:
    names = name_tensors(frame, tensors)
    taken: set[str] = set()
    return {
        # A dot would make a layer of what stands before it.
        numbered(names.get(id(tensor), "coefficient").replace(".", "_"), taken): tensor
        for tensor in tensors
    }


def _children(module: nn.Module) -> list[nn.Module]:
    # One that is still being made has none, and `__getattr__` of a user's may do anything.
    children = vars(module).get("_modules")
    return [child for child in (children or {}).values() if isinstance(child, nn.Module)]


def variables_with(modules: Sequence[nn.Module], frame: FrameType | None) -> dict[int, str]:
    """Returns the name of the innermost variable, or place in one, that each module is in."""
    wanted = set(map(id, modules))
    names: dict[int, str] = {}
    for user_frame in user_frames(frame):
        for name, value in (*variables_of(user_frame), *list(user_frame.f_globals.items())):
            if name == "self":
                continue
            found = {name: value}
            if type(value) is dict:
                found = {key: each for key, each in value.items() if isinstance(key, str)}
            elif type(value) in (list, tuple):
                found = {f"{name}[{place}]": each for place, each in enumerate(value)}
            for label, each in found.items():
                if id(each) in wanted:
                    names.setdefault(id(each), label)
    return names


class Scalers:
    """The living `GradScaler`s, which multiply a loss before its backward pass."""

    def __init__(self) -> None:
        self._known: list[weakref.ref[Any]] = []
        self.is_stale = True

    def scale_of(self, root: Tensor | GradientEdge) -> float:
        """Returns the factor that a scaler has put before a loss; 1 without one."""
        node: Any = root.grad_fn if isinstance(root, Tensor) else root.node
        if node is None or not type(node).__name__.startswith("MulBackward"):
            return 1.0
        saved = [getattr(node, name, None) for name in ("_saved_self", "_saved_other")]
        factors = [each for each in saved if isinstance(each, Tensor) and each.numel() == 1]
        if not factors:
            return 1.0
        if self.is_stale:
            self.is_stale = False
            self._known = [weakref.ref(scaler) for scaler in alive(torch.amp.GradScaler)]
        for ref in self._known:
            scale = getattr(ref(), "_scale", None)
            if isinstance(scale, Tensor) and any(f.data_ptr() == scale.data_ptr() for f in factors):
                return float(scale)
        return 1.0
