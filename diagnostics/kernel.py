"""The neural tangent kernel of the residuals of a loss, block by block.

K = J J^T, where row k of J is the gradient of the k-th residual (one collocation point of one
term). Under gradient flow on half the squared residuals r they obey dr/dt = -K r: the eigenvalues
of a term's block are the rates at which it is learnt, and their mean, the trace over the number of
points, is the rate to compare between terms (Wang, Yu, Perdikaris, "When and why PINNs fail to
train", J. Comput. Phys. 449, 2022, arXiv 2007.14527).

The trace is the sum of the squared gradients of the single residuals. The squared gradient of their
sum, one backward pass, is another number: the sum of all entries of K.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ArgumentError, GraphError
from .hooks import quiet
from .inner import inner_products
from .lanczos import Eigenvalue, extreme_eigenvalues
from .layout import ParameterLayout
from .live_graph import differentiate
from .operators import SymmetricOperator
from .trace import TraceEstimate, trace

# Residuals differentiated in one batched backward pass. More of them gain nothing on a CPU and cost
# memory: every intermediate gradient is held that many times.
_ROWS_AT_ONCE = 32

# How far rounding may move an eigenvalue, in units of eps times the largest: the entries of J carry
# a few units each, and the error of the kernel is twice that of J (Weyl's inequality).
_ROUNDING = 20


@dataclass(frozen=True, eq=False)
class KernelBlock:
    """What is known of one symmetric block of the kernel: one term's own, or the whole."""

    points: int  # n, its number of rows
    trace: TraceEstimate
    largest: Eigenvalue
    smallest: Eigenvalue
    # All of them, ascending, in float64; None where only the ends were measured.
    eigenvalues: Float[Tensor, " n"] | None


@dataclass(frozen=True, eq=False)
class TangentKernel:
    """The tangent kernel of several terms."""

    blocks: Mapping[str, KernelBlock]  # of each term
    whole: KernelBlock  # of all residuals together, cross terms included
    slices: Mapping[str, slice]  # rows of each term in the whole
    matrix: Float[Tensor, "n n"] | None  # the whole kernel in float64; None where it was not formed
    method: str

    def block(self, first: str, second: str) -> Float[Tensor, "n m"]:
        """Returns the block J_first J_second^T of two terms.

        Raises:
            ArgumentError: the kernel was too large to be formed, or there is no such term.
        """
        if self.matrix is None:
            raise ArgumentError(
                f"The kernel of {self.whole.points} residuals was not formed: pass fewer points, "
                "or a larger exact_points."
            )
        for name in (first, second):
            if name not in self.slices:
                raise ArgumentError(
                    f"There is no term {name!r}; the terms are {', '.join(map(repr, self.slices))}."
                )
        return self.matrix[self.slices[first], self.slices[second]]


def tangent_kernel(
    residuals: Mapping[str, Tensor],
    layout: ParameterLayout,
    *,
    exact_points: int = 512,
    memory_limit: int = 2**30,
    products: int = 30,
    tol: float = 1e-2,
    seed: int = 0,
) -> TangentKernel:
    """Returns the tangent kernel of residuals that have a live graph.

    Up to `exact_points` residuals the kernel is formed, one backward pass a residual, and every
    number is exact up to rounding. Above, the traces come from XTrace and the ends of the spectra
    from Lanczos's method, each on products K z = J (J^T z) of about two and a half backward passes.
    On the kernels of physics-informed networks, of which a few eigenvalues hold almost everything,
    ten such products give a trace to about one percent. (Averaging |J^T z|^2 over random signs z,
    which needs no J, is still 15 % off after a hundred backward passes.)

    The graph stays alive for the user's own backward pass. What weights the loss gives to its terms
    has no part in this; scale the residuals by sqrt(weight) to include them.

    Args:
        residuals: by the name of their term, one real entry a point before squaring and averaging;
            of any shape, every entry being a residual.
        layout: the parameters. One that a term does not reach counts as zero.
        exact_points: number of residuals, of all terms together, up to which the kernel is formed.
        memory_limit: bytes that the Jacobian of all residuals may take. Where it would take more,
            the kernel is formed column by column from products instead.
        products: for each term's trace where the kernel is not formed.
        tol: for the ends of the spectra where the kernel is not formed, see `extreme_eigenvalues`.
        seed: of the random vectors of both methods.

    Raises:
        ArgumentError: there are no residuals, or some are complex.
        GraphError: residuals have no graph, or it has been freed or changed in place.
        NotTwiceDifferentiableError: the kernel is too large to be formed from first derivatives,
            and PyTorch has no second derivative of a part of the graph.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> kernel = tangent_kernel({"a": w, "b": w.sum()}, ParameterLayout.of({"w": w}))
        >>> kernel.block("a", "b").tolist(), kernel.blocks["a"].trace.value
        ([[1.0], [1.0]], 2.0)
    """
    outputs = {name: _flat(repr(name), residual) for name, residual in residuals.items()}
    if not outputs:
        raise ArgumentError("A tangent kernel needs the residuals of at least one term.")
    slices: dict[str, slice] = {}
    points = 0
    for name, output in outputs.items():
        slices[name] = slice(points, points + len(output))
        points += len(output)
    # Once around everything: looking for the user's hooks costs more than a small backward pass.
    with quiet([*outputs.values()], layout.parameters):
        if points > exact_points:
            return _estimated(outputs, slices, layout, products, tol, seed)
        if points * layout.size * layout.dtype.itemsize <= memory_limit:
            jacobian = _jacobian([*outputs.values()], layout)
            method = "Jacobian, one backward pass a residual"
            matrix = inner_products(jacobian, jacobian)
        else:
            operator = TangentKernelOperator([*outputs.values()], layout)
            method = f"columns by {operator.method}"
            units = torch.eye(points, device="cpu")
            matrix = torch.stack([operator.matvec(unit).cpu().double() for unit in units], dim=1)
            matrix = (matrix + matrix.mT) / 2
    eps = max(torch.finfo(t.dtype).eps for t in (*outputs.values(), *layout.parameters))
    return TangentKernel(
        {name: _exact_block(matrix[rows, rows], eps, method) for name, rows in slices.items()},
        _exact_block(matrix, eps, method),
        slices,
        matrix,
        method,
    )


class TangentKernelOperator(SymmetricOperator):
    """K = J J^T as an operator on vectors with one entry a residual; J is never formed.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> K = TangentKernelOperator([w.square()], ParameterLayout.of({"w": w}))
        >>> K.matvec(torch.ones(2))
        tensor([ 4., 16.])
    """

    method = "double backward on the live graph"

    def __init__(self, residuals: Sequence[Tensor], layout: ParameterLayout) -> None:
        """Builds the operator on the live graph of residuals of any shape, one after the other.

        Raises:
            ArgumentError: some of the residuals are complex or empty.
            GraphError: a graph is missing, freed or changed in place.
            NotTwiceDifferentiableError: PyTorch has no second derivative of a part of the graph.
        """
        self._residuals = tuple(_flat(f"number {k}", r) for k, r in enumerate(residuals))
        self._parameters = layout.parameters
        self.size = sum(len(residual) for residual in self._residuals)
        self.dtype = layout.dtype
        self.device = layout.device
        # J v by two transposed products: J^T u is linear in u, and its own transpose is J. The
        # point u at which the graph of J^T u is built does not matter, but for custom backward
        # passes that take a short cut where u is zero.
        self._dual = tuple(torch.ones_like(r, requires_grad=True) for r in self._residuals)
        self._pulled = differentiate(
            self._residuals, self._parameters, self._dual, create_graph=True
        )

    def matvec(self, vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Returns J (J^T z).

        Raises:
            GraphError: the graph has been freed or changed in place since.
        """
        pieces = torch.split(self._check(vector), [len(r) for r in self._residuals])
        weights = [z.to(r) for z, r in zip(pieces, self._residuals, strict=True)]
        pulled = differentiate(self._residuals, self._parameters, weights)
        pairs = [
            (symbolic, value)
            for symbolic, value in zip(self._pulled, pulled, strict=True)
            if symbolic is not None and value is not None
        ]
        if not pairs:
            return torch.zeros(self.size, dtype=self.dtype, device=self.device)
        pushed = differentiate([s for s, _ in pairs], self._dual, [v for _, v in pairs])
        return torch.cat(
            [
                (torch.zeros_like(z) if p is None else p).to(self.device, self.dtype)
                for p, z in zip(pushed, pieces, strict=True)
            ]
        )


def _flat(name: str, residual: Tensor) -> Float[Tensor, " n"]:
    if residual.is_complex():
        raise ArgumentError(
            f"The residuals {name} are complex: give torch.view_as_real of them, whose entries "
            "are the residuals that the loss squares."
        )
    if residual.numel() == 0:
        raise ArgumentError(f"The residuals {name} are an empty tensor: leave them out.")
    if not residual.requires_grad:
        raise GraphError(
            f"The residuals {name} have no graph: give them as the loss is computed from them, "
            "not detached and not under no_grad."
        )
    with torch.enable_grad():  # the caller may be under no_grad, where a view has no graph
        return residual.reshape(-1)


def _jacobian(
    residuals: Sequence[Float[Tensor, " n"]], layout: ParameterLayout
) -> Float[Tensor, "n params"]:
    """Returns the gradient of every single residual, one a row."""
    rows = sum(len(residual) for residual in residuals)
    jacobian = torch.empty(rows, layout.size, dtype=layout.dtype, device=layout.device)
    row = 0
    for residual in residuals:
        for start in range(0, len(residual), _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, len(residual))
            units = residual.new_zeros(stop - start, len(residual))
            units[:, start:stop].fill_diagonal_(1.0)
            for gradients in _gradients(residual, units, layout):
                layout.flatten_into(jacobian[row], gradients)
                row += 1
    return jacobian


def _gradients(
    residual: Float[Tensor, " n"], units: Float[Tensor, "rows n"], layout: ParameterLayout
) -> list[list[Tensor | None]]:
    """Returns, for each row, the gradient of <row, residual> with respect to each parameter."""
    try:
        batched = differentiate([residual], layout.parameters, [units], batched=True)
    except (RuntimeError, GraphError):
        # torch.vmap does not know every operation (custom functions, for one). If the graph itself
        # is at fault, this says so.
        return [list(differentiate([residual], layout.parameters, [unit])) for unit in units]
    return [[None if g is None else g[k] for g in batched] for k in range(len(units))]


def _exact_block(matrix: Float[Tensor, "n n"], eps: float, method: str) -> KernelBlock:
    n = len(matrix)
    if not bool(matrix.isfinite().all()):
        status = "Nothing is known: the gradient of a residual was not finite."
        unknown = Eigenvalue(math.nan, -math.inf, math.inf, math.inf, False, status, n)
        estimate = TraceEstimate(math.nan, math.nan, n, method, status)
        return KernelBlock(n, estimate, unknown, unknown, None)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    error = _ROUNDING * eps * float(eigenvalues[-1])
    status = "Exact up to the rounding of the gradients: all eigenvalues of the kernel were taken."
    smallest, largest = (
        Eigenvalue(value, max(value - error, 0.0), value + error, error, True, status, n)
        for value in eigenvalues[[0, -1]].tolist()
    )
    total = TraceEstimate(
        float(matrix.trace()), 0.0, n, method, "Exact: the squared gradient of every residual."
    )
    return KernelBlock(n, total, largest, smallest, eigenvalues)


def _estimated(
    outputs: Mapping[str, Float[Tensor, " n"]],
    slices: Mapping[str, slice],
    layout: ParameterLayout,
    products: int,
    tol: float,
    seed: int,
) -> TangentKernel:
    blocks: dict[str, KernelBlock] = {}
    for name, output in outputs.items():
        own = TangentKernelOperator([output], layout)
        blocks[name] = _estimated_block(own, trace(own, products, seed=seed), tol, seed)
    traces = [block.trace for block in blocks.values()]
    total = TraceEstimate(
        sum(estimate.value for estimate in traces),
        math.hypot(*(estimate.standard_error for estimate in traces)),
        sum(estimate.products for estimate in traces),
        "; ".join(dict.fromkeys(estimate.method for estimate in traces)),
        "The sum of the terms' traces.",
    )
    operator = TangentKernelOperator([*outputs.values()], layout)
    whole = _estimated_block(operator, total, tol, seed)
    return TangentKernel(blocks, whole, slices, None, operator.method)


def _estimated_block(
    operator: SymmetricOperator, total: TraceEstimate, tol: float, seed: int
) -> KernelBlock:
    ends = extreme_eigenvalues(operator, tol=tol, seed=seed)
    # J J^T has no negative eigenvalue, which Lanczos's method cannot know.
    smallest = replace(ends.smallest, lower=max(ends.smallest.lower, 0.0))
    return KernelBlock(operator.size, total, ends.largest, smallest, None)
