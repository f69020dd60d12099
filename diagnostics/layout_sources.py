"""What a parameter layout is made of: models, bare tensors, and mappings from names to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor
from torch.nn import Module
from torch.nn.parameter import is_lazy

from .errors import LayoutError

Source = Module | Tensor | Mapping[str, "Module | Tensor"]


def owned_parameters(sources: Sequence[Source]) -> Iterator[tuple[str, str, Tensor]]:
    """Yields (layer, own name, parameter); the own name of a bare tensor is empty.

    Raises:
        LayoutError: a source is neither a module nor a tensor, nor a mapping to these.
    """
    named: list[tuple[str, Module | Tensor]] = []
    unnamed = [source for source in sources if not isinstance(source, Mapping)]
    for source in sources:
        if isinstance(source, Mapping):
            named.extend(source.items())
        elif isinstance(source, Module | Tensor):
            position = next(i for i, other in enumerate(unnamed) if other is source)
            named.append((str(position) if len(unnamed) > 1 else "", source))
        else:
            raise _no_source(source)
    for prefix, owner in named:
        if not isinstance(owner, Module | Tensor):
            raise _no_source(owner)
        yield from _parameters_of(prefix, owner)


def _no_source(source: object) -> LayoutError:
    return LayoutError(
        "A parameter layout is made of modules, tensors or mappings from names to them, not of "
        f"{type(source).__name__}."
    )


def _parameters_of(prefix: str, owner: Module | Tensor) -> Iterator[tuple[str, str, Tensor]]:
    if isinstance(owner, Tensor):
        # "0.weight" of a state dictionary is the weight of layer "0"; a bare "nu" is its own layer.
        layer, _, kind = prefix.rpartition(".")
        yield (layer, kind, owner) if layer else (prefix or "tensor", "", owner)
        return
    children = {name for name, _ in owner.named_modules()}
    for path, module in owner.named_modules():
        layer = ".".join(part for part in (prefix, path) if part)
        if not layer:
            # Parameters of the model itself have no path; its class is the name a user knows.
            layer = type(owner).__name__
            while layer in children:
                layer += "_"
        for kind, parameter in module.named_parameters(recurse=False):
            yield layer, kind, parameter


def is_trainable(parameter: Tensor, name: str) -> bool:
    """Whether a tensor belongs in a layout.

    Raises:
        LayoutError: it should, and cannot.
    """
    if is_lazy(parameter):
        raise LayoutError(
            f"{name!r} has no shape yet (a lazy module): run one forward pass of the model first."
        )
    if not parameter.requires_grad or parameter.numel() == 0:
        return False
    if not parameter.is_leaf:
        raise LayoutError(
            f"{name!r} is computed from other tensors: give the tensors that are trained."
        )
    return True
