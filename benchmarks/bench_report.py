"""What a report takes: seconds and bytes, of a long run and of a comparison of twelve.

A run of 40,000 steps with 400 snapshots of histograms, of three terms in four layers, and losses at
every tenth step. Processor time stands beside wall time, which other programs
lengthen.

    python benchmarks/bench_report.py [--steps 40000] [--snapshots 400]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import gradpath
from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.probes import HistogramRecord, Run, RunWriter, Scalar
from gradpath.reports.html import render_html
from gradpath.reports.pdf import render_pdf
from gradpath.reports.run_report import run_content

TERMS = ("residual", "boundary", "initial")
LAYERS = {"net.0": 150, "net.2": 2550, "net.4": 2550, "net.6": 51}


def write_run(folder: Path, steps: int, snapshots: int, model: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    metadata = {"model": model, "complexity": 4, "seed": seed, "final_error": 0.1 + 0.01 * seed}
    due = set(np.linspace(0, steps, snapshots).round().astype(int).tolist())
    with RunWriter(folder, metadata=metadata) as writer:
        for step in sorted(due | set(range(0, steps + 1, 10))):
            size = 1 / (1 + step / 1000)
            records = [Scalar("loss", size * (1 + k), term) for k, term in enumerate(TERMS)]
            records += [Scalar("weight", 1.0, term) for term in TERMS]
            if step in due:
                records += [
                    HistogramRecord(
                        GradientHistogram.of(torch.randn(n, generator=generator) * size * 10.0**-k),
                        term,
                        layer,
                    )
                    for k, term in enumerate(TERMS)
                    for layer, n in LAYERS.items()
                ]
            writer.record(step, records)


def timed(name: str, budget: str, work: Callable[[], int]) -> None:
    wall, processor = time.perf_counter(), time.process_time()
    size = work()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{name:34} {wall:6.2f} s {processor:8.2f} s {size / 1e6:8.2f} MB   {budget}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--snapshots", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder / "one", options.steps, options.snapshots, "M1", 0)
        for number in range(12):
            model, seed = f"M{1 + number // 3}", number % 3
            write_run(folder / "many" / f"{model}-{seed}", options.steps, 100, model, seed)
        run = Run(folder / "one")
        print(f"{'':34} {'wall':>8} {'processor':>10} {'size':>11}   budget")
        timed("report, HTML, the first", "5 s, 2 MB", lambda: _size(run, folder / "first.html"))
        timed("report, HTML", "5 s, 2 MB", lambda: _size(run, folder / "second.html"))
        content = run_content(run)
        timed("HTML without figures", "", lambda: len(render_html(content)))
        timed("PDF without figures", "5 s", lambda: len(render_pdf(content)))
        comparison = folder / "comparison.html"
        timed("comparison of 12 runs, HTML", "20 s, 6 MB",
              lambda: gradpath.compare(folder / "many", comparison).stat().st_size)  # fmt: skip


def _size(run: Run, path: Path) -> int:
    return gradpath.report(run, path).stat().st_size


if __name__ == "__main__":
    main()
