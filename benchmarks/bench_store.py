"""What a run on disk costs: a commit a step, bytes, and the time to read it back.

The standard set: losses, weights and all statistics of the gradients (of weights and biases alone
as well), imbalance and alignment every 10 steps, histograms of two terms in four layers every 100,
both ends of the spectrum of three losses every 1,000.

    python benchmarks/bench_store.py [--steps 40000] [--every 10]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.diagnostics.lanczos import Eigenvalue
from gradpath.probes import (
    Cost,
    EigenvalueRecord,
    HistogramRecord,
    Run,
    RunWriter,
    Scalar,
    ScalarTable,
)
from gradpath.probes.records import EncodedHistogram, Record

TERMS = ("residual", "boundary")
LAYERS = ("net.0", "net.2", "net.4", "net.6")
COLUMNS = (*LAYERS, "all")
STATISTICS = tuple(
    f"gradient_{quantity}{part}"
    for part in ("", "_weights", "_biases")
    for quantity in ("max", "mean", "std", "norm", "zeros", "near_zeros", "not_finite")
)
RATIOS = ("max_to_mean", "norm_ratio", "std_ratio", "kurtosis_ratio")


def losses(generator: np.random.Generator) -> Iterator[Record]:
    for term in (*TERMS, "total"):
        yield Scalar("loss", generator.random(), term)
        yield Scalar("weight", generator.random(), term)
    yield Scalar("learning_rate", 1e-3)
    yield Cost("losses", generator.random())
    for names, terms in (
        (STATISTICS, TERMS),
        (RATIOS, TERMS[1:]),
        (("alignment", "cancellation"), ("",)),
        (("cosine:boundary",), TERMS[:1]),
    ):
        values = generator.random((len(names), len(terms), len(COLUMNS)))
        yield ScalarTable(names, values, terms, COLUMNS)


def histograms(made: Sequence[EncodedHistogram], count: int) -> Iterator[Record]:
    for k in range(count):
        layer = f"{LAYERS[k // 2 % 4]}.{k // 8}"
        yield HistogramRecord(made[k % len(made)], TERMS[k % 2], layer)
    yield Cost("histograms", 0.001)


def eigenvalues() -> Iterator[Record]:
    found = Eigenvalue(1.5, 1.4, 1.6, 0.01, True, "Converged: the interval is 0.003 wide.", 12)
    for term in (*TERMS, "total"):
        for end in ("largest", "smallest"):
            yield EigenvalueRecord(found, end, term)
    yield Cost("stiffness", 1.0)


def write_standard_run(folder: Path, steps: int, every: int) -> None:
    generator = np.random.default_rng(0)
    made = gradients()
    with RunWriter(folder) as writer:
        for step in range(0, steps, every):
            records = list(losses(generator))
            if step % 100 == 0:
                records += histograms(made, len(TERMS) * len(LAYERS))
            if step % 1000 == 0:
                records += eigenvalues()
            writer.record(step, records)


def gradients() -> list[GradientHistogram]:
    """Histograms of a layer of 50 x 50, all different."""
    generator = torch.Generator().manual_seed(0)
    return [GradientHistogram.of(torch.randn(2550, generator=generator)) for _ in range(50)]


@dataclass(frozen=True)
class Encoded:
    """A histogram that is bytes already."""

    data: bytes

    def to_bytes(self) -> bytes:
        """Returns them."""
        return self.data


def commit(folder: Path, journal: str, made: Sequence[EncodedHistogram]) -> np.ndarray:
    """Returns milliseconds a step of 30 histograms."""
    taken = []
    with RunWriter(folder, journal=journal) as writer:
        for step in range(1000):
            records = list(histograms(made, 30))
            begin = time.perf_counter()
            writer.record(step, records)
            taken.append(time.perf_counter() - begin)
    return 1e3 * np.array(taken)


def milliseconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--every", type=int, default=10, help="how many steps between losses")
    arguments = parser.parse_args()
    steps = arguments.steps
    with tempfile.TemporaryDirectory() as temporary:
        made = gradients()
        encoded = [Encoded(histogram.to_bytes()) for histogram in made]
        print("step of 30 histograms, ms      p50    mean     p99")
        for name, journal, given in (
            ("wal", "wal", encoded),
            ("wal, and making the bytes", "wal", made),
            ("delete", "delete", encoded),
        ):
            taken = commit(Path(temporary, name), journal, given)
            p50, p99 = np.quantile(taken, (0.5, 0.99))
            print(f"  {name:25s} {p50:6.3f} {taken.mean():7.3f} {p99:7.3f}")

        folder = Path(temporary, "standard")
        taken_ms = milliseconds(lambda: write_standard_run(folder, steps, arguments.every))
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"standard run of {steps} steps: {size / 1e6:.1f} MB, written in {taken_ms:.0f} ms")

        run = Run(folder)
        rows = len(run.scalars())
        print(f"read back, ms ({rows} scalars)")
        last = run.steps[-1] // 100 * 100
        for name, read in {
            "opening and status": lambda: Run(folder).status,
            "steps": lambda: run.steps,
            "scalars('loss')": lambda: run.scalars("loss"),
            "scalars('gradient_norm')": lambda: run.scalars("gradient_norm"),
            "scalars()": run.scalars,
            "histograms()": run.histograms,
            "histograms(step)": lambda: run.histograms(step=last),
            "eigenvalues()": run.eigenvalues,
        }.items():
            print(f"  {name:26s} {milliseconds(read):7.1f}")


if __name__ == "__main__":
    main()
