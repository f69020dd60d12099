"""The trace of a symmetric operator from few products, with a standard error.

The trace of a Hessian is the sum of its eigenvalues; divided by the largest it says how many
directions are stiff. XTrace (Epperly, Tropp, Webber 2024, "XTrace: making the most of every sample
in stochastic trace estimation", arXiv 2301.07825) lets each test vector do two things: all the
others span a basis in which the trace is taken exactly, and this one estimates what that basis
leaves over. The estimates differ only in which vector is left out, so their scatter is an error
estimate that costs no product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ArgumentError
from .inner import inner_products
from .operators import SymmetricOperator

# Arrays of n rows and a column a test vector that XTrace holds at its peak: the test vectors, their
# products, and the orthogonal basis twice while the QR decomposition makes it.
_ARRAYS = 4


@dataclass(frozen=True)
class TraceEstimate:
    """A trace, or what could be learnt of it."""

    value: float  # NaN where there is none
    # One standard deviation of the sampling, if anything too large; rounding is not in it. Zero for
    # an exact trace, NaN where it is unknown.
    standard_error: float
    products: int  # operator applications used
    method: str  # the estimator, and how the operator computes a product
    status: str  # a sentence: what the value is worth, or why there is none


def trace(
    A: SymmetricOperator, products: int = 100, *, seed: int = 0, memory_limit: int = 2**30
) -> TraceEstimate:
    """Returns the trace of an operator with its standard error.

    Exact where `products` allows one product a row. Otherwise XTrace, which takes the trace exactly
    on about `products` / 2 dominant directions (of either sign) and samples the rest. Where
    XTrace's basis would not fit into memory it is Hutchinson's estimator, which samples everything
    and errs like `products` ** -0.5.

    Args:
        A: the operator; it may be indefinite, rank-deficient or zero.
        products: how many times A may be applied. XTrace uses an even number of them.
        seed: of the test vectors, which an own generator draws.
        memory_limit: bytes that XTrace's arrays may take (four, n x `products` / 2).

    Raises:
        ArgumentError: `products` is less than one.

    Example:
        >>> halving = MatrixOperator(torch.diag(0.5 ** torch.arange(50.0)))  # trace 2
        >>> estimate = trace(halving, products=20)
        >>> estimate.standard_error < 0.1, abs(estimate.value - 2) < 3 * estimate.standard_error
        (True, True)
    """
    if products < 1:
        raise ArgumentError(f"A trace needs at least one product, not {products}.")
    if products >= A.size:
        return _exact(A)
    generator = torch.Generator().manual_seed(seed)
    vectors = products // 2
    # Half precision cannot hold an orthogonal basis; the products are still those of A.
    dtype = torch.promote_types(A.dtype, torch.float32)
    # A single test vector has no scatter, hence no error estimate.
    if vectors < 2 or _ARRAYS * A.size * vectors * dtype.itemsize > memory_limit:
        return _hutchinson(A, products, generator)
    return _xtrace(A, vectors, dtype, generator)


def _exact(A: SymmetricOperator) -> TraceEstimate:
    diagonal = torch.empty(A.size, dtype=torch.float64, device="cpu")
    for row in range(A.size):
        unit = torch.zeros(A.size, dtype=A.dtype, device=A.device)
        unit[row] = 1.0
        diagonal[row] = A.matvec(unit)[row]
    return _estimate(diagonal.sum(), diagonal.new_zeros(()), A.size, "diagonal entries", A)


def _hutchinson(A: SymmetricOperator, products: int, generator: torch.Generator) -> TraceEstimate:
    """Averages z.Az over vectors of random signs (Hutchinson 1990)."""
    samples = torch.empty(products, dtype=torch.float64, device="cpu")
    for k in range(products):
        coins = torch.randint(0, 2, (A.size,), generator=generator, dtype=torch.int8, device="cpu")
        vector = (2 * coins - 1).to(A.device, A.dtype)
        samples[k] = inner_products(vector[None], A.matvec(vector)[None])
    return _estimate(samples.mean(), _standard_error(samples), products, "Hutchinson", A)


def _xtrace(
    A: SymmetricOperator, vectors: int, dtype: torch.dtype, generator: torch.Generator
) -> TraceEstimate:
    """XTrace with m = `vectors` test vectors and 2 m products.

    The columns w_i of `tests` are the test vectors, y_i = A w_i, [y_1 ... y_m] = Q R with
    orthonormal columns in Q, and H = Q^T A Q. For each i let P_i project onto the span of all y_j
    but y_i. It does not depend on w_i, so with v_i = (1 - P_i) w_i, rescaled to be isotropic on the
    complement of that span, the sample

        t_i = tr(P_i A P_i) + v_i.A v_i

    has the mean tr A. All of this follows from products of small matrices, without another product
    of A.
    """
    n, m = A.size, vectors
    tests = torch.randn(m, n, generator=generator, dtype=dtype, device="cpu").to(A.device).mT
    tests *= math.sqrt(n) / torch.linalg.vector_norm(tests, dim=0)
    images = A.matmat(tests.to(A.dtype)).to(dtype)
    wAw = torch.cat(
        [inner_products(w[None], y[None])[0] for w, y in zip(tests.mT, images.mT, strict=True)]
    )
    Q, R = torch.linalg.qr(images)
    del images
    R = R.cpu().double()
    if not bool(wAw.isfinite().all() and R.isfinite().all()):
        unknown = R.new_tensor(math.nan)
        return _estimate(unknown, unknown, m, "XTrace", A)
    Q, R = _independent(Q, R, torch.finfo(dtype).eps)
    rank = Q.shape[1]
    W = inner_products(Q.mT, tests.mT)  # Q^T w_i
    del tests
    # A zero operator leaves no basis vector to apply it to.
    H = inner_products(Q.mT, A.matmat(Q.to(A.dtype)).mT if rank else Q.mT)
    H = (H + H.mT) / 2

    def rest(X: Tensor, HX: Tensor, wAw: Tensor, y: Tensor, kept: int) -> Tensor:
        """v.A v for v = w - Q x rescaled, Q x being the part of w in a basis of `kept` vectors."""
        # w.A Q x is x.Q^T y, and Q^T y_i is column i of R.
        vAv = wAw - 2 * _dots(X, y) + _dots(X, HX)
        # |v|^2 = |w|^2 - |x|^2. The direction of v is uniform in the complement; giving it the
        # length sqrt(dimension) makes it isotropic, and keeps the scatter of its length out.
        return vAv * (n - kept) / (n - _dots(X, X))

    if rank < m:
        # The y_j lie in fewer dimensions than there are: without y_i they span the same space, so
        # nothing is left out, and the samples are independent of each other.
        samples = H.trace() + rest(W, H @ W, wAw, R, rank)
        return _estimate(samples.mean(), _standard_error(samples), m + rank, "XTrace", A)

    # P_i = Q (1 - s_i s_i^T) Q^T with a unit vector s_i orthogonal to every column of R but the
    # i-th. R^T s_i is then a multiple of the i-th unit vector: s_i is column i of R^-T, normalised.
    S = torch.linalg.inv(R).mT
    S /= torch.linalg.vector_norm(S, dim=0)
    HS = H @ S
    X = W - S * _dots(S, W)
    HX = H @ X
    inside = H.trace() - _dots(S, HS)
    samples = inside + rest(X, HX, wAw, R, m - 1)

    # The samples share most of their bases, hence their errors, and their scatter is too small a
    # standard error (three times on a spectrum with a step). The jackknife is not fooled: with T_i
    # the whole estimate made without w_i, the mean of sum_i (T_i - mean T)^2 is at least the
    # variance of an estimate from m - 1 vectors (Efron and Stein 1981). T_i is made of samples with
    # two y left out; beside s_j, they lack the direction u_i of s_i - (s_i.s_j) s_j.
    without = R.new_zeros(m, m)  # row i: the samples that make up T_i
    for j in range(m):
        overlap = S[:, j] @ S
        U = S - torch.outer(S[:, j], overlap)
        norms = torch.linalg.vector_norm(U, dim=0).clamp(min=torch.finfo(torch.float64).eps)
        U /= norms
        HU = (HS - torch.outer(HS[:, j], overlap)) / norms
        lost = X[:, j] @ U
        XU, HXU = X[:, j : j + 1] - U * lost, HX[:, j : j + 1] - HU * lost
        without[:, j] = inside[j] - _dots(U, HU) + rest(XU, HXU, wAw[j], R[:, j : j + 1], m - 2)
    estimates = without.fill_diagonal_(0.0).sum(dim=1) / (m - 1)
    jackknife = torch.linalg.vector_norm(estimates - estimates.mean())
    return _estimate(samples.mean(), jackknife, 2 * m, "XTrace", A)


def _independent(
    Q: Float[Tensor, "n m"], R: Float[Tensor, "m m"], eps: float
) -> tuple[Float[Tensor, "n rank"], Float[Tensor, "rank m"]]:
    """Returns Q and R without the directions in which Q R is nothing but rounding."""
    U, sizes, _ = torch.linalg.svd(R)
    rank = int((sizes > len(R) * eps * sizes[0]).sum())
    if rank == len(R):
        return Q, R
    kept = U[:, :rank]
    return Q @ kept.to(Q.device, Q.dtype), kept.mT @ R


def _dots(left: Float[Tensor, "rows a"], right: Float[Tensor, "rows b"]) -> Float[Tensor, " a"]:
    """Returns the inner product of each column with its counterpart."""
    return (left * right).sum(dim=0)


def _standard_error(samples: Float[Tensor, " samples"]) -> Tensor:
    return (
        samples.std() / math.sqrt(len(samples))
        if len(samples) > 1
        else samples.new_tensor(math.nan)
    )


def _estimate(
    value: Tensor, standard_error: Tensor, products: int, estimator: str, A: SymmetricOperator
) -> TraceEstimate:
    method = f"{estimator}; {A.method}"
    if not bool(value.isfinite()):
        status = "No trace: a product with the operator was not finite."
        return TraceEstimate(math.nan, math.nan, products, method, status)
    if products >= A.size:
        status = "Exact: one product a row, no sampling."
    elif bool(standard_error.isnan()):
        status = "From a single test vector, so its error is unknown; allow more products."
    else:
        status = f"Estimated from {products} random products."
    return TraceEstimate(float(value), float(standard_error), products, method, status)
