"""What a probe costs on the paper's Helmholtz loop, as a ratio to the same loop without one.

One thread; blocks of the loop with and without a probe take turns, so that what else the machine
does falls on both.

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
from pathlib import Path

import torch
from helmholtz import batch, losses, network

from gradpath.probes import Probe
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


def seconds(step: Step, count: int) -> float:
    begun = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - begun


@contextmanager
def nothing_due(loop: Loop, folder: Path) -> Iterator[Step]:
    probe = Probe(loop.net, folder, instruments=[Losses(at(10**9))])
    with probe:
        yield loop.plain


@contextmanager
def every_step(loop: Loop, folder: Path) -> Iterator[Step]:
    instruments = [Losses(), GradientHistograms(), GradientStatistics(), Imbalance(), Alignment()]
    probe = Probe(loop.net, folder, instruments=instruments, schedule=every(1))
    yield lambda: loop.with_probe(probe)
    probe.detach()


@contextmanager
def preset(loop: Loop, folder: Path, name: str) -> Iterator[Step]:
    with Probe(loop.net, folder, instruments=name):
        yield loop.plain


CASES = {
    "attached, nothing due": (nothing_due, 1.01),
    "probe.backward, all recorded at every step": (every_step, 1.15),
    "standard": (lambda loop, folder: preset(loop, folder, "standard"), 1.05),
    "full": (lambda loop, folder: preset(loop, folder, "full"), 1.25),
}


def ratios(steps: int, block: int, names: list[str]) -> None:
    for name in names:
        make, limit = CASES[name]
        bare, probed = Loop(), Loop()
        times: list[tuple[float, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            with make(probed, Path(folder) / "run") as step:
                seconds(bare.plain, 50)
                for number in range(steps // block):
                    pair = [(bare.plain, 0), (step, 1)]
                    found = [0.0, 0.0]
                    for work, place in pair if number % 2 else pair[::-1]:
                        found[place] = seconds(work, block)
                    times.append((found[0], found[1]))
            # When the run has ended, and its log is in the database.
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        without, with_probe = (sum(each) for each in zip(*times, strict=True))
        middle = statistics.median(b / a for a, b in times)
        print(
            f"{name:45s} {without / steps * 1e3:6.2f} ms a step, "
            f"with a probe {with_probe / without:.3f} of it (median of blocks {middle:.3f}; "
            f"limit {limit}), {size / 1e6:.1f} MB",
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
