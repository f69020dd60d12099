"""A tracker gets what the run gets, and none can disturb a training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.probes import Event, HistogramRecord, Probe, ProbeWarning, Run, Scalar
from gradpath.probes.instruments import GradientHistograms, Losses, Stiffness
from gradpath.probes.schedules import every
from gradpath.probes.sinks import Sink, TensorBoardSink
from gradpath.probes.sinks.broadcast import Broadcast

INSTRUMENTS = (Losses(every(1)), GradientHistograms(every(1)), Stiffness(every(2)))


class Memory:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, int], float] = {}
        self.histograms: dict[tuple[str, int], GradientHistogram] = {}
        self.closed = 0

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.numbers |= {(tag, step): value for tag, value in values.items()}

    def histogram(self, step: int, tag: str, histogram: GradientHistogram) -> None:
        self.histograms[tag, step] = histogram

    def close(self) -> None:
        self.closed += 1


class NumbersOnly(Memory):
    def histogram(self, step: int, tag: str, histogram: GradientHistogram) -> None:
        raise NotImplementedError("this one draws curves alone")


class Failing(Memory):
    """Fails at its second step, as one does whose server has gone."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if step == 1:
            raise OSError("no route to\nhost")
        super().scalars(step, values)


def train(folder: Path, sinks: Sequence[Sink], steps: int = 4, **options: Any) -> list[Any]:
    """Trains with two terms; returns the parameters that it ends with."""
    torch.manual_seed(0)
    first = torch.nn.Linear(1, 8)
    net = torch.nn.Sequential(first, torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    with Probe(net, folder, instruments=INSTRUMENTS, sinks=sinks, **options):
        for _ in range(steps):
            optimizer.zero_grad()
            data = (net(torch.rand(16, 1)) - 1).square().mean()
            decay = first.weight.square().sum()
            (data + 0.5 * decay).backward()
            optimizer.step()
    return [parameter.detach().clone() for parameter in net.parameters()]


def test_a_sink_gets_what_the_run_holds(tmp_path: Path) -> None:
    memory = Memory()
    train(tmp_path, [memory])
    run = Run(tmp_path)
    losses = run.scalars("loss")
    for row in losses.to_dict("records"):
        assert memory.numbers[f"loss/{row['term']}", row["step"]] == row["value"]
    eigenvalues = run.eigenvalues()
    for row in eigenvalues.to_dict("records"):
        tag = f"hessian/{row['term']}/{row['end']}"
        assert memory.numbers[tag, row["step"]] == row["value"]
    histograms = run.histograms()
    for row in histograms.to_dict("records"):
        tag = f"gradient/{row['term']}/{row['layer']}"
        assert memory.histograms[tag, row["step"]] == row["histogram"]
    assert len(losses) == 4 * 3
    assert len(eigenvalues) == 2 * 3 * 2
    assert len(memory.histograms) == len(histograms) == 4 * 2 * 2
    assert memory.closed == 1


def test_numbers_of_single_layers_stay_in_the_run() -> None:
    memory = Memory()
    records = [Scalar("gradient_norm", 1.0, "u", "0"), Scalar("gradient_norm", 2.0, "u", "all")]
    Broadcast([memory], lambda event: None).step(3, records, "")
    assert memory.numbers == {("gradient_norm/u", 3): 2.0}


def test_what_a_tracker_lacks_is_told_once(tmp_path: Path) -> None:
    sink = NumbersOnly()
    with pytest.warns(ProbeWarning, match="draws curves alone") as warned:
        train(tmp_path, [sink])
    assert len(warned) == 1
    assert {step for _, step in sink.numbers} == {0, 1, 2, 3}
    events = Run(tmp_path).events()
    assert list(events["kind"]).count("sink_lacks") == 1


def test_a_failing_sink_is_switched_off_alone(tmp_path: Path) -> None:
    failing, memory = Failing(), Memory()
    expected = train(tmp_path / "without", [])
    with pytest.warns(ProbeWarning, match="Failing failed .*no route to host") as warned:
        found = train(tmp_path / "with", [failing, memory], strict=True)
    assert len(warned) == 1
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert {step for _, step in failing.numbers} == {0}
    assert not failing.closed
    assert {step for _, step in memory.numbers} == set(Run(tmp_path / "with").steps) == {0, 1, 2, 3}
    events = Run(tmp_path / "with").events()
    assert list(events["kind"]).count("sink_off") == 1
    assert Run(tmp_path / "with").status == "finished"


def test_nothing_is_passed_on_that_is_not_in_the_run(tmp_path: Path) -> None:
    memory = Memory()
    probe = Probe(None, tmp_path / "a file" / "run", instruments=INSTRUMENTS, sinks=[memory])
    (tmp_path / "a file").write_text("")
    net = torch.nn.Linear(1, 1)
    with pytest.warns(ProbeWarning, match="Nothing more is recorded"), probe:
        net(torch.ones(1, 1)).sum().backward()
    assert not memory.numbers


class TestTensorBoard:
    def read(self, folder: Path) -> Any:
        accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        accumulator = accumulators.EventAccumulator(
            str(folder), {"scalars": 0, "histograms": 0}, purge_orphaned_data=False
        )
        accumulator.Reload()
        return accumulator

    def writer(self, folder: Path) -> Any:
        pytest.importorskip("tensorboard")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from torch.utils.tensorboard import SummaryWriter
        return SummaryWriter(str(folder))

    def test_event_files_hold_the_numbers_and_bins_of_the_run(self, tmp_path: Path) -> None:
        writer = self.writer(tmp_path / "events")
        train(tmp_path / "run", [TensorBoardSink(writer)])
        # Flushed, and still the user's: readable before it is closed, and open.
        events, run = self.read(tmp_path / "events"), Run(tmp_path / "run")
        writer.add_scalar("mine", 1.0)
        writer.close()
        losses = run.scalars("loss").query("term == 'data'")
        read = events.Scalars("loss/data")
        assert [each.step for each in read] == list(losses["step"])
        np.testing.assert_allclose([e.value for e in read], losses["value"], rtol=1e-6)
        for row in run.histograms().to_dict("records"):
            tag = f"gradient/{row['term']}/{row['layer']}"
            (value,) = (
                each.histogram_value for each in events.Histograms(tag) if each.step == row["step"]
            )
            counts, edges = row["histogram"].to_numpy()
            assert value.bucket == [0, *counts]
            np.testing.assert_array_equal(value.bucket_limit, edges)
            assert value.num == counts.sum()
            assert (value.min, value.max) == (edges[0], edges[-1])

    def test_what_single_precision_cannot_hold_becomes_infinite(self, tmp_path: Path) -> None:
        writer = self.writer(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            TensorBoardSink(writer).scalars(0, {"huge": -1e300, "nan": math.nan})
        writer.close()
        events = self.read(tmp_path)
        assert events.Scalars("huge")[0].value == -math.inf
        assert math.isnan(events.Scalars("nan")[0].value)

    def test_a_histogram_without_a_finite_entry_is_left_out(self, tmp_path: Path) -> None:
        writer = self.writer(tmp_path)
        nothing = GradientHistogram.of(torch.full((3,), math.nan))
        events: list[Event] = []
        record = HistogramRecord(nothing, "u", "0")
        Broadcast([TensorBoardSink(writer)], events.append).step(0, [record], "")
        writer.close()
        assert not events
        assert self.read(tmp_path).Tags()["histograms"] == []
