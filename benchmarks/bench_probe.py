"""What a probe costs on the paper's Helmholtz loop, as a ratio to the same loop without one.

One thread; blocks of the loop with and without a probe take turns, so that what else the machine
does falls on both. The time of the processor counts only while this thread has it, so that other
jobs change it less than that of the clock; what waits for the disk is in the latter alone.

    python benchmarks/bench_probe.py [--steps 10000]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from helmholtz import batch, losses, network

from gradpath.probes import Probe, interception
from gradpath.probes.instruments import (
    Alignment,
    GradientHistograms,
    GradientStatistics,
    Imbalance,
    Losses,
)
from gradpath.probes.schedules import at, every

Step = Callable[[], None]


class Loop:
    """The loop of M1 on Helmholtz (1,4), a step at a time."""

    def __init__(self) -> None:
        self.net = network()
        self.generator = torch.Generator().manual_seed(0)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)

    def plain(self) -> None:
        """Takes a step without a probe."""
        self.optimizer.zero_grad()
        residual, boundary = losses(self.net, *batch(self.generator))
        loss = residual + 10.0 * boundary
        loss.backward()
        self.optimizer.step()

    def with_probe(self, probe: Probe) -> None:
        """Takes a step with `probe.backward` in place of `loss.backward()`."""
        self.optimizer.zero_grad()
        residual, boundary = losses(self.net, *batch(self.generator))
        probe.backward({"residual": residual, "boundary": boundary}, {"boundary": 10.0})
        self.optimizer.step()


@dataclass(frozen=True)
class Seconds:
    """What a block of steps took."""

    clock: float
    processor: float


def seconds(step: Step, count: int) -> Seconds:
    begun, working = time.perf_counter(), time.thread_time()
    for _ in range(count):
        step()
    return Seconds(time.perf_counter() - begun, time.thread_time() - working)


@dataclass(frozen=True)
class Probed:
    """A step with a probe on it."""

    probe: Probe
    step: Step


@contextmanager
def nothing_due(loop: Loop, folder: Path) -> Iterator[Probed]:
    with Probe(loop.net, folder, instruments=[Losses(at(10**9))]) as probe:
        yield Probed(probe, loop.plain)


@contextmanager
def every_step(loop: Loop, folder: Path) -> Iterator[Probed]:
    instruments = [Losses(), GradientHistograms(), GradientStatistics(), Imbalance(), Alignment()]
    probe = Probe(loop.net, folder, instruments=instruments, schedule=every(1))
    yield Probed(probe, lambda: loop.with_probe(probe))
    probe.detach()


@contextmanager
def preset(loop: Loop, folder: Path, name: str) -> Iterator[Probed]:
    with Probe(loop.net, folder, instruments=name) as probe:
        yield Probed(probe, loop.plain)


@contextmanager
def unseen(probe: Probe) -> Iterator[None]:
    """Lets the other loop run as in a process without a probe, which would look at it as well.

    Its time is not that of the training, of which schedules take a share.
    """
    begun = time.perf_counter()
    observer, forward = probe._observer, probe._stepping.forward
    if observer is None:
        yield
        return
    was_recording = forward.end() is not None
    interception.release(observer)
    yield
    interception.observe(observer)
    if was_recording:
        forward.begin()
    probe._stepping.bench.timer.begun += time.perf_counter() - begun


CASES = {
    "attached, nothing due": (nothing_due, 1.01),
    "probe.backward, all recorded at every step": (every_step, 1.15),
    "standard": (lambda loop, folder: preset(loop, folder, "standard"), 1.05),
    "full": (lambda loop, folder: preset(loop, folder, "full"), 1.25),
}


def without_probe(loop: Loop, probe: Probe, count: int) -> Seconds:
    with unseen(probe):
        return seconds(loop.plain, count)


def ratios(steps: int, block: int, names: list[str]) -> None:
    for name in names:
        make, limit = CASES[name]
        bare, probed = Loop(), Loop()
        blocks: list[tuple[Seconds, Seconds]] = []
        with tempfile.TemporaryDirectory() as folder:
            with make(probed, Path(folder) / "run") as watched:
                for number in range(steps // block):
                    if number % 2:
                        first = without_probe(bare, watched.probe, block)
                        blocks.append((first, seconds(watched.step, block)))
                    else:
                        second = seconds(watched.step, block)
                        blocks.append((without_probe(bare, watched.probe, block), second))
            # When the run has ended, and its log is in the database.
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        print(f"{name}: {size / 1e6:.1f} MB after {steps} steps; limit {limit}")
        for kind in ("processor", "clock"):
            without = [getattr(each, kind) for each, _ in blocks]
            with_probe = [getattr(each, kind) for _, each in blocks]
            each = [b / a for a, b in zip(without, with_probe, strict=True)]
            low, middle, high = statistics.quantiles(each, n=4)
            print(
                f"  {kind:10s} {sum(without) / steps * 1e3:5.2f} ms a step, with a probe "
                f"{sum(with_probe) / sum(without):.3f} of it in all; "
                f"median of blocks {middle:.3f}, quartiles {low:.3f} to {high:.3f}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--block", type=int, default=50)
    parser.add_argument("--only", choices=list(CASES), action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    ratios(arguments.steps, arguments.block, arguments.only or list(CASES))


if __name__ == "__main__":
    main()
