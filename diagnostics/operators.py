"""Symmetric linear operators on the flat parameter vector: what the eigenvalue methods work on.

An operator is known by its products with vectors alone. The Hessians of `curvature.py` are such
operators; here are what they have in common, a dense matrix as an operator, and the change of
metric by which Adam and its kin see the Hessian.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from .errors import ArgumentError


class SymmetricOperator(ABC):
    """A symmetric matrix of n rows of which only the products with vectors can be had.

    Attributes:
        size: n, the number of rows.
        dtype: dtype in which products are computed and returned.
        device: device of the products.
        method: in words, how a product is computed; results of measurements carry it.
        exact: False where products carry a truncation error beyond rounding (finite differences).
    """

    size: int
    dtype: torch.dtype
    device: torch.device
    method: str
    exact: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return (self.size, self.size)

    @abstractmethod
    def matvec(self, vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Returns the operator applied to one vector, as a new tensor without a graph."""

    def matmat(self, matrix: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Returns the operator applied to each column.

        Raises:
            ArgumentError: the matrix has another number of rows.
        """
        columns = self._check_columns(matrix)
        products = torch.empty_like(columns)
        for k, column in enumerate(columns.unbind(1)):
            products[:, k] = self.matvec(column)
        return products

    def to_scipy(self) -> LinearOperator:
        """Returns a scipy `LinearOperator` of the same products (numpy in, numpy out)."""
        exact = _numpy_exact(self.dtype)

        def apply(vector: np.ndarray) -> np.ndarray:
            return self.matvec(self._from_numpy(vector.reshape(-1))).cpu().to(exact).numpy()

        def apply_all(matrix: np.ndarray) -> np.ndarray:
            return self.matmat(self._from_numpy(matrix)).cpu().to(exact).numpy()

        return LinearOperator(
            self.shape,
            matvec=apply,
            rmatvec=apply,
            matmat=apply_all,
            rmatmat=apply_all,
            dtype=torch.empty(0, dtype=exact, device="cpu").numpy().dtype,
        )

    def _from_numpy(self, array: np.ndarray) -> Tensor:
        # scipy hands out read-only and strided views; torch wants memory of its own.
        return torch.from_numpy(np.array(array)).to(self.device, self.dtype)

    def _check(self, vector: Tensor) -> Tensor:
        """Returns the vector in the operator's dtype and device; raises where it does not fit."""
        if not isinstance(vector, Tensor) or vector.shape != (self.size,):
            raise ArgumentError(
                f"{_described(vector, 'vector')} was given to an operator of {self.size} rows; it "
                "must be a flat tensor of that length."
            )
        return self._converted(vector)

    def _check_columns(self, matrix: Tensor) -> Tensor:
        """Returns the columns in the operator's dtype and device; raises where they do not fit."""
        if not isinstance(matrix, Tensor) or matrix.ndim != 2 or len(matrix) != self.size:
            raise ArgumentError(
                f"{_described(matrix, 'matrix')} was given to an operator of {self.size} rows; it "
                "must be a tensor of that many rows, one vector a column."
            )
        return self._converted(matrix)

    def _converted(self, tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            raise ArgumentError(
                f"A tensor of {tensor.dtype} was given to a real operator; apply it to the real "
                "and the imaginary part."
            )
        return tensor.detach().to(self.device, self.dtype)


class MatrixOperator(SymmetricOperator):
    """A dense symmetric matrix as an operator.

    Example:
        >>> MatrixOperator(torch.diag(torch.tensor([1.0, 2.0]))).matvec(torch.ones(2))
        tensor([1., 2.])
    """

    method = "dense matrix"

    def __init__(self, matrix: Float[Tensor, "n n"]) -> None:
        """Takes the matrix as it is, without a copy.

        Raises:
            ArgumentError: the matrix is no tensor, not square, not real floating-point, empty, or
                its asymmetry is beyond rounding.
        """
        if not isinstance(matrix, Tensor):
            raise ArgumentError(f"{_described(matrix, 'matrix')} was given; it must be a tensor.")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.numel() == 0:
            raise ArgumentError(
                f"A symmetric operator needs a square matrix, not one of shape "
                f"{tuple(matrix.shape)}."
            )
        if not matrix.is_floating_point():
            raise ArgumentError(f"A matrix of {matrix.dtype} was given; convert it to a float.")
        self.matrix = matrix.detach()
        self.size = matrix.shape[0]
        self.dtype = matrix.dtype
        self.device = matrix.device
        asymmetry = (self.matrix - self.matrix.mT).abs().max()
        # Not "<=": a matrix with NaN passes here, and the eigenvalue methods give it a status.
        if asymmetry > 100 * torch.finfo(matrix.dtype).eps * self.matrix.abs().max():
            raise ArgumentError("The matrix is not symmetric; symmetrise it first: (A + A.mT) / 2.")

    def matvec(self, vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Returns the matrix times one vector."""
        return self.matrix @ self._check(vector)

    def matmat(self, matrix: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Returns the matrix times several columns."""
        return self.matrix @ self._check_columns(matrix)


class Preconditioned(SymmetricOperator):
    """D^(-1/2) A D^(-1/2), which has the eigenvalues of D^(-1) A, for a positive diagonal D.

    This is the curvature that a diagonally preconditioned method (Adam, RMSprop) reacts to (Cohen
    et al. 2022, arXiv 2207.14484, section 2). `stability.py` gives the diagonal of an optimizer.

    Example:
        >>> A = MatrixOperator(torch.diag(torch.tensor([4.0, 9.0])))
        >>> Preconditioned(A, torch.tensor([4.0, 9.0])).matvec(torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(self, operator: SymmetricOperator, diagonal: Float[Tensor, " n"]) -> None:
        """Takes the operator A and the diagonal of D.

        Raises:
            ArgumentError: the diagonal has another length, or an entry that is not positive.
        """
        if diagonal.shape != (operator.size,):
            raise ArgumentError(
                f"A diagonal of shape {tuple(diagonal.shape)} was given for an operator of "
                f"{operator.size} rows."
            )
        if not bool((diagonal > 0).all()):
            raise ArgumentError("Every entry of a preconditioner's diagonal must be positive.")
        self.operator = operator
        self.size = operator.size
        self.dtype = operator.dtype
        self.device = operator.device
        self.method = f"{operator.method}, preconditioned"
        self.exact = operator.exact
        # The root comes first: in half precision Adam's 1e-8 is zero, and 1e4 is not.
        wide = diagonal.detach().to(self.device, torch.promote_types(diagonal.dtype, torch.float32))
        self.scale = wide.rsqrt().to(self.dtype)

    def matvec(self, vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Returns D^(-1/2) A D^(-1/2) times one vector."""
        return self.operator.matvec(self._check(vector) * self.scale).mul_(self.scale)


class Descended(SymmetricOperator):
    """The Hessian of what an optimizer descends on: A or -A, plus a diagonal of weight decay."""

    def __init__(
        self, operator: SymmetricOperator, negated: bool, shift: Float[Tensor, " n"] | None
    ) -> None:
        if shift is not None and shift.shape != (operator.size,):
            raise ArgumentError(
                f"A Hessian of {operator.size} rows was given for an optimizer that was read for "
                f"{len(shift)} parameters."
            )
        self.operator = operator
        self.size = operator.size
        self.dtype = operator.dtype
        self.device = operator.device
        self.exact = operator.exact
        self.method = operator.method + ", negated" * negated
        if shift is not None:
            self.method += ", with weight decay"
        self.sign = -1.0 if negated else 1.0
        self.shift = None if shift is None else shift.to(self.device, self.dtype)

    def matvec(self, vector: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Returns the product with one vector."""
        product = self.operator.matvec(self._check(vector)).mul_(self.sign)
        return product if self.shift is None else product.addcmul_(self.shift, vector.to(product))


def _numpy_exact(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which scipy's methods hold values of `dtype` exactly (they know no halves)."""
    return dtype if dtype is torch.float64 else torch.float32


def _described(argument: object, role: str) -> str:
    if isinstance(argument, Tensor):
        return f"A {role} of shape {tuple(argument.shape)}"
    return f"A {type(argument).__name__}"
