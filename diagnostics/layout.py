"""The named layers of one or several models as slices of one flat parameter vector.

Everything in `gradpath.diagnostics` works on vectors of P real entries. `ParameterLayout` fixes
which trainable tensor stands where in them. A layer is the module that owns the parameters; its
parameters are neighbours in the vector, so a layer is one slice, and so is each single parameter.
Frozen parameters have no place; a shared one has the place of its first owner. A complex parameter
counts as its real and imaginary parts, for which autograd's gradient is the ordinary real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
from jaxtyping import Float
from torch import Tensor
from torch._utils import _flatten_dense_tensors

from .errors import LayoutError
from .layout_sources import Source, is_trainable, owned_parameters

# Larger layouts are filled parameter by parameter, which keeps no vector of zeros.
_MOST_ZEROS = 1 << 20


@dataclass(frozen=True)
class ParameterSlot:
    """The place of one parameter in the flat vector."""

    name: str  # full name, unique in the layout: "encoder.0.weight"
    layer: str  # the module that owns it: "encoder.0"
    kind: str  # its own name there: "weight", "bias"
    slice: slice  # its entries in the flat vector
    shape: torch.Size  # its shape as the module has it (complex ones have half the slice's entries)

    @property
    def is_matrix(self) -> bool:
        """Whether it is a weight matrix or kernel (two or more dimensions), not a bias or scale."""
        return len(self.shape) >= 2


@dataclass(frozen=True, eq=False)
class ParameterLayout:
    """Which trainable parameter stands where in the flat vector of P entries.

    Make one with `ParameterLayout.of`. The layout holds the live parameters, so that gradients with
    respect to them can be taken; it never changes them.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
        >>> layout = ParameterLayout.of(net)
        >>> layout.size, layout.layers, layout.slices["2"]
        (13, ('0', '2'), slice(9, 13, None))
    """

    slots: tuple[ParameterSlot, ...]
    parameters: tuple[Tensor, ...]

    @classmethod
    def of(cls, *sources: Source) -> ParameterLayout:
        """Returns the layout of all trainable parameters of models, bare tensors, or mappings.

        Args:
            *sources: modules; tensors outside any module (unknown coefficients of an inverse
                problem); or mappings from a name to either, whose names then prefix the layers.
                Several sources without names are told apart by their position: "0.", "1.", ...

        Raises:
            LayoutError: nothing in the sources is trainable, a parameter has no shape yet (lazy
                module), a trainable tensor is not a leaf, or two parameters have one name.
        """
        owned: dict[str, list[tuple[str, Tensor]]] = {}
        seen: set[int] = set()
        for layer, kind, parameter in owned_parameters(sources):
            name = f"{layer}.{kind}" if kind else layer
            if id(parameter) not in seen and is_trainable(parameter, name):
                seen.add(id(parameter))
                owned.setdefault(layer, []).append((kind, parameter))
        slots: list[ParameterSlot] = []
        parameters: list[Tensor] = []
        start = 0
        for layer, members in owned.items():
            for kind, parameter in members:
                stop = start + _real_entries(parameter)
                name = f"{layer}.{kind}" if kind else layer
                slots.append(ParameterSlot(name, layer, kind, slice(start, stop), parameter.shape))
                parameters.append(parameter)
                start = stop
        _check_names(slots)
        if not parameters:
            raise LayoutError(
                "There is no trainable parameter here: give a model (or tensors) of which at least "
                "one parameter has requires_grad=True and more than zero entries."
            )
        return cls(tuple(slots), tuple(parameters))

    @property
    def size(self) -> int:
        """P, the number of real entries of the flat vector."""
        return int(self.slots[-1].slice.stop)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """The slice of each layer, in order."""
        slices: dict[str, slice] = {}
        for slot in self.slots:
            first = slices.get(slot.layer, slot.slice)
            slices[slot.layer] = slice(first.start, slot.slice.stop)
        return slices

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, in order."""
        return tuple(self.slices)

    @cached_property
    def dtype(self) -> torch.dtype:
        """The widest real dtype among the parameters, that of the flat vector."""
        return reduce(torch.promote_types, (_real_dtype(p) for p in self.parameters))

    @cached_property
    def device(self) -> torch.device:
        """The device of the first parameter, that of the flat vector."""
        return self.parameters[0].device

    def layer(self, name: str) -> ParameterLayout:
        """Returns the layout of one layer alone, its vector being `slices[name]` of this one's.

        Raises:
            LayoutError: there is no layer of that name.
        """
        if name not in self.slices:
            raise LayoutError(f"There is no layer {name!r}; the layers are {self._listed()}.")
        return self.select(lambda slot, _: slot.layer == name)

    def select(
        self,
        keep: Callable[[ParameterSlot, Tensor], bool],
        rename: Callable[[str], str] | None = None,
    ) -> ParameterLayout:
        """Returns the layout of some of the parameters, closed up in the same order.

        Args:
            keep: says of a slot and its parameter whether it stays.
            rename: from the name of a layer to the one that it is to have.

        Raises:
            LayoutError: no parameter stays, or two would have one name.
        """
        slots: list[ParameterSlot] = []
        parameters: list[Tensor] = []
        start = 0
        for slot, parameter in zip(self.slots, self.parameters, strict=True):
            if not keep(slot, parameter):
                continue
            stop = start + slot.slice.stop - slot.slice.start
            layer = rename(slot.layer) if rename else slot.layer
            name = f"{layer}.{slot.kind}" if slot.kind else layer
            slots.append(ParameterSlot(name, layer, slot.kind, slice(start, stop), slot.shape))
            parameters.append(parameter)
            start = stop
        if not slots:
            raise LayoutError("None of the parameters of this layout was selected.")
        _check_names(slots)
        return ParameterLayout(tuple(slots), tuple(parameters))

    def flatten(
        self, tensors: Iterable[Tensor | None] | Mapping[str, Tensor] | None = None
    ) -> Float[Tensor, " params"]:
        """Returns tensors shaped like the parameters as one new flat vector, without a graph.

        Args:
            tensors: one tensor a parameter, in order or by parameter name; None (or a name left
                out) counts as zeros. Without the argument: the parameters themselves.

        Raises:
            LayoutError: the number of tensors or the shape of one does not fit.
        """
        ordered = self._in_order(self.parameters if tensors is None else tensors)
        flat = self._at_once([ordered])
        if flat is not None:
            return flat
        vector = torch.empty(self.size, dtype=self.dtype, device=self.device)
        self._fill(vector, ordered)
        return vector

    def flatten_rows(self, rows: Sequence[Sequence[Tensor | None]]) -> Float[Tensor, "rows params"]:
        """Returns several sequences of tensors as one matrix; see `flatten`.

        Raises:
            LayoutError: the number of tensors or the shape of one does not fit.
        """
        ordered = [self._in_order(row) for row in rows]
        flat = self._at_once(ordered)
        if flat is not None:
            return flat.view(len(rows), self.size)
        matrix = torch.empty(len(rows), self.size, dtype=self.dtype, device=self.device)
        for vector, row in zip(matrix, ordered, strict=True):
            self._fill(vector, row)
        return matrix

    def flatten_into(
        self,
        vector: Float[Tensor, " params"],
        tensors: Iterable[Tensor | None] | Mapping[str, Tensor],
    ) -> None:
        """Writes tensors shaped like the parameters into an existing flat vector (see `flatten`).

        Raises:
            LayoutError: the number of tensors or the shape of one does not fit.
        """
        ordered = self._in_order(tensors)
        flat = None
        if vector.dtype == self.dtype and vector.device == self.device:
            flat = self._at_once([ordered])
        if flat is None:
            self._fill(vector, ordered)
            return
        with torch.no_grad():
            vector.copy_(flat)

    def _fill(self, vector: Tensor, ordered: Sequence[Tensor | None]) -> None:
        """Writes tensors of any kind into a flat vector, one by one."""
        for slot, tensor in zip(self.slots, ordered, strict=True):
            place = vector[slot.slice]
            if tensor is None:
                place.zero_()
                continue
            if tensor.shape != slot.shape:
                raise LayoutError(
                    f"A tensor of shape {tuple(tensor.shape)} was given for {slot.name!r}, "
                    f"which has shape {tuple(slot.shape)}."
                )
            place.copy_(_real_vector(tensor.detach(), slot, len(place)))

    def unflatten(self, vector: Float[Tensor, " params"]) -> dict[str, Tensor]:
        """Returns the flat vector as tensors by parameter name, shaped and typed as they are.

        Real tensors are views of the vector where dtype and device allow; autograd goes through.

        Raises:
            LayoutError: the vector has not P entries.
        """
        if vector.shape != (self.size,):
            raise LayoutError(
                f"A vector of shape {tuple(vector.shape)} was given to a layout of {self.size} "
                "parameters; it must be flat and of that length."
            )
        parts: dict[str, Tensor] = {}
        for slot, parameter in zip(self.slots, self.parameters, strict=True):
            part = vector[slot.slice]
            if parameter.is_complex():
                # Not view_as_complex: the pairs may begin at an odd place of the vector.
                part = torch.complex(*part.to(_real_dtype(parameter)).reshape(-1, 2).unbind(dim=1))
            parts[slot.name] = part.reshape(slot.shape).to(parameter.device, parameter.dtype)
        return parts

    def reduce_by_layer(
        self,
        values: Float[Tensor, "*batch params"],
        reduction: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "*batch layers"]:
        """Returns `reduction` applied to each layer's entries, which are the last dimension.

        Args:
            values: one or more flat vectors.
            reduction: takes (*batch, entries) and returns (*batch), such as `lambda g: g.amax(-1)`.

        Raises:
            LayoutError: the last dimension has not P entries.
        """
        if values.shape[-1] != self.size:
            raise LayoutError(
                f"Values with {values.shape[-1]} entries were given to a layout of {self.size} "
                "parameters."
            )
        return torch.stack([reduction(values[..., s]) for s in self.slices.values()], dim=-1)

    def _in_order(
        self, tensors: Iterable[Tensor | None] | Mapping[str, Tensor]
    ) -> Sequence[Tensor | None]:
        if isinstance(tensors, Mapping):
            names = {slot.name for slot in self.slots}
            unknown = [name for name in tensors if name not in names]
            if unknown:
                raise LayoutError(f"There is no parameter {unknown[0]!r} in this layout.")
            return [tensors.get(slot.name) for slot in self.slots]
        ordered = list(tensors)
        if len(ordered) != len(self.slots):
            raise LayoutError(
                f"{len(ordered)} tensors were given to a layout of {len(self.slots)} parameters."
            )
        return ordered

    def _at_once(self, rows: Sequence[Sequence[Tensor | None]]) -> Tensor | None:
        """Returns rows of tensors end to end, by one operation instead of one a parameter.

        None where not all are dense, real where they should be, and like the vector.
        """
        if not rows or self.size > _MOST_ZEROS:
            return None
        pieces = []
        for row in rows:
            for (shape, zeros), tensor in zip(self._places, row, strict=True):
                if tensor is None:
                    tensor = zeros
                elif tensor.shape != shape:
                    return None
                pieces.append(tensor)
        try:
            flat = _flat(pieces)
        except RuntimeError:  # of several devices, or not dense
            return None
        is_whole = flat.numel() == len(rows) * self.size and flat.device == self.device
        # What is narrower has been made as wide as the others, which does not round.
        return flat if is_whole and flat.dtype == self.dtype else None

    @cached_property
    def _places(self) -> list[tuple[torch.Size, Tensor]]:
        """The shape of each parameter, and zeros in its place where a loss does not reach it."""
        zeros = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        return [(slot.shape, zeros[slot.slice]) for slot in self.slots]

    def _listed(self) -> str:
        return ", ".join(repr(name) for name in self.layers)


def _flat(pieces: Sequence[Tensor]) -> Tensor:
    """Returns a copy of all entries of some tensors, one after the other."""
    if len(pieces) == 1:  # of which `_flatten_dense_tensors` makes a view
        return pieces[0].detach().reshape(-1).clone()
    flat: Tensor = _flatten_dense_tensors(pieces)
    return flat.detach()


def _check_names(slots: Sequence[ParameterSlot]) -> None:
    names: set[str] = set()
    for slot in slots:
        if slot.name in names:
            raise LayoutError(
                f"Two parameters are called {slot.name!r}: name the models apart with a mapping, "
                "such as {'generator': g, 'discriminator': d}."
            )
        names.add(slot.name)


def _real_entries(parameter: Tensor) -> int:
    return parameter.numel() * (2 if parameter.is_complex() else 1)


def _real_vector(tensor: Tensor, slot: ParameterSlot, length: int) -> Tensor:
    """Returns a tensor shaped like a parameter as `length` real entries."""
    dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
    is_complex = length == 2 * slot.shape.numel()
    if dense.is_complex() and not is_complex:
        raise LayoutError(
            f"A complex tensor was given for {slot.name!r}, which is real: give its real part."
        )
    if not is_complex:
        return dense.reshape(-1)
    pairs = dense if dense.is_complex() else torch.complex(dense, torch.zeros_like(dense))
    return torch.view_as_real(pairs.resolve_conj()).reshape(-1)


def _real_dtype(tensor: Tensor) -> torch.dtype:
    return tensor.dtype.to_real() if tensor.is_complex() else tensor.dtype
