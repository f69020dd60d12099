"""Weights by which a step down the combined gradient raises none of the terms.

ConFIG, UPGrad and their kin combine the gradients g_i into one direction d. Those offered here
combine linearly, d = sum w_i g_i, with weights that depend on the inner products of the gradients
alone. So only the (terms, terms) matrix of inner products, computed in float64, goes through the
packages that implement them, and what comes back are weights like those of any other rule.

That is not only cheaper. Given the gradients themselves, conflictfree 0.1.8 fails on float32 with
ten million parameters and more (the cut-off of its least-squares solver grows with their number)
and on float64 at all; torchjd 0.18 takes gradients for zero whose squared norms add up to less than
1e-4, and regularises so much that where one gradient is a hundred times larger than another, as in
many a PINN, the direction of UPGrad opposes the smaller one after all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ArgumentError, MissingPackageError
from .hooks import unwatched_modules
from .random_numbers import RandomState, random_numbers
from .reductions import Gramian, check_gradients, gramian
from .rules import Observation, Proposal, WeightingRule, WeightingState


@dataclass(frozen=True, kw_only=True)
class DirectionRule(WeightingRule):
    """A rule whose weights depend on the inner products of the gradients alone.

    A term whose gradient is zero takes no part and keeps its weight. Weights may be zero, and those
    of ConFIG negative: they are coefficients, not importances.
    """

    @abstractmethod
    def combine(self, inner: Gramian, step: int) -> Float[Tensor, " terms"]:
        """Returns the coefficient of each gradient; none of them is zero (CPU, float64)."""

    def direction(self, grads: Float[Tensor, "terms params"]) -> Float[Tensor, " params"]:
        """Returns the combined gradient, against which to step.

        Raises:
            ArgumentError: the gradients are not a matrix of real numbers.
            MissingPackageError: the package that implements the rule is not installed.
        """
        rows = check_gradients(grads)
        factors = torch.zeros(len(rows), dtype=torch.float64, device="cpu")
        for row, weight in self._weights(rows, step=0).items():
            factors[row] = weight
        return factors.to(rows) @ rows

    def propose(self, seen: Observation, state: WeightingState) -> Proposal:
        """Returns the coefficients of the combination as weights."""
        weights = self._weights(seen.gradients.detach(), seen.step)
        kept = {
            term: "its gradient is zero or not finite"
            for row, term in enumerate(seen.terms)
            if row not in weights
        }
        return Proposal({seen.terms[row]: weight for row, weight in weights.items()}, kept)

    def _weights(self, rows: Float[Tensor, "terms params"], step: int) -> dict[int, float]:
        """Returns the weight of each row that has a gradient."""
        inner = gramian(rows, (slice(0, rows.shape[1]),))
        norms, cosines = inner.norms.cpu(), inner.cosines.cpu()
        used = torch.nonzero(norms.isfinite() & (norms > 0)).flatten()
        if len(used) == 0:
            return {}
        # Weights do not depend on a common factor of all gradients; without it nothing overflows.
        part = Gramian(norms[used] / norms[used].max(), cosines[used][:, used])
        with part.norms.device:  # the packages make tensors where torch.set_default_device says
            weights = self.combine(part, step).tolist()
        return dict(zip(used.tolist(), weights, strict=True))


@dataclass(frozen=True, kw_only=True)
class ConFIG(DirectionRule):
    """The direction at equal angles to all gradients (Liu, Chu, Thuerey, ICLR 2025).

    d = (sum g_i . u) u, with u the unit vector along pinv([g_1/||g_1||, ...]^T) 1 (arXiv
    2408.11104, eq. 2). Through the authors' package conflictfree.

    Example:
        >>> grads = torch.tensor([[10.0, 0.0], [-1.0, 1.0]])
        >>> direction = ConFIG().direction(grads)
        >>> torch.cosine_similarity(grads, direction[None])
        tensor([0.3827, 0.3827])
    """

    def combine(self, inner: Gramian, step: int) -> Float[Tensor, " terms"]:
        """Returns the coefficient of each gradient."""
        package = _optional("conflictfree.grad_operator", "conflictfree")
        if inner.cosines.sum() < 1e-12:
            # The unit vectors add up to nothing (to 1e-6): the pseudo-inverse is zero, and what
            # rounding leaves of it must not be blown up to a direction.
            return torch.zeros_like(inner.norms)
        # Vectors with these inner products, in no more dimensions than they span.
        values, vectors = torch.linalg.eigh(inner.cosines)
        spanned = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
        units = vectors[:, spanned] * values[spanned].sqrt()
        combined = package.ConFIG_update(inner.norms[:, None] * units, weight_model=_EqualWeights())
        # The least coefficients c with units^T c = combined.
        weights: Tensor = (units / values[spanned]) @ combined / inner.norms
        return weights


class _EqualWeights:
    """What conflictfree calls a weight model; its own knows float32 only."""

    def get_weights(self, gradients: Tensor, losses: object, device: torch.device) -> Tensor:
        return torch.ones(len(gradients), dtype=gradients.dtype, device=device)


@dataclass(frozen=True, kw_only=True)
class UPGrad(DirectionRule):
    """The mean of the gradients, each projected to where it raises no term.

    d = (1/n) sum of the projections of g_i onto {d : d . g_j >= 0 for all j} (Quinton and Rey,
    arXiv 2406.16232). Through torchjd's projector, which needs a solver of quadratic programs. It
    is a mean: where the gradients do not conflict it is 1/n of their sum.
    """

    def combine(self, inner: Gramian, step: int) -> Float[Tensor, " terms"]:
        """Returns the coefficient of each gradient."""
        linalg = _optional("torchjd.linalg", "'torchjd[quadprog_projector]'")
        # The cone does not change with the lengths of the gradients, so each unit vector is
        # projected; that keeps the regularisation small beside the shortest of them, too.
        projector = _construct(linalg.QuadprogProjector, {"reg_eps": 1e-10})
        projected: Tensor = projector(torch.diag(torch.ones_like(inner.norms)), inner.cosines)
        return inner.norms @ projected / len(inner.norms) / inner.norms


@dataclass(frozen=True, kw_only=True)
class TorchJDAggregator(DirectionRule):
    """A combination of gradients from torchjd, by its name there.

    Args:
        name: "AlignedMTL", "CAGrad", "IMTLG", "MGDA" or "PCGrad". The others of torchjd remember
            steps (which a resumed run would lose), need more than inner products, or give a
            direction that does not scale with the gradients.
        options: arguments of torchjd's class, such as {"c": 0.5} for CAGrad.
        seed: of PCGrad's random order.
    """

    name: str = "MGDA"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name not in _AGGREGATORS:
            raise ArgumentError(
                f"There is no aggregator {self.name!r} here; choose one of "
                f"{', '.join(_AGGREGATORS)}, or the rules UPGrad and ConFIG."
            )

    def combine(self, inner: Gramian, step: int) -> Float[Tensor, " terms"]:
        """Returns the coefficient of each gradient."""
        aggregation = _optional("torchjd.aggregation", "torchjd")
        weighting = _construct(getattr(aggregation, f"{self.name}Weighting"), self.options)
        # A weighting of torchjd is a module: hooks on all modules would see it.
        with _own_draws(self.seed * 1_000_003 + step), unwatched_modules():
            weights: Tensor = weighting(inner.norms[:, None] * inner.cosines * inner.norms)
        return weights


_AGGREGATORS = ("AlignedMTL", "CAGrad", "IMTLG", "MGDA", "PCGrad")


def _optional(module: str, requirement: str) -> Any:
    try:
        # Importing draws: qpsolvers, of torchjd, imports JAX where that is installed, which does.
        with random_numbers(RandomState.of_process()):
            return import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"This rule needs {module.partition('.')[0]}, which is not installed: "
            f"pip install {requirement}"
        ) from error


def _construct(kind: Any, options: Mapping[str, Any]) -> Any:
    try:
        return kind(**options)
    except ImportError as error:  # torchjd's own solvers are optional; its sentence names the mend
        raise MissingPackageError(f"This rule needs more of torchjd: {error}") from error
    except TypeError as error:
        raise ArgumentError(f"torchjd does not take these options: {error}.") from error


@contextmanager
def _own_draws(seed: int) -> Iterator[None]:
    """Seeds the CPU's global generator, which torchjd draws from, and puts it back afterwards."""
    generator = torch.default_generator
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
