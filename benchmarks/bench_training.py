"""A compiled step of the trainer, as a ratio to the same step written with nested autograd.

Both train the paper's Helmholtz problem (1, 4) with its network of three hidden layers of 50 and
fixed weights, take the gradient of each term by itself, draw new points at every step, and record
histograms of both gradients every 100 steps. One thread; blocks of steps take turns, so that what
else the machine does falls on both.

    python benchmarks/bench_training.py [--steps 2000] [--peers]

With `--peers`, DeepXDE's step and a jitted one of JAX take turns with them
(`training_peers.py`; `pip install -c constraints.txt -e '.[peers]'`). JAX has no setting for one
thread, so begin with `taskset -c 0`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from helmholtz import losses, network
from torch import Tensor
from training_peers import DeepXDE, Jax

from gradpath.experiments import MLP, problem
from gradpath.experiments.training_step import (
    AdamState,
    FlatLosses,
    TrainingStep,
    learning_rate,
)
from gradpath.probes import Probe
from gradpath.probes.instruments import GradientHistograms
from gradpath.probes.schedules import every

BOUNDARY_WEIGHT = 10.0
GOAL = 2.0
GOAL_OF_PEERS = 1.0  # to be faster

PROBLEM = problem("helmholtz")


class Steps(Protocol):
    """Takes steps."""

    def step(self) -> None:
        """Takes one."""


class Nested:
    """Nested `torch.autograd.grad`, `probe.backward` and `torch.optim.Adam`."""

    def __init__(self, folder: Path) -> None:
        self.net = network()
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)
        self.probe = Probe(self.net, folder, instruments=[GradientHistograms(every(100))])
        self.sampler = PROBLEM.sampler(128)
        self.generator = torch.Generator().manual_seed(0)
        self.number = 0

    def step(self) -> None:
        """Takes one."""
        batch = self.sampler.draw(self.generator)
        terms = losses(self.net, batch["interior"][0], list(batch["boundary"]))
        self.optimizer.zero_grad()
        named = dict(zip(("residual", "boundary"), terms, strict=True))
        self.probe.backward(named, {"boundary": BOUNDARY_WEIGHT})
        self.optimizer.param_groups[0]["lr"] = learning_rate(self.number)
        self.optimizer.step()
        self.number += 1


class Functional:
    """The trainer's step, compiled or not."""

    def __init__(self, folder: Path, *, compile: bool) -> None:
        self.losses = FlatLosses(PROBLEM, MLP.for_problem(PROBLEM))
        self.sampler = PROBLEM.sampler(128)
        self.generator = torch.Generator().manual_seed(0)
        begun = time.perf_counter()
        batch = self.sampler.draw(self.generator)
        self.take = TrainingStep(self.losses, batch, AdamState, compile=compile)
        self.seconds_to_compile = time.perf_counter() - begun
        self.probe = Probe(
            self.losses.network, folder, instruments=[GradientHistograms(every(100))]
        )
        self.state = AdamState.of(self.losses.layout.flatten())
        self.weights = torch.tensor([1.0, BOUNDARY_WEIGHT])
        self.number = 0

    def step(self) -> None:
        """Takes one."""
        batch = self.sampler.draw(self.generator)
        taken = self.take(self.state, self.weights, self.number, batch)
        values = taken.losses.tolist()
        if self.number % 100 == 0:

            def gradients() -> dict[str, Tensor]:
                return dict(zip(self.losses.terms, taken.gradients, strict=True))

            self.probe.record(
                dict(zip(self.losses.terms, values, strict=True)),
                step=self.number,
                gradients=gradients,
            )
        self.state = taken.state
        self.number += 1


def seconds(step: Callable[[], None], count: int) -> float:
    # Of the processor, all threads: what else a machine does is not counted.
    begun = time.process_time()
    for _ in range(count):
        step()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--block", type=int, default=100)
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        nested = Nested(folder / "nested")
        eager = Functional(folder / "eager", compile=False)
        compiled = Functional(folder / "compiled", compile=True)
        ours = {"nested autograd": nested, "functional": eager, "compiled": compiled}
        peers = {"DeepXDE": DeepXDE, "JAX": Jax} if arguments.peers else {}
        steps: dict[str, Steps] = {
            **ours,
            **{what: made(BOUNDARY_WEIGHT) for what, made in peers.items()},
        }
        for each in steps.values():
            seconds(each.step, 20)
        spent = dict.fromkeys(steps, 0.0)
        for _ in range(arguments.steps // arguments.block):
            for what, each in steps.items():
                spent[what] += seconds(each.step, arguments.block)
        for each in ours.values():
            each.probe.detach()
    count = arguments.steps // arguments.block * arguments.block
    for what, time_taken in spent.items():
        ratio = spent["nested autograd"] / time_taken
        print(f"{what:20s} {time_taken / count * 1e3:6.2f} ms a step, {ratio:.2f} times as fast")
    ratio = spent["nested autograd"] / spent["compiled"]
    for what in peers:
        faster = spent[what] / spent["compiled"]
        print(
            f"goal {GOAL_OF_PEERS}: {'met' if faster > GOAL_OF_PEERS else 'MISSED'}; compiled is "
            f"{faster:.2f} times as fast as {what}"
        )
    print(
        f"goal {GOAL}: {'met' if ratio >= GOAL else 'MISSED'}; compiled in "
        f"{compiled.seconds_to_compile:.0f} s ({'yes' if compiled.take.is_compiled else 'NO'})"
    )


if __name__ == "__main__":
    main()
