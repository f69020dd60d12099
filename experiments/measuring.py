"""What the trainer measures beside a probe's own instruments, and where it takes curvature.

Training points are drawn anew at every step; curvature is that of a batch that stays the same, so
that its changes are those of the network. Its records carry the name of that batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..diagnostics.curvature import Hessian
from ..diagnostics.layout import ParameterLayout
from ..probes.instruments import Descent, Spectrum, Stability, Stiffness, TangentKernel
from ..probes.instruments.base import Instrument, Reads, reads
from ..probes.instruments.presets import instruments_of
from ..probes.records import Cost, Event, Field, Finding, Record, Scalar
from ..probes.schedules import Clock, LogSpaced, Schedule, at
from ..probes.snapshot import Snapshot
from .compilation import compiled
from .domains import Batch, Sampler
from .formulation import Problem
from .networks import MLP
from .resampling import Resampling
from .seeds import generator_of
from .training_step import FlatLosses

DIAGNOSTIC_BATCH = "diagnostic"

# A set of instruments for trainings of a few thousand steps, in which that of a probe finds its
# budget for curvature after a step or two.
SHORT = "short"

# Points of each region for the tangent kernel: exact, and less than a second each time.
_KERNEL_POINTS = 32

# Every schedule that waits for its share of the training time has it by then.
_TIME_NO_MATTER = Clock(training=math.inf, measuring=0.0, next_cost=0.0)


class Curvature:
    """Hessians of the terms and of their weighted sum, on one batch.

    Args:
        losses: the terms.
        batch: the points.
        compile: whether to compile products of forward-over-reverse derivatives, once for all
            parameters and weights. Else every Hessian is differentiated twice on a graph of its
            own, as `Hessian.of_function` does.
    """

    def __init__(self, losses: FlatLosses, batch: Batch, *, compile: bool) -> None:
        self._losses = losses
        self._batch = batch
        self.is_compiled = False
        if compile:
            point = losses.layout.flatten()
            arguments = (point, point.new_ones(len(losses.terms)), point, batch)
            self._product, self.is_compiled = compiled(
                self._pushforward, arguments, what="A Hessian-vector product"
            )

    def hessian(
        self, parameters: Float[Tensor, " params"], weights: Float[Tensor, " terms"]
    ) -> Hessian:
        """Returns the Hessian of the weighted sum of the terms."""
        layout, batch = self._losses.layout, self._batch
        weights = weights.to(parameters.dtype)
        if not self.is_compiled:
            return Hessian.of_function(
                lambda named: self._losses.total(named, weights, batch),
                layout.unflatten(parameters),
            )
        point = parameters

        def product(vector: Tensor, part: ParameterLayout) -> Tensor:
            whole = part.size == layout.size
            direction = vector if whole else layout.flatten(part.unflatten(vector))
            second: Tensor = self._product(point, weights, direction.contiguous(), batch)
            return second if whole else part.flatten(_named(layout, second, part))

        return Hessian(layout, product, "forward-over-reverse by torch.func, compiled")

    def _pushforward(
        self, point: Tensor, weights: Tensor, direction: Tensor, batch: Batch
    ) -> Tensor:
        def loss(flat: Tensor) -> Tensor:
            return self._losses.total(self._losses.layout.unflatten(flat), weights, batch)

        second: Tensor = torch.func.jvp(torch.func.grad(loss), (point,), (direction,))[1]
        return second


def _named(layout: ParameterLayout, vector: Tensor, part: ParameterLayout) -> dict[str, Tensor]:
    whole = layout.unflatten(vector)
    return {slot.name: whole[slot.name] for slot in part.slots}


@dataclass(eq=False)
class OnBatch:
    """An instrument whose records carry the name of a batch.

    Args:
        instrument: that measures.
        batch: the name.
    """

    instrument: Instrument
    batch: str

    @property
    def name(self) -> str:
        """That of the instrument."""
        return self.instrument.name

    @property
    def schedule(self) -> Schedule:
        """That of the instrument."""
        return self.instrument.schedule

    @property
    def reads(self) -> Reads:
        """What the instrument reads."""
        return reads(self.instrument)

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields what the instrument finds."""
        for record in self.instrument.measure(snapshot):
            if isinstance(record, Cost | Event | Finding):
                yield record
            else:
                yield replace(record, batch=self.batch)


@dataclass(frozen=True)
class LogSpacedAndLast:
    """Due at logarithmically spaced steps, and at the last one."""

    per_decade: int
    last: int

    def due(self, step: int, clock: Clock) -> bool:
        """Returns whether to measure at this step."""
        return step == self.last or LogSpaced(self.per_decade).due(step, clock)


@dataclass(eq=False)
class Evaluation:
    """The prediction, its error, and the residuals of the equation, on the evaluation grid.

    Args:
        problem: whose grid and solution.
        network: as it stands when measured, before the step.
        schedule: when.

    Records: fields `prediction` and `error` (prediction minus solution), of a flow also `velocity`
    and `velocity_error`, `residual` of each term of the equation, scalar `relative_error`; the
    first time, where the solution has a closed form, scalars `solution_residual` of every term, the
    largest magnitude that the solution itself leaves.
    """

    problem: Problem
    network: MLP
    schedule: Schedule
    name: str = "evaluation"
    reads: Reads = "graph"
    _is_first: bool = True

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields fields and error."""
        dtype, (points, solution) = snapshot.layout.dtype, self._solution
        with torch.no_grad():
            prediction = self.problem.observed(self.network, points.to(dtype))
            residuals = self.problem.residuals(self.network, self._batch(dtype))
        difference = prediction.double() - solution
        grid = points.numpy()
        yield Field("prediction", prediction.numpy(), grid)
        yield Field("error", difference.to(dtype).numpy(), grid)
        yield Scalar("relative_error", float(difference.norm() / solution.norm()))
        if self._velocity is not None:
            with torch.no_grad():
                velocity = self.problem.velocity(self.network, points.to(dtype))
            assert velocity is not None
            yield Field("velocity", velocity.numpy(), grid)
            yield Field("velocity_error", (velocity - self._velocity).to(dtype).numpy(), grid)
        for term, values in residuals.items():
            if term.startswith("residual"):
                yield Field("residual", values.reshape(len(grid), -1).numpy(), grid, term=term)
        if self._is_first and self.problem.has_closed_form:
            yield from self._self_check()
        self._is_first = False

    def _self_check(self) -> Iterator[Record]:
        with torch.no_grad():
            # Drawn inside: on the edges of a grid derivatives of a solution may be none.
            batch = self.problem.sampler(dtype=torch.float64).draw(_evaluation_generator())
            residuals = self.problem.residuals(self.problem.solution, batch)
        for term, values in residuals.items():
            yield Scalar("solution_residual", float(values.abs().max()), term)

    def _batch(self, dtype: torch.dtype) -> Batch:
        """Returns a batch with the points of the grid inside; the other regions are drawn."""
        drawn = self.problem.sampler(1, dtype=dtype).draw(_evaluation_generator())
        return {**drawn, "interior": self._solution[0].to(dtype)[None]}

    @cached_property
    def _solution(self) -> tuple[Tensor, Tensor]:
        points = self.problem.evaluation_points()
        return points, self.problem.observed(self.problem.solution, points)

    @cached_property
    def _velocity(self) -> Tensor | None:
        return self.problem.velocity(self.problem.solution, self._solution[0])


def _evaluation_generator() -> torch.Generator:
    return generator_of("evaluation points", 0)


@dataclass(eq=False)
class Divergence:
    """Says at which step training was stopped because a loss was no number any more.

    It is its own schedule: due at the step that it was told of.
    """

    step: int | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    name: str = "divergence"
    reads: Reads = "losses"

    @property
    def schedule(self) -> Schedule:
        """Due at the step that it was told of."""
        return self

    @property
    def sentence(self) -> str:
        """What has happened."""
        wrong = next(term for term, value in self.losses.items() if not math.isfinite(value))
        return (
            f"Training was stopped at step {self.step}: the loss term {wrong} is "
            f"{self.losses[wrong]}."
        )

    def due(self, step: int, clock: Clock) -> bool:
        """Returns whether training is stopped at this step."""
        return step == self.step

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields the finding."""
        yield Finding(
            "GP402",
            "fail",
            self.sentence,
            {
                "step": self.step,
                "losses": {term: str(value) for term, value in self.losses.items()},
                "weights": {term: str(value) for term, value in snapshot.weights.items()},
            },
            (
                "Look at the weights and gradients before that step for one that grew.",
                "Lower the learning rate.",
            ),
            "observed by gradpath",
        )


@dataclass(frozen=True, eq=False)
class Measuring:
    """The instruments of a trained member."""

    instruments: tuple[Instrument, ...]
    divergence: Divergence
    _schedules: tuple[Schedule, ...] = field(default=())

    @classmethod
    def of(
        cls,
        wanted: str | Sequence[Instrument | str],
        problem: Problem,
        network: MLP,
        sampler: Sampler,
        *,
        steps: int,
        seed: int,
    ) -> Measuring:
        """Returns the instruments wanted, with evaluations, and curvature on the diagnostic batch.

        Where a set is wanted by name, and the problem depends on time, the tangent kernel is taken
        at the first and at the last step. The sampler draws batches as the training has them.

        Raises:
            ArgumentError: there is no set of instruments of a name.
        """
        chosen = _short(steps, seed) if wanted == SHORT else instruments_of(wanted, seed)
        # The gradients are of the training batch and curvature of another: together they predict
        # the change of neither.
        chosen = [each for each in chosen if not isinstance(each, Descent)]
        found: list[Instrument] = [
            OnBatch(each, DIAGNOSTIC_BATCH)
            if isinstance(each, Stiffness | Stability | Spectrum)
            else each
            for each in chosen
        ]
        if isinstance(wanted, str) and wanted != "light" and "t" in problem.domain.coordinates:
            found.append(_tangent_kernel(problem, network, steps, seed))
        divergence = Divergence()
        evaluation = Evaluation(problem, network, LogSpacedAndLast(4, steps))
        resampling = Resampling(
            FlatLosses(problem, network), sampler, LogSpacedAndLast(2, steps), seed
        )
        instruments = (*found, evaluation, resampling, divergence)
        # Several have one schedule, or equal ones.
        schedules = tuple(
            {repr(each.schedule): each.schedule for each in instruments[:-1]}.values()
        )
        return cls(instruments, divergence, schedules)

    @property
    def need_curvature(self) -> bool:
        """Whether some of them read Hessians."""
        return any(
            isinstance(each, OnBatch) and not isinstance(each.instrument, TangentKernel)
            for each in self.instruments
        )

    def may_be_due(self, step: int) -> bool:
        """Whether something may have to be recorded at a step.

        For a schedule that waits for its share of the time, only the probe knows; this is to spare
        all other steps what asking it costs.
        """
        return any(schedule.due(step, _TIME_NO_MATTER) for schedule in self._schedules)


def _short(steps: int, seed: int) -> list[Instrument]:
    """Returns the standard set with curvature whatever it costs: a budget is for long trainings."""
    curvature = LogSpacedAndLast(2, steps)
    others = [
        each
        for each in instruments_of("standard", seed)
        if not isinstance(each, Stiffness | Stability)
    ]
    return [*others, Stiffness(curvature, seed=seed), Stability(curvature, seed=seed)]


def _tangent_kernel(problem: Problem, network: MLP, steps: int, seed: int) -> OnBatch:
    dtype = next(network.parameters()).dtype
    sampler = problem.sampler(_KERNEL_POINTS, dtype=dtype)
    batch = sampler.draw(generator_of("tangent kernel", seed))

    def residuals(model: MLP) -> Mapping[str, Tensor]:
        return {term: each.flatten() for term, each in problem.residuals(model, batch).items()}

    return OnBatch(TangentKernel(residuals, at(0, steps), seed), "kernel points")


def by_term(
    curvature: Curvature,
    terms: Sequence[str],
    parameters: Float[Tensor, " params"],
    weights: Float[Tensor, " terms"],
) -> Mapping[str, object]:
    """Returns functions that make the Hessian of each term, unweighted, and of the total."""
    chosen = dict(zip(terms, torch.eye(len(terms)), strict=True)) | {"total": weights}

    def made(of: Tensor) -> object:
        return lambda: curvature.hessian(parameters, of)

    return {name: made(of) for name, of in chosen.items()}
