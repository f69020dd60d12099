"""From backward passes and optimizer steps to recorded steps of a run.

Nothing here is the user's: everything that is seen is only read. The order of events is

    backward pass   is anything due at this step of its part? If so, its terms and gradients are
                    taken and instruments that need the live graph measure
    ... more passes of the same step
    optimizer step  the step is over: the other instruments measure, and it is committed

A step with several optimizers is over when all that move its parameters have stepped, or, as long
as it is not known which do, when the next backward pass begins. Where nobody steps, each backward
pass is a step. Inside a closure (L-BFGS) the first evaluation is the step's; those of a line search
are only counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..diagnostics.errors import GradpathError
from .agenda import Agenda
from .backlog import Backlog
from .bench import Bench, wants
from .closing import changes_of, close_step, note_step_inside_of_a_pass
from .fixed_batch import FixedBatch
from .forward import ForwardPasses
from .instruments.base import Instrument
from .interception import is_inside_a_pass, is_inside_a_step
from .models import Optimizers, Scalers, leaves_below, owned
from .observer import BackwardCall
from .open_step import OpenStep, gradients_are_gone, overhead_of, version_of
from .parts import Part
from .passes import pass_of_call, pass_of_losses
from .recorder import Recorder
from .records import TRAINING_BATCH, Record
from .registry import Registry
from .self_check import SelfCheck
from .snapshot import Pass, Snapshot
from .training_thread import TrainingThread


class Stepping:
    """Follows the steps of all parts of a run; the observer that `interception` tells."""

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        optimizer: Optimizer | None,
        bench: Bench,
        recorder: Recorder,
        renamed: Mapping[str, str],
    ) -> None:
        self.models = models
        self.bench = bench
        self.recorder = recorder
        self.renamed = renamed
        self.forward = ForwardPasses()
        self.fixed: FixedBatch | None = None
        self.last_recorded: int | None = None
        self.is_attached = False  # whether every backward pass is looked at
        self.gradients_taken = 0
        self.optimizers = Optimizers()
        if optimizer is not None:
            self.optimizers.add(optimizer)
        self.scalers = Scalers()
        self.registry = Registry(models, self.optimizers, bench, recorder)
        self.agenda = Agenda(self.registry, bench)
        self.backlog = Backlog(bench, recorder)
        self.thread = TrainingThread()

    @property
    def step(self) -> int:
        """The number of the step that the first part is taking."""
        return self.registry.parts.all[0].step if self.registry.parts.all else 0

    # What the training loop does.

    @property
    def is_busy(self) -> bool:
        """Whether something is under way, in this thread or in the backlog."""
        is_open = self.thread.is_busy or not self.backlog.is_empty
        return is_open or self.forward.is_recording

    def stepped_idly(self, optimizer: Optimizer) -> bool:
        """Counts a step and returns True, if it is known that nothing is due at the next one."""
        if not self.agenda.is_empty(ahead=1):
            return False
        self.registry.parts.stepped(optimizer)
        return True

    def before_backward(self, call: BackwardCall) -> None:
        """Measures a backward pass that is about to run, where something is due."""
        thread = self.thread
        root = call.roots[0]
        thread.passing = thread.check = None  # of a pass that an error has ended
        measured, thread.measured = thread.measured, None
        if measured is not None and isinstance(root, Tensor) and root.grad_fn is measured[0]:
            _, known, one = measured
            thread.check = SelfCheck(known, one, self.registry.replicas_of(known.part))
            return
        if not self.is_attached:
            return
        self.begin_pass()
        if self.thread.is_trial or not self.agenda.may_be_due():
            thread.watched = {}
            return
        with overhead_of(self.bench) as overhead:
            recording = self.forward.end()
            watched, thread.watched = thread.watched, {}
            try:
                if watched and isinstance(root, Tensor):
                    scale = self.scalers.scale_of(root)
                    one = pass_of_losses(watched, None, root, scale)
                else:
                    one = pass_of_call(call, recording, self.scalers, self.renamed)
                    self._learn_whether_to_record(call, one, recording)
            except GradpathError as error:
                self.registry.note_missing(str(error))
                return
            inputs = call.inputs
            only = None if inputs is None else {id(x) for x in inputs if isinstance(x, Tensor)}
            step = self.observe(one, lambda: leaves_below(call.roots), only)
            if step is None:
                return
            thread.passing = step, one
            overhead.append(step)
            call.keeps_graph |= self._keep_graph(step, one)
            if call.through == "backward" and wants(step.due, "gradients", "update"):
                thread.check = SelfCheck(step, one, self.registry.replicas_of(step.part))

    def after_backward(self, call: BackwardCall) -> None:
        """Compares what the backward pass has left in `.grad` with what was measured."""
        thread = self.thread
        check, thread.check = thread.check, None
        if check is not None:
            check.compare()
        passing, thread.passing = thread.passing, None
        if passing is not None:
            step, one = passing
            step.add(one)
            if self.is_attached and thread.inside is None:
                self.forward.begin()  # a micro-batch may follow, whose terms get the same names
        for step in list(thread.open.values()):
            if step.stepped and step.is_over:
                self.close(step)  # by hooks, while the pass went on
            elif not call.keeps_graph:
                step.release_graphs()

    def before_step(self, optimizer: Optimizer) -> None:
        """Measures what needs the final gradients and the graph."""
        thread = self.thread
        thread.inside, thread.evaluation = optimizer, 0
        for step in thread.open.values():
            if is_inside_a_pass():
                note_step_inside_of_a_pass(step, self.bench)
                continue
            if self._moves(optimizer, step):
                self.measure_coming_step(step, [optimizer])
            step.release_graphs()

    def step_taken(self, optimizer: Optimizer) -> None:
        """Counts a step, and commits it where it is over."""
        thread = self.thread
        repeated = thread.repeated
        if repeated is not None and repeated.is_over_with(optimizer):
            thread.repeated = None
            self.registry.parts.stepped(optimizer)
            waiting = repeated.waiting(optimizer, self.recorder.elapsed)
            if self.backlog.add(waiting, repeated.gradients):
                self.last_recorded = repeated.number
            return
        thread.inside = None
        self.registry.parts.stepped(optimizer)
        for step in list(thread.open.values()):
            if self._moves(optimizer, step):
                step.stepped.append(optimizer)
                if step.is_over and not is_inside_a_pass():
                    self.close(step)
        if self.is_attached and self.forward.is_wanted and self.agenda.may_be_due():
            self.forward.begin()
        else:
            self.forward.end()

    def closure_called(self, optimizer: Optimizer) -> None:
        """Counts an evaluation of the loss inside a step."""
        self.thread.evaluation += 1
        for part in self.registry.parts.all:
            if optimizer in part.optimizers:
                part.evaluations = (part.evaluations or 0) + 1

    def parameters_added(self, optimizer: Optimizer) -> None:
        """Expects it to step."""
        self.optimizers.add(optimizer)
        self.registry.expect(optimizer)
        self.scalers.is_stale = True

    def gradient_taken(self) -> None:
        """Counts gradients that are taken past every backward pass."""
        self.gradients_taken += 1

    # What follows from it.

    def begin_pass(self) -> None:
        """A backward pass begins: steps that it shows to be over are closed."""
        thread = self.thread
        if thread.inside is not None and not is_inside_a_step():
            thread.inside = None  # an error has ended the step
        for step in list(thread.open.values()):
            if (step.stepped and thread.inside is None) or step.part.counts_passes:
                self.close(step)
            elif thread.inside is None and version_of(step.layout.parameters) != step.versions:
                # Moved by hand, though there is an optimizer that could.
                step.part.counts_passes = True
                self.close(step)
        self.registry.parts.new_pass()
        if not (self.backlog.is_empty or self.agenda.may_be_due()):
            self.backlog.settle()

    def observe(
        self,
        one: Pass,
        leaves: Callable[[], Sequence[Tensor]],
        only: set[int] | None = None,
    ) -> OpenStep | None:
        """Measures a pass whose graph is alive; returns its step, None where nothing is due.

        Args:
            one: the pass.
            leaves: returns the leaves of its graph.
            only: ids of the parameters that it gives a gradient to; None: all.
        """
        part = self.registry.find(one, leaves)
        step = None if part is None else self.begin(one, part)
        if step is None:
            return None
        if wants(step.due, "gradients", "update", "step"):
            try:
                one.take_gradients(step.layout, self.registry.replicas_of(step.part), only)
            except GradpathError as error:
                step.records += self.bench.missing(step.part.name, "gradients", str(error))
        self.measure_graph(step, one)
        return step

    def begin(self, one: Pass, part: Part) -> OpenStep | None:
        """Returns the open step that a pass belongs to, a new one where it is the first."""
        self.follow_up(part, one)
        due = self.bench.due(part.name, part.step, self.registry.replicas_of(part))
        if not due:
            return None
        step = self.thread.open.get(part)
        if step is None:
            step = self.open(part, due)
            step.tell_apart(one)
            return step
        step.tell_apart(one)
        if one.key in step.passes and gradients_are_gone(step.layout.parameters):
            step.begin_anew(one)
        return step

    def open(self, part: Part, due: tuple[Instrument, ...]) -> OpenStep:
        """Opens the step that a part is taking."""
        step = OpenStep(part, part.step, due, part.layout)
        step.versions = version_of(part.layout.parameters)
        if wants(due, "update"):
            step.parameters_before = part.layout.flatten()
        self.thread.open[part] = step
        self.bench.count(part.name, due)
        return step

    def measure_graph(self, step: OpenStep, one: Pass) -> None:
        """Lets instruments measure that need the graph of a pass, once for all micro-batches."""
        if one.key in step.passes:
            return
        if self.fixed is not None and step.fixed is None:
            step.on_fixed = self.fixed.chosen(step.due)
            if step.on_fixed:
                self._evaluate_fixed(self.fixed, step, one)
        snapshot = self._snapshot(step, [one])
        snapshot.graph_is_alive = True
        for instrument in wants(step.due, "graph"):
            if instrument not in step.on_fixed:
                step.records += self.bench.measure(instrument, snapshot)
            elif step.fixed is not None and not step.passes:
                step.records += self.bench.measure(instrument, step.fixed)

    def measure_coming_step(self, step: OpenStep, optimizers: Sequence[Optimizer]) -> None:
        """Lets instruments measure that need to know the step to be taken, and the graph."""
        for instrument in wants(step.due, "step"):
            snapshot = step.fixed or self._snapshot(step, list(step.passes.values()))
            snapshot.optimizers = optimizers
            snapshot.graph_is_alive = True
            step.records += self.bench.measure(instrument, snapshot)

    def close(self, step: OpenStep) -> None:
        """Measures what can be measured when a step is over, and commits it."""
        self.thread.open.pop(step.part, None)
        part = self.registry.settle(step)
        snapshot = self._snapshot(step, list(step.passes.values()))
        if self.backlog.takes(step, snapshot):
            self.last_recorded = step.number
            return
        records = close_step(step, snapshot, self.bench)
        if any(getattr(instrument, "follows_up", False) for instrument in step.due):
            records += self._change(step, snapshot)
        begun = time.perf_counter()
        if self.recorder.record(step.number, records, part.name, part.evaluations):
            self.last_recorded = step.number
        self.bench.charge(part.name, step.due, time.perf_counter() - begun)

    def flush(self) -> None:
        """Commits what is open in this thread, and all that waits."""
        for step in list(self.thread.open.values()):
            self.close(step)
        self.backlog.close()

    def _evaluate_fixed(self, fixed: FixedBatch, step: OpenStep, one: Pass) -> None:
        weights = {term.name: term.weight for term in one.terms}
        try:
            other = fixed.evaluate(weights, list(step.part.models.values()))
            if wants(step.on_fixed, "gradients", "update", "step"):
                other.take_gradients(step.layout, self.registry.replicas_of(step.part), None)
        except GradpathError as error:
            step.records += self.bench.missing(step.part.name, fixed.name, str(error))
            return
        step.fixed = self._snapshot(step, [other], fixed.name)
        step.fixed.graph_is_alive = True

    def follow_up(self, part: Part, one: Pass) -> None:
        """Records what the step before has really done to the terms of this pass."""
        if part.follow_up is None:
            return
        number, before = part.follow_up
        part.follow_up = None
        after = Snapshot(
            number, part.name, TRAINING_BATCH, part.layout, [one],
            replicas=self.registry.replicas_of(part),
        )  # fmt: skip
        if part.step == number + 1:
            changes = changes_of(before, after.losses, TRAINING_BATCH)
            if changes:
                self.recorder.complete(number, changes, part.name)

    def _change(self, step: OpenStep, snapshot: Snapshot) -> list[Record]:
        """Returns what the step has done on the fixed batch; else the next pass will tell."""
        if step.fixed is None or self.fixed is None or step.given_update is not None:
            # Functional code need not have the model in its new state.
            step.part.follow_up = (step.number, snapshot.losses)
            return []
        try:
            one = self.fixed.evaluate(snapshot.weights, list(step.part.models.values()))
        except GradpathError as error:
            return self.bench.missing(step.part.name, self.fixed.name, str(error))
        after = self._snapshot(step, [one], self.fixed.name)
        return changes_of(step.fixed.losses, after.losses, self.fixed.name)

    def _snapshot(
        self, step: OpenStep, passes: list[Pass], batch: str = TRAINING_BATCH
    ) -> Snapshot:
        part = step.part
        stepping = [self.thread.inside] if self.thread.inside is not None else part.optimizers
        return Snapshot(
            step.number,
            part.name,
            batch,
            step.layout,
            passes,
            stepping,
            part.models,
            self.registry.replicas_of(part),
            step.given_learning_rate,
            step.given_stability,
            step.given_update,
            step.parameters_before,
        )

    def _keep_graph(self, step: OpenStep, one: Pass) -> bool:
        if step.fixed is not None or self.thread.inside is not None:
            return False
        return bool(wants(step.due, "step")) and not one.is_compiled

    def _moves(self, optimizer: Optimizer, step: OpenStep) -> bool:
        return not owned(optimizer).isdisjoint(map(id, step.layout.parameters))

    def _learn_whether_to_record(self, call: BackwardCall, one: Pass, recording: Any) -> None:
        """Stops recording forward passes where the terms are known without."""
        if any(term.value is None for term in one.terms):
            if recording is None:
                self.forward.learn(True)
            return
        if recording is None:
            return
        plain = pass_of_call(call, None, self.scalers, self.renamed)
        self.forward.learn(one.key != plain.key or any(t.value is None for t in plain.terms))
