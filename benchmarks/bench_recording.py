"""What it costs to record everything at every step, in microseconds and as a share of a step.

Losses, histograms, statistics, ratios and alignment of the gradients of M1 on Helmholtz after some
training, from the (terms, params) matrix to the committed row; beside them, what else one may ask.
All take turns in one run, in an order drawn anew each round, so that each finds the caches as
another left them. The best time of each counts; of the commit, the median and the mean as well:
every few hundred commits, SQLite empties its log.

    python benchmarks/bench_recording.py [--rounds 1000] [--threads 1]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_histograms import best_times
from helmholtz import batch, losses, network

from gradpath.diagnostics import (
    GradientHistogram,
    GradientStatistics,
    ParameterLayout,
    TermGradients,
    alignment,
    cosine_matrix,
    distances_by_layer,
    gradient_statistics,
    histograms_by_layer,
    imbalance,
    term_gradients,
)
from gradpath.diagnostics.statistics import QUANTITIES, RATIOS
from gradpath.probes import Cost, HistogramRecord, RunWriter, ScalarTable
from gradpath.probes.records import Record

TERMS = ("residual", "boundary")
REFERENCE = TERMS[0]
NAMES = {
    part: tuple(f"gradient_{quantity}{part}" for quantity in QUANTITIES)
    for part in ("", "_weights", "_biases")
}


class Training:
    """M1 while it trains."""

    def __init__(self, steps: int) -> None:
        self.network = network()
        self._optimizer = torch.optim.Adam(self.network.parameters(), 1e-3)
        self._generator = torch.Generator().manual_seed(1)
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        """Takes one step."""
        self._optimizer.zero_grad()
        torch.stack(losses(self.network, *batch(self._generator))).sum().backward()
        self._optimizer.step()

    def gradients(self, layout: ParameterLayout) -> TermGradients:
        """Returns the gradients of the terms."""
        values = losses(self.network, *batch(self._generator))
        return term_gradients(dict(zip(TERMS, values, strict=True)), layout)


def records_of(
    histograms: dict[tuple[int | str, str], GradientHistogram],
    statistics: GradientStatistics,
) -> list[Record]:
    """Returns all records of a step: the losses, and what was made of the gradients."""
    found: list[Record] = [
        ScalarTable(("loss", "weight"), np.ones((2, 2, 1)), TERMS),
        *(HistogramRecord(each, str(term), layer) for (term, layer), each in histograms.items()),
    ]
    for names, of_part in zip(
        NAMES.values(), (statistics, statistics.matrices, statistics.vectors), strict=True
    ):
        found.append(ScalarTable(names, of_part.values, TERMS, of_part.layers))
    layers = statistics.layers
    ratios = statistics.ratios(REFERENCE)
    found.append(ScalarTable(RATIOS, ratios.values[:, 1:], TERMS[1:], layers))
    found.append(ScalarTable(("alignment",), statistics.alignment[None, None], layers=layers))
    cosines = statistics.cosines[:, 0, 1]
    found.append(ScalarTable(("cosine:boundary",), cosines[None, None], TERMS[:1], layers))
    found += [Cost(name, 1e-4) for name in ("losses", "histograms", "statistics", "alignment")]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    training = Training(200)
    layout = ParameterLayout.of(training.network)
    grads = training.gradients(layout)
    histograms = histograms_by_layer(grads, layout)
    statistics = gradient_statistics(grads, layout)
    records = records_of(histograms, statistics)
    commits: list[float] = []
    with tempfile.TemporaryDirectory() as folder, RunWriter(Path(folder, "run")) as writer:

        def commit() -> None:
            begin = time.perf_counter()
            writer.record(len(commits), records)
            commits.append(time.perf_counter() - begin)

        recorded: dict[str, Callable[[], object]] = {
            "histograms": lambda: histograms_by_layer(grads, layout),
            "statistics and cosines": lambda: gradient_statistics(grads, layout),
            "records, ratios, alignment": lambda: records_of(histograms, statistics),
            "bytes, row and commit": commit,
        }
        beside: dict[str, Callable[[], object]] = {
            "of which bytes of histograms": lambda: GradientHistogram.all_to_bytes(
                histograms.values()
            ),
            "distances_by_layer()": lambda: distances_by_layer(histograms, REFERENCE),
            "imbalance()": lambda: imbalance(grads, layout),
            "alignment(), by layer": lambda: alignment(grads, layout),
            "cosine_matrix(), by layer": lambda: cosine_matrix(grads, layout),
        }
        best = best_times({"step": training.step, **recorded, **beside}, arguments.rounds)
    step = best.pop("step")
    print(f"M1, {layout.size:,d} parameters, a training step takes {1e6 * step:.0f} us\n")
    print(f"{'':32s} {'us':>7s} {'of a step':>10s}")

    def line(name: str, seconds: float) -> None:
        print(f"{name:32s} {1e6 * seconds:7.1f} {seconds / step:10.1%}")

    for name in recorded:
        line(name, best[name])
    line("together", sum(best[name] for name in recorded))
    print()
    for name in beside:
        line(name, best[name])
    line("bytes, row and commit, median", float(np.median(commits)))
    line("bytes, row and commit, mean", float(np.mean(commits)))


if __name__ == "__main__":
    main()
