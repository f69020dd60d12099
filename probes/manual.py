"""The ways to use a probe in which the user hands it the terms: watch, backward, record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..diagnostics.errors import ArgumentError, GradpathError
from ..diagnostics.gradients import mismatch, term_gradients
from ..diagnostics.leaf_gradients import accumulate
from ..diagnostics.live_graph import ordinary_modes
from ..diagnostics.operators import SymmetricOperator
from ..diagnostics.rules import Observation, Weighting, WeightingRule
from ..diagnostics.stability import OptimizerStability
from ..diagnostics.survey import FamiliarGraphs
from ..diagnostics.weighting import weighting
from .bench import wants
from .interception import backward_is_seen, unobserved
from .models import leaves_below
from .open_step import overhead_of
from .parts import Part
from .passes import flat, gradients_of, pass_of_losses, pass_of_values
from .repeating import Guard, Repeating
from .self_check import SelfCheck
from .stepping import Stepping

Losses = Mapping[str, Tensor]
Weights = Mapping[str, float] | WeightingRule | Weighting | str | None


class Manual:
    """What is behind `Probe.watch`, `Probe.backward` and `Probe.record`."""

    def __init__(self, stepping: Stepping) -> None:
        self._stepping = stepping
        self._rules: dict[int | str, Weighting] = {}
        self._next_step = 0
        self._graphs = FamiliarGraphs()
        self._repeating = Repeating(stepping, self._graphs)

    def watch(self, losses: dict[str, Tensor], total: Tensor | None) -> None:
        """Measures named terms; without a total, an attached probe does at the next backward."""
        stepping = self._stepping
        if total is None and stepping.is_attached:
            stepping.thread.watched.update(losses)
            return
        stepping.begin_pass()
        if stepping.thread.is_trial or not stepping.agenda.may_be_due():
            return
        with overhead_of(stepping.bench) as overhead:
            one = pass_of_losses(losses, None, total)
            roots = [*losses.values()] if total is None else [total]
            step = stepping.observe(one, lambda: leaves_below(roots))
            if step is None:
                return
            step.add(one)
            overhead.append(step)
            if total is not None:
                # The backward pass that follows is this one.
                stepping.thread.measured = total.grad_fn, step, one

    def backward(self, losses: dict[str, Tensor], weights: Weights, guard: Guard) -> float:
        """Differentiates the terms one by one, and lets their weighted sum flow into `.grad`."""
        stepping = self._stepping
        numbers = {} if weights is None else weights if isinstance(weights, Mapping) else None
        rule = None if numbers is not None else self._rule(weights)
        loss = self._repeating.backward(losses, numbers or {}, rule, guard)
        if loss is not None:
            return loss
        one = pass_of_losses(losses, numbers, None)
        part: Part | None = None
        with guard:
            backward_is_seen()
            stepping.begin_pass()
            part = stepping.registry.find(one, lambda: leaves_below(losses.values()))
        if part is None:
            raise ArgumentError(
                "probe.backward was given losses that reach no parameter of the model that is "
                "trained: check that they have a graph, and that an optimizer owns the parameters."
            )
        layout = part.layout
        step = None
        with guard:
            step = None if stepping.thread.is_trial else stepping.begin(one, part)
            if step is not None:
                stepping.measure_graph(step, one)
        keeps = step is not None and bool(wants(step.due, "step"))
        survey = self._graphs.survey([edge for term in one.terms for edge in term.edges])
        rows = term_gradients(one.terms, layout, retain_graph=keeps, survey=survey)
        if step is not None or rule is not None:
            rows = stepping.registry.replicas_of(part).mean_of_rows(rows)
        if rule is not None:
            seen = Observation(part.step, rows, layout, [term.value or 0.0 for term in one.terms])
            one.weigh(rule.update(seen))
        factors = torch.tensor(
            [term.weight for term in one.terms], dtype=layout.dtype, device=layout.device
        )
        with ordinary_modes():
            total = factors @ rows.as_subclass(Tensor)
        check = None
        if step is not None:
            one.gradients = rows
            step.add(one)
            check = SelfCheck(step, one, stepping.registry.replicas_of(part))
        # As a backward pass of the leaves alone: hooks, DistributedDataParallel and what was
        # accumulated before see what loss.backward() would have shown them.
        with unobserved():
            is_as_given = accumulate(layout, total)
        if check is not None and step is not None:
            with guard:
                check.compare(expected=total if is_as_given else None)
                if is_as_given:
                    self._repeating.learn(step, one, losses, rule, survey)
                if not keeps:
                    step.release_graphs()
        assert one.loss is not None
        return one.loss

    def record(
        self,
        losses: Mapping[str, float | Tensor],
        number: int | None,
        weights: Mapping[str, float] | None,
        gradients: Any,
        hessian: Any,
        learning_rate: float | None,
        stability: OptimizerStability | None,
        gradient: Any,
        update: Any,
    ) -> bool:
        """Records a step from given values; returns whether anything was due."""
        stepping = self._stepping
        part = stepping.registry.of_model()
        part.step = self._next_step if number is None else number
        self._next_step = part.step + 1
        due = stepping.bench.due(part.name, part.step)
        if not due:
            stepping.backlog.settle()
        if not due and part.follow_up is None:
            return False
        one = pass_of_values(losses, weights, _operators(hessian))
        stepping.follow_up(part, one)
        if not due:
            return False
        step = stepping.open(part, due)
        step.given_learning_rate = learning_rate
        step.given_stability = stability
        if update is not None:
            step.given_update = lambda: flat(_value(update), part.layout)
        if gradients is not None and wants(due, "gradients", "update", "step"):
            try:
                one.gradients = gradients_of(_value(gradients), one.names, part.layout)
                if gradient is not None:
                    total = flat(_value(gradient), part.layout)
                    factors = [term.weight for term in one.terms]
                    step.self_check = mismatch(one.gradients, factors, total)
            except GradpathError as error:
                if stepping.bench.strict:
                    raise
                step.records += stepping.bench.missing(part.name, "gradients", str(error))
        stepping.measure_graph(step, one)
        step.add(one)
        stepping.measure_coming_step(step, [])
        stepping.close(step)
        return stepping.last_recorded == part.step

    def _rule(self, weights: Weights) -> Weighting:
        if isinstance(weights, Weighting):
            return weights
        key = weights if isinstance(weights, str) else id(weights)
        if key not in self._rules:
            if isinstance(weights, str):
                self._rules[key] = weighting(weights)
            elif isinstance(weights, WeightingRule):
                self._rules[key] = Weighting(weights)
            else:
                raise ArgumentError(
                    f"Weights of type {type(weights).__name__} were given: give numbers by name, "
                    'a weighting rule, or the name of one, such as "siam".'
                )
        return self._rules[key]


def _value(given: Any) -> Any:
    """Returns what was given, or what a function that was given returns."""
    return given() if callable(given) else given


def _operators(hessian: Any) -> dict[str, SymmetricOperator | Callable[[], SymmetricOperator]]:
    if hessian is None:
        return {}
    if isinstance(hessian, Mapping):
        return dict(hessian)
    return {"total": hessian}
