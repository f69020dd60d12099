"""The Hessian and the Gauss-Newton matrix of a loss as operators on the flat parameter vector.

On a live graph the gradient is built once, with a graph of its own; every product then is one
backward pass through both, over the very batch, dropout mask and derivatives of the network that
the loss was computed with. No closure is needed, and nothing is evaluated anew. From a function of
the parameters the same is done on copies of them, or, compiled, by `torch.func`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .differences import CopiedLoss
from .errors import ArgumentError, GraphError
from .hooks import walk_below
from .layout import ParameterLayout
from .live_graph import (
    differentiate,
    ordinary_modes,
    refuse_wrong_derivatives,
    unnoticed_evaluation,
)
from .operators import SymmetricOperator
from .random_numbers import RandomState, random_numbers
from .survey import Survey
from .terms import Term, Terms


class Hessian(SymmetricOperator):
    """The Hessian of a loss with respect to the parameters of a layout.

    Make one with `of_loss`, `of_function` or `by_differences`.
    """

    def __init__(
        self,
        layout: ParameterLayout,
        product: Callable[[Tensor, ParameterLayout], Tensor],
        method: str,
        exact: bool = True,
        within: ParameterLayout | None = None,
    ) -> None:
        """For the constructors below: `product(vector, part)` is the block of `part` times it."""
        self.layout = within or layout
        self.size = self.layout.size
        self.dtype = layout.dtype
        self.device = layout.device
        self.method = method
        self.exact = exact
        self._whole = layout
        self._product = product

    @classmethod
    def of_loss(cls, loss: Tensor | Term | Terms, layout: ParameterLayout) -> Hessian:
        """Returns the Hessian of a loss, or of one of its terms (unweighted), on its live graph.

        The graph must be alive at every product: measure before `backward()`. It is kept for the
        user's own `backward()`; dropout masks, buffers, `.grad` and random numbers are untouched. A
        parameter that the loss does not reach has zero rows.

        Args:
            loss: a scalar with a graph, or what `find_terms` returned, or one of its members.
            layout: the parameters.

        Raises:
            GraphError: the loss has no graph, or it is freed or changed in place.
            NotTwiceDifferentiableError: PyTorch has no second derivative of a part of the loss; the
                message says which and what to do. Raised here or by the first product.

        Example:
            >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
            >>> H = Hessian.of_loss((w**3).sum(), ParameterLayout.of({"w": w}))
            >>> H.matvec(torch.ones(2))
            tensor([ 6., 12.])
        """
        outputs, seeds = _outputs(loss)
        refuse_wrong_derivatives(outputs)
        parameters = layout.parameters
        gradient = differentiate(outputs, parameters, seeds, create_graph=True) if outputs else ()
        # A part that is constant in the parameters (a linear loss) has no graph: zero rows.
        parts = {
            slot.name: part
            for slot, part in zip(layout.slots, gradient, strict=False)
            if part is not None and part.requires_grad
        }
        survey = Survey.of(parts.values())

        def product(vector: Tensor, part: ParameterLayout) -> Tensor:
            rows = [slot.name for slot in part.slots if slot.name in parts]
            if not rows:
                return torch.zeros_like(vector)
            directions = part.unflatten(vector)
            second = differentiate(
                [parts[name] for name in rows],
                part.parameters,
                [directions[name].to(parts[name].dtype) for name in rows],
                survey=survey,
            )
            return part.flatten(second)

        return cls(layout, product, "double backward on the live graph")

    @classmethod
    def of_function(
        cls,
        fn: Callable[[dict[str, Tensor]], Tensor],
        params: Mapping[str, Tensor],
        *,
        compiled: bool = False,
    ) -> Hessian:
        """Returns the Hessian of a scalar function of named parameters at `params`.

        Args:
            fn: takes the parameters by name and returns the loss; may use torch.func inside. It is
                called once, so that what it draws at random is fixed, and the global generators are
                put back; forward hooks of modules that it calls do run. With `compiled=True` it is
                traced as well, and must be deterministic.
            params: by name; they are copied, need not require gradients, and are not changed.
                "net.0.weight" counts to the layer "net.0".
            compiled: compile forward-over-reverse products with `torch.compile`; takes some ten
                seconds once and makes each product about twice as fast. Needs a C++ compiler.

        Raises:
            GraphError: the function returns no scalar that depends on the parameters; or, from the
                first product, it cannot be compiled.

        Example:
            >>> H = Hessian.of_function(lambda p: (p["w"] ** 3).sum(), {"w": torch.ones(2)})
            >>> H.matvec(torch.ones(2))
            tensor([6., 6.])
        """
        with ordinary_modes():
            copies = {name: value.detach().clone() for name, value in params.items()}
            for value in copies.values():
                value.requires_grad_(value.is_floating_point() or value.is_complex())
            layout = ParameterLayout.of(copies)
        gpus = {value.device.index for value in copies.values() if value.is_cuda}
        with unnoticed_evaluation(), random_numbers(RandomState.of_process(gpus)):
            loss = fn(dict(copies))
        if compiled:
            # What cannot be done eagerly is told better than by the compiler.
            refuse_wrong_derivatives(_outputs(loss)[0])
            product = _compiled_product(fn, copies)
            return cls(layout, product, "forward-over-reverse by torch.func, compiled")
        hessian = cls.of_loss(loss, layout)
        hessian.method = "double backward of a function"
        return hessian

    @classmethod
    def by_differences(
        cls,
        loss_of: Callable[[Any], Tensor],
        model: nn.Module,
        *,
        relative_step: float | None = None,
    ) -> Hessian:
        """Returns the Hessian by central differences of gradients, for losses without a second one.

        The step is refined until two differences agree to eps^0.4 (2e-3 in float32, 5e-7 in
        float64) and the two are extrapolated, so a product takes four forward and backward passes,
        or more along directions of high curvature. They run on a copy of the model: the model
        itself, its buffers, the hooks of the user's and the global generators of torch, numpy and
        Python are left alone. Each pass sees the same random numbers, hence the same dropout mask.
        What remains of the error is not only rounding: results are marked by `exact=False`.

        Args:
            loss_of: takes a copy of the model and returns the scalar loss. The copy has none of the
                user's forward hooks: one that changes what the network computes must be part of
                this function.
            model: the model; its trainable parameters are the layout (`hessian.layout`).
            relative_step: a fixed step for two passes a product, in parameter space, relative to
                1 + the norm of the parameters.

        Raises:
            ArgumentError: the model cannot be copied, or the step is not positive.
            LayoutError: the model has no trainable parameter.
            GraphError: from the first product: the loss is no scalar that depends on the copy.

        Example:
            >>> net = torch.nn.Linear(1, 1, bias=False)
            >>> H = Hessian.by_differences(lambda m: 3 * m.weight.square().sum(), net)
            >>> round(H.matvec(torch.ones(1)).item(), 2), H.exact
            (6.0, False)
        """
        if relative_step is not None and not relative_step > 0:
            raise ArgumentError(f"relative_step={relative_step} must be positive.")
        loss = CopiedLoss(loss_of, model)
        layout = loss.layout

        def product(vector: Tensor, part: ParameterLayout) -> Tensor:
            place = slice(0, layout.size) if part is layout else layout.slices[part.layers[0]]
            direction = torch.zeros_like(loss.point)
            direction[place] = vector
            return loss.product(direction, relative_step)[place]

        return cls(layout, product, "central differences of gradients", exact=False)

    def matvec(self, vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Returns the Hessian times one vector.

        Raises:
            GraphError: the graph has been freed or changed in place since.
            NotTwiceDifferentiableError: PyTorch has no second derivative of a part of the loss.
        """
        return self._product(self._check(vector), self.layout).to(self.dtype)

    def block(self, layer: str) -> Hessian:
        """Returns the diagonal block of one layer: its own Hessian, the other layers held fixed.

        Raises:
            LayoutError: there is no layer of that name.
        """
        part = self.layout.layer(layer)
        return Hessian(self._whole, self._product, f"{self.method}, {layer}", self.exact, part)


class GaussNewton(SymmetricOperator):
    """J^T H_out J: the curvature that a loss has through its outputs, J their Jacobian.

    For a loss convex in its outputs it is positive semi-definite; for residuals near zero it is
    close to the Hessian. (Schraudolph, Neural Computation 14, 2002.)
    """

    method = "Gauss-Newton on the live graph"

    def __init__(
        self, loss: Tensor, outputs: Tensor | Sequence[Tensor], layout: ParameterLayout
    ) -> None:
        """Builds the operator on a live graph.

        Args:
            loss: a scalar computed from the outputs alone.
            outputs: tensors between parameters and loss: the network's outputs, or the residuals of
                a physics-informed loss.
            layout: the parameters.

        Raises:
            ArgumentError: the loss does not depend on the outputs, or one output on another.
            GraphError: a graph is missing, freed or changed in place.
            NotTwiceDifferentiableError: PyTorch has no second derivative of a part of the graph;
                raised here or by the first product.

        Example:
            >>> net = torch.nn.Linear(1, 1, bias=False)
            >>> y = net(torch.ones(2, 1))
            >>> G = GaussNewton(y.square().mean(), y, ParameterLayout.of(net))
            >>> G.matvec(torch.ones(1))
            tensor([2.])
        """
        self.layout = layout
        self.size = layout.size
        self.dtype = layout.dtype
        self.device = layout.device
        self._outputs = _independent([outputs] if isinstance(outputs, Tensor) else outputs)
        edges, seeds = _outputs(loss)
        slopes = differentiate(edges, self._outputs, seeds, create_graph=True)
        if all(slope is None for slope in slopes):
            raise ArgumentError(
                "The loss does not depend on the given outputs: give tensors that it was computed "
                "from."
            )
        self._slopes = [
            (index, slope)
            for index, slope in enumerate(slopes)
            if slope is not None and slope.requires_grad
        ]
        # J v by two transposed products: J^T u is linear in u, and its own transpose is J.
        with ordinary_modes():
            self._dual = [torch.zeros_like(o, requires_grad=True) for o in self._outputs]
        pulled = differentiate(self._outputs, layout.parameters, self._dual, create_graph=True)
        self._pulled = {
            slot.name: part
            for slot, part in zip(layout.slots, pulled, strict=True)
            if part is not None
        }

    def matvec(self, vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Returns J^T H_out J times one vector.

        Raises:
            GraphError: the graph has been freed or changed in place since.
        """
        directions = self.layout.unflatten(self._check(vector))
        if not self._slopes or not self._pulled:
            return torch.zeros(self.size, dtype=self.dtype, device=self.device)
        names = list(self._pulled)
        pushed = differentiate(
            [self._pulled[name] for name in names], self._dual, [directions[name] for name in names]
        )
        moved = [
            torch.zeros_like(output) if push is None else push
            for output, push in zip(self._outputs, pushed, strict=True)
        ]
        curved = differentiate(
            [slope for _, slope in self._slopes],
            self._outputs,
            [moved[index] for index, _ in self._slopes],
        )
        pairs = [(o, c) for o, c in zip(self._outputs, curved, strict=True) if c is not None]
        return self.layout.flatten(
            differentiate([o for o, _ in pairs], self.layout.parameters, [c for _, c in pairs])
        )


def _independent(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Returns the outputs, each once; raises where one is computed from another.

    The slope of the loss along an output has all paths in it, those through other outputs as well.
    """
    if not all(output.requires_grad for output in outputs):
        raise GraphError(
            "An output has no graph: give it as the loss is computed from it, not detached and not "
            "under no_grad."
        )
    distinct = {get_gradient_edge(output): output for output in outputs}
    steps = {step for node in walk_below(distinct.values()) for step in node.next_functions}
    if any((edge.node, edge.output_nr) in steps for edge in distinct):
        raise ArgumentError(
            "One of the outputs is computed from another, so the loss depends on that one in two "
            "ways: take the Gauss-Newton matrix of each term, with the outputs it is made of."
        )
    return list(distinct.values())


def _compiled_product(
    fn: Callable[[dict[str, Tensor]], Tensor], params: Mapping[str, Tensor]
) -> Callable[[Tensor, ParameterLayout], Tensor]:
    point = {name: value.detach() for name, value in params.items() if value.requires_grad}

    def loss(point: dict[str, Tensor]) -> Tensor:
        return fn({**params, **point})

    def pushforward(point: dict[str, Tensor], direction: dict[str, Tensor]) -> Any:
        return torch.func.jvp(torch.func.grad(loss), (point,), (direction,))[1]

    # Code of its own: torch.compile gives up on the ninth function that shares it with others.
    own_code, closure = pushforward.__code__.replace(), pushforward.__closure__
    distinct = FunctionType(own_code, globals(), "pushforward", None, closure)
    compiled = torch.compile(distinct, fullgraph=True, dynamic=False)

    def product(vector: Tensor, part: ParameterLayout) -> Tensor:
        direction = {name: torch.zeros_like(value) for name, value in point.items()}
        direction |= {name: value.clone() for name, value in part.unflatten(vector).items()}
        try:
            # no_grad: what else the function uses may be trainable, too.
            with ordinary_modes(), torch.no_grad():
                second = compiled(point, direction)
        except Exception as error:  # whatever the compiler or the traced function raises
            raise GraphError(
                f"This function cannot be compiled ({_reason(error)}): pass compiled=False."
            ) from error
        return part.flatten([second[slot.name] for slot in part.slots])

    return product


def _reason(error: Exception) -> str:
    """Returns what the compiler's pages of text are about."""
    raised = re.search(r"(?:raised exception |: got )(.+)", str(error))
    lines = (line.strip() for line in str(error).splitlines())
    telling = (line for line in lines if line and not line.endswith("raised:"))
    return raised[1] if raised else next(telling, type(error).__name__)


def _outputs(loss: Tensor | Term | Terms) -> tuple[Sequence[GradientEdge], Sequence[Tensor]]:
    if isinstance(loss, Term):
        return loss.edges, loss.seeds
    if isinstance(loss, Terms):
        return (loss.root,), (loss.seed,)
    if not isinstance(loss, Tensor) or not loss.requires_grad:
        raise GraphError(
            "This loss has no graph: it was computed under no_grad, detached, or made from plain "
            "numbers; give the tensor on which backward() is called."
        )
    if loss.numel() != 1:
        raise GraphError(f"A loss of shape {tuple(loss.shape)} is no scalar: give its mean or sum.")
    if loss.is_complex():
        raise GraphError(
            "A complex loss has no slope: give a real one, such as its absolute value."
        )
    edge: GradientEdge = get_gradient_edge(loss)
    return (edge,), (torch.ones_like(loss).detach(),)
