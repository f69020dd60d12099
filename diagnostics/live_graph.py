"""Derivatives of a live autograd graph, taken so that its owner does not notice.

This is the only place that runs the autograd engine. The graph is kept for the user's own backward
pass, `.grad` is not written, hooks stay silent (`hooks.py`), the global random numbers and the
buffers of modules stay where they were, and what PyTorch says when a graph cannot be differentiated
becomes one sentence with the cause and the mend.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, _engine_run_backward
from torch.nn import Module

from .compiled_graph import SavedByCompiledCode
from .errors import NotTwiceDifferentiableError
from .graph_errors import BY_DIFFERENCES, Translated
from .hooks import (
    is_ours,
    known_silenced,
    none_retains_its_gradient,
    pre_hooks_of_all_modules,
    quiet,
    unwatched_modules,
    walk_below,
)
from .survey import Survey


def differentiate(
    outputs: Sequence[Tensor] | Sequence[GradientEdge],
    inputs: Sequence[Tensor] | Sequence[GradientEdge],
    grad_outputs: Sequence[Tensor] | None = None,
    *,
    create_graph: bool = False,
    batched: bool = False,
    survey: Survey | None = None,
) -> tuple[Tensor | None, ...]:
    """Returns the gradient of sum_j <grad_outputs_j, outputs_j> with respect to each input.

    The modes that the caller is under (no_grad, inference_mode, autocast, anomaly detection) have
    no part in it.

    Args:
        outputs: tensors or graph edges.
        inputs: tensors or graph edges below them.
        grad_outputs: one tensor an output, of its shape; ones for scalar tensors if left out.
        create_graph: whether the result can be differentiated again.
        batched: whether each of grad_outputs has a leading dimension of several vectors, to be
            taken at once by `torch.vmap`; the results then have it as well.
        survey: of the graph below the outputs; by default it is made here.

    Returns:
        One tensor an input; None where the outputs do not depend on it.

    Raises:
        GraphError: the graph has been freed or changed in place, or an input has been frozen.
        NotTwiceDifferentiableError: PyTorch has no second derivative of a part of the graph, or
            hides the parameters of that part.
    """
    if not inputs:
        return ()
    survey = survey or Survey.of(outputs)
    survey.refuse_hiding(inputs)
    with _unnoticed(outputs, inputs):
        # A tensor made under inference_mode cannot be saved for a second derivative; its copy can.
        seeds = [g.clone() if g.is_inference() else g for g in grad_outputs or ()]
        with torch.set_grad_enabled(create_graph), Translated():
            saved = SavedByCompiledCode(survey.compiled)
            try:
                return torch.autograd.grad(
                    outputs,
                    inputs,
                    seeds or None,
                    retain_graph=True,
                    create_graph=create_graph,
                    allow_unused=True,
                    is_grads_batched=batched,
                )
            finally:
                saved.restore()


def differentiate_each(
    losses: Sequence[tuple[Sequence[GradientEdge], Sequence[Tensor]]],
    inputs: Sequence[Tensor],
    take: Callable[[int, Sequence[Tensor | None]], None],
    *,
    retain_graph: bool = True,
    survey: Survey | None = None,
) -> None:
    """Gives the gradient of each of several losses to `take`, as `differentiate` would return it.

    Keeping the graph's owner from noticing takes as long as the backward pass of a small network,
    and is done once for all of them here.

    Args:
        losses: for each, edges of the graph and one tensor an edge; none where it has no graph.
        inputs: tensors below them.
        take: called with the number of each loss and its gradient, before the next one is taken.
        retain_graph: whether the graph stays alive; without, the last loss that has one uses it up.
        survey: of the graphs of all losses; by default it is made here.

    Raises:
        GraphError: as `differentiate`.
        NotTwiceDifferentiableError: as `differentiate`.
    """
    edges = [edge for outputs, _ in losses for edge in outputs]
    nothing: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if not edges or not inputs:
        for index in range(len(losses)):
            take(index, nothing)
        return
    survey = survey or Survey.of(edges)
    survey.refuse_hiding(inputs)
    last = max(index for index, (outputs, _) in enumerate(losses) if outputs)
    with _unnoticed(edges, inputs), torch.set_grad_enabled(False), Translated():
        saved = SavedByCompiledCode(survey.compiled)
        for index, (outputs, seeds) in enumerate(losses):
            found = nothing
            if outputs:
                try:
                    found = torch.autograd.grad(
                        outputs,
                        inputs,
                        seeds,
                        retain_graph=retain_graph or index != last,
                        allow_unused=True,
                    )
                finally:
                    saved.restore()
            take(index, found)


def nothing_would_notice() -> bool:
    """Whether `differentiate_scalars` may be called: there are no modes, and all hooks are known.

    That all are known is so as long as `handles_so_far` is what it was after another call had all
    of them silenced.
    """
    return (
        none_retains_its_gradient()
        and torch._C._len_torch_function_stack() == 0
        and not torch.is_inference_mode_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_anomaly_enabled()
    )


def differentiate_scalars(
    losses: Sequence[Tensor], seeds: Sequence[Tensor], inputs: Sequence[Tensor]
) -> list[tuple[Tensor | None, ...]]:
    """Returns the gradient of each of several losses, as `differentiate_each` would, in less time.

    Only where `nothing_would_notice`, and for graphs of usual nodes on the CPU (`Survey`): what
    `torch.autograd.grad` and `_unnoticed` do for all others is left out.

    Args:
        losses: of one entry each; the last one uses up the graph.
        seeds: 1 in the shape of each.
        inputs: leaves below them.

    Raises:
        GraphError: as `differentiate`.
    """
    state = torch.default_generator.get_state()
    last = len(losses) - 1
    try:
        with known_silenced(), _BuffersKept(), Translated():
            return [
                _engine_run_backward(
                    (loss,), (seed,), index != last, False, inputs, True, accumulate_grad=False
                )
                for index, (loss, seed) in enumerate(zip(losses, seeds, strict=True))
            ]
    finally:
        torch.default_generator.set_state(state)


def refuse_wrong_derivatives(outputs: Sequence[Tensor | GradientEdge]) -> None:
    """Raises where PyTorch would compute a Hessian that is wrong, without a word.

    Some of its fused operations keep a statistic of their input and take it for a constant in
    higher derivatives: weight norm from the second order on; batch, instance and layer norm from
    the third (github.com/pytorch/pytorch/issues/175754 and 186256), which a Hessian needs where the
    loss itself holds a derivative. Of some two hundred operations tried against differences, with
    PyTorch 2.13, these are the ones.

    Raises:
        NotTwiceDifferentiableError: `outputs` depend on such an operation.
    """
    for node in walk_below(outputs):
        name = type(node).__name__
        if "WeightNormInterface" in name:
            raise NotTwiceDifferentiableError(
                "This loss uses weight norm, whose second derivative PyTorch computes wrongly: "
                f"write the weight as g * v / v.norm(dim=1, keepdim=True), {BY_DIFFERENCES}."
            )
        # In eval mode batch norm is a linear map, and right.
        if _NORM_DERIVATIVE.match(name) and getattr(node, "_saved_train", True):
            raise NotTwiceDifferentiableError(
                "This loss holds derivatives through batch, instance or layer norm, which PyTorch "
                "differentiates wrongly from the third order on: write the normalization as "
                "elementary operations, or call eval() on the batch norm."
            )


def gradient_of_copy(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Returns the gradient of a loss of parameters that are ours, through a graph used once.

    There a loss may come from compiled code whose backward pass can run only once, or from
    reentrant checkpointing, through which nothing but `backward()` works.

    Raises:
        GraphError: the graph has been changed in place.
    """
    if not Survey.of([loss]).hiding:
        with _unnoticed([loss], parameters), Translated():
            return torch.autograd.grad(loss, parameters, allow_unused=True)
    # The loss may also reach tensors that are the user's.
    reached = [getattr(node, "variable", None) for node in walk_below([loss])]
    leaves = {id(leaf): leaf for leaf in (*reached, *parameters) if isinstance(leaf, Tensor)}
    with _unnoticed([loss], [*leaves.values()]), Translated():
        kept = [(leaf, leaf.grad) for leaf in leaves.values()]
        try:
            for leaf, _ in kept:
                leaf.grad = None
            torch.autograd.backward([loss])
            return tuple(parameter.grad for parameter in parameters)
        finally:
            for leaf, gradient in kept:
                leaf.grad = gradient


@contextmanager
def ordinary_modes() -> Iterator[None]:
    """Takes the caller out of no_grad, inference_mode and autocast.

    Autocast would compute in half precision, of which differences and second derivatives keep
    little.
    """
    with (
        torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext(),
        torch.enable_grad(),
        torch._C._DisableAutocast(),
    ):
        yield


@contextmanager
def unnoticed_evaluation() -> Iterator[None]:
    """Lets a function of the user's be computed once more than the user asked for.

    Buffers of the modules that it calls stay as they are, and hooks on all modules of the process
    do not run; those on the modules themselves do, for they may be part of what is computed.
    """
    with ordinary_modes(), unwatched_modules(), _BuffersKept():
        yield


@contextmanager
def _unnoticed(
    outputs: Sequence[Tensor | GradientEdge], inputs: Sequence[Tensor | GradientEdge]
) -> Iterator[None]:
    """Keeps the engine's runs inside from everything of the user's and under none of its modes."""
    ends = (*outputs, *inputs)
    gpus = {end.device.index for end in ends if isinstance(end, Tensor) and end.is_cuda}
    with quiet(outputs, inputs), _BuffersKept(), _random_numbers_kept(gpus), ordinary_modes():
        if torch.is_anomaly_enabled():
            # It raises where a measurement is to say that a product was not finite.
            with torch.autograd.set_detect_anomaly(False):
                yield
        else:
            yield


@contextmanager
def _random_numbers_kept(gpus: Collection[int]) -> Iterator[None]:
    """Puts torch's global generators back where they were."""
    if gpus:
        with torch.random.fork_rng(sorted(gpus)):
            yield
        return
    # As `fork_rng`, without looking for devices.
    state = torch.default_generator.get_state()
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class _BuffersKept:
    """Lets modules that run inside write to copies of their buffers.

    Batch norm would count its batch each time that a loss is computed again; a part of it under
    non-reentrant checkpointing is, at every backward pass.
    """

    def __enter__(self) -> None:
        self._kept: dict[tuple[Module, str], Tensor] = {}
        pre_hooks_of_all_modules()[self] = self._copy_buffers

    def __exit__(self, *_: object) -> None:
        del pre_hooks_of_all_modules()[self]
        for (module, name), buffer in self._kept.items():
            module._buffers[name] = buffer

    def _copy_buffers(self, module: Module, _: Any) -> None:
        if is_ours():
            for name, buffer in module._buffers.items():
                if buffer is not None and (module, name) not in self._kept:
                    self._kept[module, name] = buffer
                    module._buffers[name] = buffer.clone()


# The node of a derivative of a norm that has been differentiated, on CPU, cuDNN and others.
_NORM_DERIVATIVE = re.compile(r".*(BatchNorm|LayerNorm)\w*BackwardBackward")
