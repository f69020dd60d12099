"""The probe: what a user puts on a training loop."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..diagnostics.rules import Weighting, WeightingRule
from ..diagnostics.stability import OptimizerStability
from . import interception
from .bench import Bench, ProbeWarning
from .fixed_batch import Losses, fixed_batch
from .guard import Guard
from .instruments.base import Instrument
from .instruments.presets import instruments_of
from .manual import Manual
from .models import Model, named_models
from .recorder import Recorder
from .schedules import Schedule
from .sinks.sink import Sink
from .stepping import Stepping

Instruments = str | Sequence[Instrument | str]


class Probe:
    """Watches a training loop, changes nothing in it, and records what it shows.

    There are four ways to use it. All of them write the same records:

    - `with probe:` (or `attach` and `detach`) sees every backward pass by itself, reads the terms
      of the loss from the graph and counts the steps of optimizers;
    - `watch` is given the terms by name, between forward and backward pass;
    - `backward` takes the place of `loss.backward()` and costs least;
    - `record` is given what functional code has computed.

    Args:
        model: what is watched: a module, or several as a list or by name. None: whatever the losses
            reach.
        run: the folder of the run, new or empty.
        optimizer: that steps; found by itself if left out.
        instruments: "light", "standard", "full", or a list of instruments and of these names.
        schedule: when to measure, in place of the instruments' own schedules.
        terms: names to give to the terms, by the names they would have.
        strict: whether an error of the probe's fails the training. Without it, what failed is
            switched off, and the reason is in the run and in a warning.
        resume: whether the run is continued if there is one. Steps then go on from that of the
            optimizer's state, if it has one, else from the last recorded.
        seed: of the random numbers that instruments draw.
        metadata: what the run is to be found by, such as model, complexity and seed.
        sinks: trackers that get a copy of what is recorded (`gradpath.probes.sinks`).

    Raises:
        StoreError: the run cannot be written there.
        ArgumentError: an argument is out of its range.
        LayoutError: the model is none.

    Example:
        >>> import tempfile
        >>> from gradpath.probes import Probe, Run
        >>> net = torch.nn.Linear(1, 1)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Probe(net, folder.name):
        ...     for _ in range(3):
        ...         optimizer.zero_grad()
        ...         data = (net(torch.ones(4, 1)) - 2).square().mean()
        ...         decay = net.weight.square().sum()
        ...         (data + 0.5 * decay).backward()
        ...         optimizer.step()
        >>> Run(folder.name).terms
        ('data', 'decay')
        >>> folder.cleanup()
    """

    def __init__(
        self,
        model: Model | None,
        run: str | os.PathLike[str],
        *,
        optimizer: Optimizer | None = None,
        instruments: Instruments = "standard",
        schedule: Schedule | None = None,
        terms: Mapping[str, str] | None = None,
        strict: bool = False,
        resume: bool = False,
        seed: int = 0,
        metadata: Mapping[str, Any] | None = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        models = {} if model is None else named_models(model)
        self._bench = Bench(instruments_of(instruments, seed), schedule, strict)
        self._recorder = Recorder(run, resume, strict, sinks)
        self._recorder.describe(**dict(metadata or {}))
        self._stepping = Stepping(models, optimizer, self._bench, self._recorder, dict(terms or {}))
        self._manual = Manual(self._stepping)
        self._strict = strict
        self._observer: Guard | None = None
        if model is not None:
            self._recorder.open()

    @property
    def run(self) -> str:
        """The folder of the run."""
        return str(self._recorder.folder)

    @property
    def models(self) -> Mapping[str, nn.Module]:
        """The models that are watched, by the prefixes of their layers; empty: all there are."""
        return self._stepping.models

    @property
    def step(self) -> int:
        """The number of the step that is being taken, of the first part."""
        return self._stepping.step

    @property
    def last_recorded(self) -> int | None:
        """The latest step that is committed; from then on it is in the run, whatever happens."""
        return self._stepping.last_recorded

    @property
    def failure(self) -> str | None:
        """Why nothing more is recorded; None while all is well."""
        return self._recorder.failure

    def attach(self) -> Probe:
        """Begins to see every backward pass; returns the probe."""
        if not self._stepping.is_attached:
            self._stepping.is_attached = True
            self._observe()
            self._stepping.forward.watch_compiler()
            self._stepping.forward.begin()
        return self

    def detach(self) -> None:
        """Stops watching, commits what is open and ends the run; `attach` would go on with it."""
        self._end(None)

    def describe(self, **metadata: Any) -> None:
        """Adds to the run what it is to be found by, or what became known in the end."""
        self._recorder.describe(**metadata)

    def on_batch(
        self,
        compute: Callable[..., Losses],
        *,
        name: str = "fixed",
        instruments: Collection[str] | None = None,
    ) -> None:
        """Measures on a batch of the user's, the same at every measurement.

        Args:
            compute: takes nothing or the model, and returns the loss terms by name, as scalars or
                as values at points. It is called once a measurement, with the same random numbers
                each time. A term that has the name of one in the training loss has its weight.
            name: of the batch, which the records carry.
            instruments: the names of those that measure on it, all that read gradients or curvature
                if left out; the others go on with the points of the training step.

        Raises:
            ArgumentError: it is no function.
        """
        self._stepping.fixed = fixed_batch(compute, name, instruments)

    def watch(self, losses: Losses, total: Tensor | None = None) -> None:
        """Says what the terms of this step are, between forward and backward pass.

        Args:
            losses: the terms by name, unweighted: scalars, or values at points, which count by
                their mean and then also give the spread over the points.
            total: what will be differentiated, from which the weights are read; without it, an
                attached probe reads them from the next `backward()`.
        """
        observer = self._observe()
        with observer:
            self._manual.watch(dict(losses), total)

    def backward(
        self,
        losses: Losses,
        weights: Mapping[str, float] | WeightingRule | Weighting | str | None = None,
    ) -> float:
        """Differentiates a weighted sum of terms into `.grad`, in place of `loss.backward()`.

        The terms are differentiated one by one, so their gradients need no second pass. Terms that
        share most of their graph take longer than their sum would.

        Args:
            losses: the terms by name, unweighted: scalars, or values at points, which count by
                their mean.
            weights: numbers by name (1 where left out), or a rule that computes them, such as
                `"siam"` for the paper's learning-rate annealing.

        Returns:
            The weighted sum.

        Raises:
            ArgumentError: a loss is none, or weights are given for a term that is not there.
            GraphError: a loss has no live graph.
        """
        observer = self._observe()
        return self._manual.backward(dict(losses), weights, observer)

    def record(
        self,
        losses: Mapping[str, float | Tensor],
        *,
        step: int | None = None,
        weights: Mapping[str, float] | None = None,
        gradients: Any = None,
        hessian: Any = None,
        learning_rate: float | None = None,
        stability: OptimizerStability | None = None,
        gradient: Any = None,
        update: Any = None,
    ) -> bool:
        """Records a step that functional code has taken, without any `backward()`.

        What is costly may be given as a function, which is called only where it is due.

        Args:
            losses: the value of each term, unweighted.
            step: its number; by default one more than that of the last call.
            weights: of the terms; 1 where left out.
            gradients: unweighted, by term: a mapping from parameter names to tensors, or a flat
                vector; or a matrix with one row a term; or a function that returns one of these.
            hessian: by term, and as "total": an operator, or a function that returns one. The total
                is the weighted sum where it is left out.
            learning_rate: of the step.
            stability: the limit of the optimizer in its present state.
            gradient: what the step was taken with, flat or by parameter name, or a function; for
                the check that the terms add up to it.
            update: parameters after the step minus before, flat or by name; or a function. With
                Hessians of the same points, `Descent` predicts from it how each term changes.

        Returns:
            Whether anything was due and is recorded.

        Raises:
            ArgumentError: with `strict`, something given does not fit; else it is recorded as
                missing.
        """
        observer = self._observe()
        recorded = False
        with observer:
            recorded = self._manual.record(
                losses,
                step,
                weights,
                gradients,
                hessian,
                learning_rate,
                stability,
                gradient,
                update,
            )
        return recorded

    def __enter__(self) -> Probe:
        return self.attach()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end(error)

    def _observe(self) -> Guard:
        """Begins to be told of steps, until `detach` or the end of the process."""
        interception.wake()
        if self._observer is None:
            self._observer = Guard(self._stepping, self._recorder, self._strict)
            interception.observe(self._observer)
            _unfinished.add(self)
        return self._observer

    def _end(self, error: BaseException | None) -> None:
        observer, self._observer = self._observer, None
        if observer is None:
            self._recorder.end(error)
            return
        interception.release(observer)
        _unfinished.discard(self)
        self._stepping.is_attached = False
        self._stepping.forward.end()
        self._stepping.forward.unwatch_compiler()
        with observer:
            self._stepping.flush()
            self._tell_what_was_not_seen()
        self._recorder.end(error)

    def _tell_what_was_not_seen(self) -> None:
        stepping = self._stepping
        if stepping.registry.parts.all or not stepping.gradients_taken:
            return
        reason = (
            "No backward pass was seen: this loop takes its gradients with torch.autograd.grad, "
            "so tell the probe its terms with probe.watch({...}, total=loss)."
        )
        warnings.warn(f"gradpath: {reason}", ProbeWarning, stacklevel=4)
        stepping.registry.note_missing(reason)


# Probes that nobody has detached; they end with the process.
_unfinished: set[Probe] = set()


@atexit.register
def _finish_all() -> None:
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    for probe in list(_unfinished):
        probe._end(error)
