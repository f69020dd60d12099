"""A step that repeats the one before goes a short way, and nobody can tell."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gradpath.diagnostics.annealing import DualBalancing
from gradpath.diagnostics.errors import ArgumentError, GradpathError
from gradpath.diagnostics.rules import Observation, Proposal, WeightingRule, WeightingState
from gradpath.probes import Run
from gradpath.probes.repeating import Repeating
from tests.probes.loops import network, points, residual_of
from tests.probes.waiting_loops import Training, assert_same_records

# The first dozen of steps are measured more closely; then something changes.
CHANGE, END = 30, 60


class Changing(Training):
    """A loop that is like any other, until something changes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.number = 0
        self.seen: list[Any] = []
        self.weights: Any = {"boundary": 10.0}
        self.prepare()

    def prepare(self) -> None:
        """Changes something before the first step."""

    def change(self) -> None:
        """Changes something between two steps."""

    @property
    def has_changed(self) -> bool:
        return self.number >= CHANGE

    def steps(self, number: int) -> None:
        for self.number in range(number):
            if self.number == CHANGE:
                self.change()
            self.step()
            self.seen += [seen_of(parameter.grad) for parameter in self.parameters]

    def layer(self, place: int) -> nn.Linear:
        layer = self.net[place]
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.net.parameters())

    def backward(self, terms: dict[str, Tensor] | None = None) -> None:
        self.seen.append(self.probe.backward(terms or self.terms(), self.weights))

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()


def seen_of(gradient: Tensor | None) -> list[Any]:
    """What a program may see of a gradient, its place in memory among it."""
    if gradient is None:
        return [None]
    vector = gradient.flatten()
    return [
        *(gradient.clone(), torch.dot(vector, vector), gradient.stride()),
        *(gradient.untyped_storage().nbytes(), gradient.data_ptr() % 32),
    ]


class Accumulates(Changing):
    def step(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        if self.has_changed:
            self.backward()
        self.optimizer.step()


class ForgetsToZero(Changing):
    def step(self) -> None:
        if self.number % 7:
            self.optimizer.zero_grad()
        self.backward()
        self.optimizer.step()


class SetsToZero(Changing):
    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=not self.has_changed)
        self.backward()
        self.optimizer.step()


class SkipsSteps(Changing):
    def step(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        if self.number % 5:
            self.optimizer.step()


class StepsTwice(Changing):
    def step(self) -> None:
        super().step()
        if self.number % 5 == 0:
            self.optimizer.step()


class Fails(Changing):
    """Between the backward pass and the step."""

    def step(self) -> None:
        try:
            self.optimizer.zero_grad()
            self.backward()
            if self.number % 9 == 0:
                raise ZeroDivisionError
            self.optimizer.step()
        except ZeroDivisionError:
            pass


class Freezes(Changing):
    def change(self) -> None:
        self.layer(0).weight.requires_grad_(False)

    def step(self) -> None:
        if self.number == CHANGE + 10:
            self.layer(0).weight.requires_grad_(True)
        super().step()


class ReplacesData(Changing):
    def change(self) -> None:
        for parameter in self.net.parameters():
            parameter.data = parameter.data.clone()


class TransposesData(Changing):
    def prepare(self) -> None:
        self.layer(2).weight.data = torch.randn(8, 1).t()


class ReplacesAParameter(Changing):
    def change(self) -> None:
        self.layer(0).bias = nn.Parameter(torch.zeros(8))
        self.optimizer.add_param_group({"params": [self.layer(0).bias]})


class GetsABias(Changing):
    """Which makes no further node in the graph of the loss."""

    def prepare(self) -> None:
        self.layer(2).register_parameter("bias", None)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)

    def change(self) -> None:
        self.layer(2).bias = nn.Parameter(torch.zeros(1))
        self.optimizer.add_param_group({"params": [self.layer(2).bias]})


class ReplacesALayer(Changing):
    def change(self) -> None:
        self.net[2] = nn.Linear(8, 1)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)


class Hooked(Changing):
    def change(self) -> None:
        seen = self.seen

        def double(gradient: Tensor) -> Tensor:
            seen.append("hook")
            return 2 * gradient

        self.layer(0).weight.register_hook(double)


class HookedAfter(Changing):
    def change(self) -> None:
        seen = self.seen  # PyTorch would never let go of a hook that leads back to its parameter

        def note(parameter: Tensor) -> None:
            assert parameter.grad is not None
            seen.append(float(parameter.grad.sum()))

        self.layer(0).weight.register_post_accumulate_grad_hook(note)


class HookedLosses(Changing):
    def terms(self) -> dict[str, Tensor]:
        terms = super().terms()
        if self.has_changed:
            terms["boundary"].register_hook(lambda gradient: self.seen.append("hook"))
            terms["residual"].retain_grad()
        return terms


class HookedElsewhere(Changing):
    """On the way, where our own passes must not be seen, and in a graph that nobody uses."""

    def prepare(self) -> None:
        self.bare = nn.Parameter(torch.ones(1))
        self.bare.register_hook(lambda gradient: self.seen.append("bare"))
        self.scale = torch.ones(1, requires_grad=True)
        self.twice = 2 * self.scale
        self.twice.register_hook(lambda gradient: self.seen.append("twice"))

    def terms(self) -> dict[str, Tensor]:
        terms = super().terms()
        return terms | {"boundary": (terms["boundary"] * self.twice.detach()).sum()}


class HookedNodes(Changing):
    def change(self) -> None:
        seen = self.seen
        self.node = torch.autograd.graph.get_gradient_edge(self.layer(0).weight).node
        self.node.register_prehook(lambda gradients: seen.append("node"))


class NewWeights(Changing):
    def step(self) -> None:
        if self.number % 10 == 0:
            self.weights = {"boundary": 1.0 + self.number, "residual": 2}
        super().step()


class Anneals(Changing):
    def prepare(self) -> None:
        self.weights = "siam"

    def change(self) -> None:
        self.weights = {"boundary": 2.0}


class AnnealsByARule(Changing):
    def prepare(self) -> None:
        self.weights = DualBalancing()


@dataclass(frozen=True, kw_only=True)
class _Fails(WeightingRule):
    calls: list[int] = field(default_factory=list)

    def propose(self, seen: Observation, state: WeightingState) -> Proposal:
        self.calls.append(seen.step)
        if len(self.calls) % 9 == 8:
            raise ZeroDivisionError
        return Proposal({"boundary": 1.0 + seen.loss_of["residual"] + float(seen.gradients.norm())})


class FailingRule(Changing):
    def prepare(self) -> None:
        self.weights = _Fails()

    def step(self) -> None:
        with suppress(ZeroDivisionError):
            super().step()


class WeightsOfAnyKind(Changing):
    def change(self) -> None:
        self.weights = {"boundary": torch.tensor(3.0), "residual": np.float32(2.0)}


class Shares(Changing):
    def prepare(self) -> None:
        self.weights = {"largest": 0.5}

    def terms(self) -> dict[str, Tensor]:
        x = points()
        square = self.net(x).square()
        return {"mean": square.mean(), "largest": square.max()}


class OddWidth(Changing):
    """Parameters that do not begin at round places of the flat vector."""

    def prepare(self) -> None:
        for place, layer in enumerate(network(37)):
            self.net[place] = layer
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)


class AnotherNetwork(Changing):
    """Built like the one that is watched."""

    def prepare(self) -> None:
        self.other = copy.deepcopy(self.net)

    def step(self) -> None:
        if self.number % 10 != 5:
            super().step()
            return
        watched, self.net = self.net, self.other
        try:
            self.backward()
        except ArgumentError as error:
            self.seen.append(str(error))
        finally:
            self.net = watched


class Renames(Changing):
    """At a step that is measured more closely."""

    def prepare(self) -> None:
        self.weights = {}

    def terms(self) -> dict[str, Tensor]:
        terms = super().terms()
        if self.number >= 32:
            terms["initial"] = terms.pop("boundary")
        return terms


class ThirdTerm(Changing):
    """Which is infinite at first."""

    def terms(self) -> dict[str, Tensor]:
        terms = super().terms()
        if self.has_changed:
            terms["mean"] = self.net(points()).mean()
        if self.number == CHANGE:
            terms["mean"] = terms["mean"] * float("inf")
        return terms


class BecomePoints(Changing):
    def terms(self) -> dict[str, Tensor]:
        terms = super().terms()
        square = self.net(points()).square()
        return terms | {"fit": square if self.number % 20 > 15 else square.mean()}


class OtherTerms(Changing):
    def terms(self) -> dict[str, Tensor]:
        terms = super().terms()
        if self.has_changed and self.number % 2:
            terms |= {"mean": self.net(points()).mean()}
        if self.number == CHANGE + 5:
            terms["residual"] = terms["residual"].detach()
        if self.number > CHANGE + 10:
            terms = dict(reversed(terms.items()))
        return terms


class NotFinite(Changing):
    """A loss that is finite, and whose gradient is not."""

    def terms(self) -> dict[str, Tensor]:
        terms = super().terms()
        if self.number in (CHANGE, CHANGE + 1, CHANGE + 3):
            terms["boundary"] = terms["boundary"] + (0 * self.layer(0).bias).sum().sqrt()
        if self.number == CHANGE + 6:
            terms["boundary"] = terms["boundary"] * float("inf")
        return terms

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            self.optimizer.step()


class Mixed(Changing):
    """Some steps are taken with a plain backward pass."""

    def prepare(self) -> None:
        self.probe.attach()

    def step(self) -> None:
        if self.number % 8 < 5:
            super().step()
            return
        self.optimizer.zero_grad()
        terms = self.terms()
        if self.number % 8 == 6:
            self.probe.watch(terms)
        (terms["residual"] + 3 * terms["boundary"]).backward()
        self.optimizer.step()


class SecondOptimizer(Changing):
    def change(self) -> None:
        self.first = torch.optim.SGD(self.net[:1].parameters(), 1e-3)
        self.optimizer = torch.optim.Adam(self.net[1:].parameters(), 1e-3)

    def step(self) -> None:
        super().step()
        if self.has_changed:
            self.first.step()


class Closures(Changing):
    def change(self) -> None:
        self.optimizer = torch.optim.LBFGS(self.net.parameters(), 1e-2, max_iter=3)  # type: ignore[assignment]

    def step(self) -> None:
        if not self.has_changed:
            super().step()
            return

        def closure() -> float:
            self.optimizer.zero_grad()
            return self.probe.backward(self.terms(), self.weights)

        self.optimizer.step(closure)


class Scheduled(Changing):
    def prepare(self) -> None:
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)

    def step(self) -> None:
        super().step()
        self.scheduler.step()


class Clips(Changing):
    def step(self) -> None:
        self.optimizer.zero_grad()
        self.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 0.01)
        for parameter in self.net.parameters():
            assert parameter.grad is not None
            parameter.grad.detach_().requires_grad_(False)
        self.optimizer.step()


class _PassesOn(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class UnderModes(Changing):
    def step(self) -> None:
        modes: dict[int, Callable[[], Any]] = {
            35: torch.no_grad, 37: _PassesOn, 39: lambda: torch.autograd.set_detect_anomaly(True),
            41: lambda: torch.autocast("cpu"), 43: lambda: torch.device("cpu"),
            45: torch.inference_mode,
        }  # fmt: skip
        self.optimizer.zero_grad()
        terms = self.terms()
        with modes.get(self.number, nullcontext)():
            self.backward(terms)
        self.optimizer.step()


class Recomputes(Changing):
    """Batch norm and dropout run once more in the backward pass, and draw random numbers."""

    def prepare(self) -> None:
        inner = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3))
        self.net.insert(2, inner)
        self.weights = {"size": 0.1}
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)

    def terms(self) -> dict[str, Tensor]:
        hidden = self.net[1](self.net[0](points()))
        again = checkpoint(self.net[2], hidden, use_reentrant=False, preserve_rng_state=False)
        assert isinstance(again, Tensor)
        return {"data": self.net[3](again).square().mean(), "size": hidden.square().mean()}


class _Draws(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.rand(())


class DrawsInBackward(Changing):
    def terms(self) -> dict[str, Tensor]:
        terms = super().terms()
        drawn: Tensor = _Draws.apply(terms["boundary"])  # type: ignore[no-untyped-call]
        return terms | {"boundary": drawn}


class FreedGraph(Changing):
    def step(self) -> None:
        self.optimizer.zero_grad()
        terms = self.terms()
        if self.number == CHANGE:
            terms["residual"].backward()
            self.optimizer.zero_grad()
        try:
            self.backward(terms)
        except GradpathError as error:
            self.seen.append(str(error))
        self.optimizer.step()


class Adjoints(Changing):
    """The residual holds derivatives, as that of a PINN."""

    def prepare(self) -> None:
        self.weights = {}

    def terms(self) -> dict[str, Tensor]:
        return {"residual": residual_of(self.net, points()), "mean": self.net(points()).mean()}


LOOPS = [each for each in Changing.__subclasses__() if each.__module__ == __name__]


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Which of the steps so far have gone the short way."""
    taken: list[bool] = []
    backward = Repeating.backward

    def counted(self: Repeating, *args: Any) -> float | None:
        found = backward(self, *args)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(Repeating, "backward", counted)
    return taken


def _left_behind(training: Changing) -> list[Any]:
    state = [each for values in training.optimizer.state.values() for each in values.values()]
    return [
        *training.seen,
        *(value for _, value in sorted(training.net.state_dict().items())),
        *(each for each in state if isinstance(each, Tensor)),
        torch.get_rng_state(),
        random.random(),
        np.random.rand(),
    ]


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, list):
        assert len(one) == len(other)
        for each, of_other in zip(one, other, strict=True):
            assert_same(each, of_other)
    elif isinstance(one, Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    else:
        assert one == other or (one != one and other != other)


@pytest.mark.filterwarnings("ignore:Anomaly Detection", "ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("loop", LOOPS)
def test_the_short_way_is_like_the_long_one(
    loop: type[Changing],
    tmp_path: Path,
    ways: list[bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = loop(tmp_path / "short")
    short.steps(END)
    short.probe.detach()
    found = _left_behind(short)
    assert sum(ways[:CHANGE]) >= (0 if loop in NEVER else 5)

    monkeypatch.setattr(Repeating, "backward", lambda *_: None)
    long = loop(tmp_path / "long")
    long.steps(END)
    long.probe.detach()
    expected = _left_behind(long)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)
    assert_same_records(Run(tmp_path / "short"), Run(tmp_path / "long"))


# Where the probe looks at each backward pass as well, or parameters lie in memory otherwise.
NEVER = {Mixed, TransposesData}


def test_the_usual_step_goes_the_short_way(tmp_path: Path, ways: list[bool]) -> None:
    training = Changing(tmp_path)
    training.steps(END)
    # But for those of which the distance between distributions is measured.
    assert ways[32:43] == [False, *[True] * 9, False]
    training.probe.detach()
