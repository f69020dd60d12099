"""Training a model on a reference problem, as the paper does, with a probe on it.

A step is one compiled function that takes the gradients of all terms one by one, which is what a
probe wants to see and what most rules for weights need. As in the authors' code points are drawn
anew at every step, and a rule changes the weights after a step, for the next one.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diagnostics.balancing import NTKWeights
from ..diagnostics.errors import ArgumentError, GradpathError
from ..diagnostics.gradients import TermGradients
from ..diagnostics.rules import Observation
from ..probes.instruments.base import Instrument
from ..probes.probe import Probe
from .checkpoints import Checkpoint
from .domains import Batch, Sampler
from .formulation import Problem
from .measuring import DIAGNOSTIC_BATCH, Curvature, Measuring, by_term
from .models import Model, model as named_model
from .optimizers import OPTIMIZERS, Setting
from .seeds import generator_of
from .summary import Summary
from .training_step import INITIAL_RATE, FlatLosses, Taken

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Is told the step, the number of steps, and the losses by name."""

# The measuring interval of gradients: no more is lost when the process is killed.
CHECKPOINT_EVERY = 100
PROGRESS_EVERY = 10
# Compiling a step takes as long as it saves in some ten thousand of them.
COMPILE_FROM = 10_000
# Compiling Hessian-vector products takes as long as some ten thousand steps.
COMPILE_CURVATURE_FROM = 20_000


class DivergenceError(GradpathError):
    """A loss is infinite or no number, so that training cannot go on."""


def train(
    problem: Problem,
    model: Model | str,
    folder: str | os.PathLike[str],
    *,
    steps: int,
    seed: int = 0,
    hidden: Sequence[int] | None = None,
    instruments: str | Sequence[Instrument | str] = "standard",
    resume: bool = False,
    progress: Progress | None = None,
    dtype: torch.dtype = torch.float32,
    points: int | Mapping[str, int] = 128,
    learning_rate: float = INITIAL_RATE,
    compile: bool | None = None,
) -> Summary:
    """Trains a model on a problem, records a run, and returns what became of it.

    The same arguments give the same bits on the same machine with the same number of threads,
    whatever is measured and whether or not the training was interrupted. If the model's name says
    nothing else, Adam with the learning rate 1e-3 * 0.9^(step / 1000), and 128 new points a region
    at every step, as in the paper (Wang, Teng, Perdikaris, SIAM J. Sci. Comput. 43(5), A3055,
    2021).

    Args:
        problem: what is solved.
        model: a `Model`, or the name of one such as "M4" or "M3+config".
        folder: of the run, new or empty, or with `resume` that of an earlier one.
        steps: of the optimizer; the run has a last record after the last of them.
        seed: of the network's first parameters and of the points.
        hidden: widths of the hidden layers; by default those of the problem's source.
        instruments: "light", "standard", "full", or a list of instruments and of these names; or
            "short", the standard set with curvature twice a decade and at the last step,
            whatever it costs.
        resume: whether a run that is there is continued from its checkpoint, which is at most
            `CHECKPOINT_EVERY` steps old. One that has ended is not trained again, except with more
            steps.
        progress: is told every `PROGRESS_EVERY` steps where the training stands.
        dtype: of parameters and points.
        points: of each box of a region, or that number by the name of the region.
        learning_rate: of the first step; it falls as it does in the paper.
        compile: whether to compile the step where there is a C++ compiler; by default from
            `COMPILE_FROM` steps on, which take longer than compiling does.

    Raises:
        ArgumentError: an argument is out of its range, or the run in the folder is another one's.
        MissingPackageError: the model's weights or optimizer need a package that is not there.
        StoreError: the run cannot be written there.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> train(problem("poisson"), "M2", folder.name, steps=3, compile=False).status
        'finished'
        >>> folder.cleanup()
    """
    if steps < 1:
        raise ArgumentError(f"steps={steps}: give a number of steps, 1 or more.")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise ArgumentError(f"learning_rate={learning_rate}: give a number above 0.")
    chosen = named_model(model) if isinstance(model, str) else model
    network = chosen.network(problem, hidden, seed=seed, dtype=dtype)
    widths = [*(problem.hidden if hidden is None else hidden)]
    trained = {
        "problem": problem.name,
        "parameters": asdict(problem),
        "model": chosen.name,
        "seed": seed,
        "hidden": widths,
        "dtype": str(dtype).removeprefix("torch."),
        "points": points if isinstance(points, int) else dict(points),
        "learning_rate": learning_rate,
    }
    if chosen.optimizer == "lbfgs":
        trained["steps"] = steps  # a share of them decides when L-BFGS begins
    place = Path(folder)
    checkpoint = Checkpoint.load(place, trained) if resume else None
    if checkpoint is not None:
        ended = Summary.of_run(place, steps)
        if ended is not None:
            return ended
        if checkpoint.step > steps:
            raise ArgumentError(
                f"The run in {place} has taken {checkpoint.step} steps, more than steps={steps}: "
                "give a larger number."
            )
    complexity = getattr(problem, problem.complexity.parameter)
    metadata = {
        **trained,
        "complexity": complexity,
        "complexity_parameter": problem.complexity.parameter,
        "weighting": chosen.weighting,
        "optimizer": chosen.optimizer,
        "steps": steps,
        "coordinates": [*problem.domain.coordinates],
        # Reports know no problems; what a run is to be compared with is in the run.
        "published": [each.described for each in problem.published_for(chosen.name, widths)],
        "outcome": None,  # known in the end, or of an earlier session
        "final_error": None,
    }
    losses = FlatLosses(problem, network)
    compiles = steps >= COMPILE_FROM if compile is None else compile
    member = _Member(
        losses, chosen, seed, steps, points, learning_rate, checkpoint, progress, compiles
    )
    measuring = Measuring.of(instruments, problem, network, member.sampler, steps=steps, seed=seed)
    member.prepare(measuring)
    probe = Probe(
        network,
        place,
        instruments=measuring.instruments,
        resume=resume,
        seed=seed,
        metadata={**metadata, "is_compiled": member.optimizer.is_compiled},
    )
    return _Recorded(member, measuring, probe, trained).train()


class _Member:
    """A training, without its records: the state, the points and the weights of every step."""

    def __init__(
        self,
        losses: FlatLosses,
        model: Model,
        seed: int,
        steps: int,
        points: int | Mapping[str, int],
        initial_rate: float,
        checkpoint: Checkpoint | None,
        progress: Progress | None,
        compile: bool,
    ) -> None:
        self.losses = losses
        self.steps = steps
        self.progress = progress
        self.terms = losses.terms

        def sample(times: int) -> Sampler:
            return losses.problem.sampler(_times(points, times), dtype=losses.layout.dtype)

        self.sampler = sample(1)
        self._generator = generator_of("training points", seed)
        self.balance = model.balance(losses.problem, losses.network)
        self.diagnostic = self.sampler.draw(generator_of(DIAGNOSTIC_BATCH, seed))
        self.unreached = losses.unreached(self.diagnostic)
        self.optimizer = OPTIMIZERS[model.optimizer](
            Setting(losses, self.diagnostic, sample, steps, seed, compile, initial_rate)
        )
        self.begin, self.seconds_before = 0, 0.0
        if checkpoint is not None:
            self.optimizer.load(checkpoint.state)
            self.optimizer.evaluations = checkpoint.evaluations
            self.begin, self.seconds_before = checkpoint.step, checkpoint.seconds
            self._generator.set_state(checkpoint.generator)
            if self.balance is not None and checkpoint.weights is not None:
                self.balance.load_state_dict(checkpoint.weights)
        # The network's parameters are parts of one vector, so that one copy moves all of them.
        self._flat = self.optimizer.parameters.clone()
        self._show()
        self.curvature: Curvature | None = None
        self._weigh()

    def prepare(self, measuring: Measuring) -> None:
        """Compiles Hessian-vector products, if any are wanted, before a probe's clock runs."""
        worth_it = self.optimizer.is_compiled and self.steps - self.begin >= COMPILE_CURVATURE_FROM
        if measuring.need_curvature:
            self.curvature = Curvature(self.losses, self.diagnostic, compile=worth_it)

    def draw(self, step: int) -> Batch:
        """Returns the points of the next step."""
        return self.optimizer.fixed_batch(step) or self.sampler.draw(self._generator)

    def take(self, step: int, batch: Batch) -> Taken[Any]:
        """Takes a step, without going on to the state after it."""
        return self.optimizer.take(self.weight_vector, step, batch)

    def advance(self, step: int, taken: Taken[Any], batch: Batch) -> None:
        """Goes on to the next step: the weights first, from the parameters that the step saw."""
        balance = self.balance
        # What is searched along a line must stay the same function.
        is_free = self.optimizer.fixed_batch(step) is None
        if balance is not None and is_free and balance.is_due(step):
            rows = TermGradients.of(taken.gradients, self.terms, self.unreached)
            from_kernels = isinstance(balance.rule, NTKWeights)
            traces = self.losses.kernel_traces(batch) if from_kernels else None
            balance.update(
                Observation(step, rows, self.losses.layout, taken.losses.tolist(), traces)
            )
            self._weigh()
        self.optimizer.accept(taken)
        self._flat.copy_(self.optimizer.parameters)

    def checkpoint(self, trained: Mapping[str, Any], step: int, seconds: float) -> Checkpoint:
        """Returns where the training stands before a step."""
        weights = None if self.balance is None else self.balance.state_dict()
        return Checkpoint(
            trained,
            step,
            self.optimizer.saved(),
            weights,
            self._generator.get_state(),
            seconds,
            self.optimizer.evaluations,
        )

    def _weigh(self) -> None:
        known = {} if self.balance is None else self.balance.weights
        self.weights = {term: known.get(term, 1.0) for term in self.terms}
        self.weight_vector = torch.tensor(
            list(self.weights.values()), dtype=self.losses.layout.dtype
        )

    def _show(self) -> None:
        layout = self.losses.layout
        views = layout.unflatten(self._flat)
        for slot, parameter in zip(layout.slots, layout.parameters, strict=True):
            parameter.data = views[slot.name]


class _Recorded:
    """A training with its probe: takes the steps, records what is due, and ends the run."""

    def __init__(
        self, member: _Member, measuring: Measuring, probe: Probe, trained: Mapping[str, Any]
    ) -> None:
        self._member = member
        self._measuring = measuring
        self._probe = probe
        self._trained = trained
        self._begun = time.perf_counter()
        self._steps = member.begin

    def train(self) -> Summary:
        """Takes all steps."""
        try:
            losses, diverged = self._take_steps()
            summary = self._summary(losses, diverged)
            self._probe.describe(**summary.described())
        except BaseException as error:
            self._probe.__exit__(type(error), error, error.__traceback__)
            raise
        if diverged is None:
            self._probe.detach()
        else:
            self._probe.__exit__(type(diverged), diverged, None)
        return summary

    def _take_steps(self) -> tuple[dict[str, float], DivergenceError | None]:
        """Returns the losses of the last step, and why it is the last if it should not be."""
        member = self._member
        self._save(member.begin)
        for step in range(member.begin, member.steps + 1):
            is_last = step == member.steps
            if step > member.begin and (is_last or step % CHECKPOINT_EVERY == 0):
                self._save(step)
            batch = member.draw(step)
            # After the last step one more is computed and recorded, but not taken. It is the one
            # that would be next if training went on, so going on finds the same numbers.
            taken = member.take(step, batch)
            values = taken.losses.tolist()
            losses = dict(zip(member.terms, values, strict=True))
            self._steps = step
            if not all(map(math.isfinite, values)):
                return losses, self._diverged(step, losses, taken)
            if self._measuring.may_be_due(step):
                self._record(step, losses, taken)
            if member.progress is not None and (is_last or step % PROGRESS_EVERY == 0):
                member.progress(step, member.steps, losses)
            if not is_last:
                member.advance(step, taken, batch)
        return losses, None

    def _record(self, step: int, losses: Mapping[str, float], taken: Taken[Any]) -> None:
        member = self._member
        before, layout = member.optimizer.parameters, member.losses.layout

        def gradients() -> dict[str, dict[str, Tensor]]:
            return {
                term: {
                    name: part
                    for name, part in layout.unflatten(row).items()
                    if name not in member.unreached[term]
                }
                for term, row in zip(member.terms, taken.gradients, strict=True)
            }

        hessians = None
        if member.curvature is not None:
            hessians = by_term(member.curvature, member.terms, before, member.weight_vector)
        self._probe.record(
            losses,
            step=step,
            weights=member.weights,
            gradients=gradients,
            hessian=hessians,
            learning_rate=member.optimizer.learning_rate(step),
            stability=member.optimizer.stability(taken, step),
            update=lambda: taken.state.parameters - before,
        )

    def _diverged(
        self, step: int, losses: Mapping[str, float], taken: Taken[Any]
    ) -> DivergenceError:
        divergence = self._measuring.divergence
        divergence.step, divergence.losses = step, dict(losses)
        self._record(step, losses, taken)
        return DivergenceError(f"{divergence.sentence} The finding in the run says more.")

    def _save(self, step: int) -> None:
        saved = self._member.checkpoint(self._trained, step, self._seconds)
        saved.save(Path(self._probe.run))

    @property
    def _seconds(self) -> float:
        return self._member.seconds_before + time.perf_counter() - self._begun

    def _summary(self, losses: Mapping[str, float], diverged: Exception | None) -> Summary:
        member = self._member
        problem, network = member.losses.problem, member.losses.network
        error = math.nan
        if diverged is None:
            error = problem.error(network, dtype=member.losses.layout.dtype)
        return Summary(
            error,
            self._seconds,
            self._steps,
            "finished" if diverged is None else "diverged",
            self._probe.run,
            losses,
            dict(member.weights),
            member.optimizer.is_compiled,
            member.optimizer.evaluations,
        )


def _times(points: int | Mapping[str, int], times: int) -> int | dict[str, int]:
    if isinstance(points, int):
        return times * points
    return {region: times * count for region, count in points.items()}
