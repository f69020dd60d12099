"""Steps that are measured together have the records that they have one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gradpath.diagnostics.errors import ArgumentError
from gradpath.probes import (
    Probe,
    Run,
    backlog,
)
from gradpath.probes.instruments import GradientHistograms, GradientStatistics, Imbalance
from gradpath.probes.lock import WAITING
from gradpath.probes.schedules import at, every
from tests.probes.loops import boundary_of, network, points, residual_of, seeded
from tests.probes.waiting_loops import (
    WATCHING,
    Annealed,
    AtPoints,
    Bfloat,
    Double,
    NotFiniteOnce,
    OneTerm,
    ThreeTerms,
    Training,
    ZeroChange,
    assert_same_records,
)

LOOPS: list[type[Training]] = [
    Training, ThreeTerms, OneTerm, ZeroChange, NotFiniteOnce, Annealed, Double, Bfloat, AtPoints,
]  # fmt: skip


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_MOST_BYTES_A_STEP", -1)


@pytest.mark.parametrize("loop", LOOPS)
def test_steps_have_the_records_that_they_have_one_by_one(
    loop: type[Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited = loop(tmp_path / "together")
    waited.steps(70)
    assert not waited.probe._stepping.backlog.is_empty  # they do wait
    waited.probe.detach()
    one_by_one(monkeypatch)
    alone = loop(tmp_path / "alone")
    alone.steps(70)
    assert alone.probe._stepping.backlog.is_empty
    alone.probe.detach()

    found, expected = Run(tmp_path / "together"), Run(tmp_path / "alone")
    assert_same_records(found, expected)
    assert found.steps == tuple(range(70))
    costs = found.cost()
    assert set(costs["instrument"]) == set(expected.cost()["instrument"])
    assert len(costs) == len(expected.cost())
    assert (tmp_path / "together" / WAITING).exists() is False


def test_a_histogram_is_found_by_its_names(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.steps(30)
    training.probe.detach()
    run = Run(tmp_path)
    whole = run.histograms()
    one = run.histograms(20, "boundary", "2")
    (same,) = whole[
        (whole["step"] == 20) & (whole["term"] == "boundary") & (whole["layer"] == "2")
    ]["histogram"]
    assert one["histogram"].tolist() == [same]
    assert run.histograms(name="update").empty
    assert "gradient" not in set(run.scalars()["name"])


def test_who_reads_in_the_same_process_sees_all(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.steps(10)
    assert training.probe.last_recorded == 9
    assert Run(tmp_path).steps == tuple(range(10))
    training.steps(10)
    seen: list[tuple[int, ...]] = []
    reader = threading.Thread(target=lambda: seen.append(Run(tmp_path).steps))
    reader.start()
    reader.join()
    assert seen == [tuple(range(20))]
    training.probe.detach()
    assert Run(tmp_path).steps == tuple(range(20))


def test_steps_wait_no_longer_than_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_MOST_SECONDS", -1.0)
    training = Training(tmp_path)
    training.steps(20)
    assert training.probe._stepping.backlog.is_empty
    training.probe.detach()


def test_nothing_waits_where_the_next_step_is_not_due(tmp_path: Path) -> None:
    training = Training(tmp_path, at(2, 3, 4, 5, 20))
    training.steps(6)
    assert not training.probe._stepping.backlog.is_empty
    training.step()
    assert training.probe._stepping.backlog.is_empty
    training.probe.detach()


def test_other_instruments_in_between_wait_for_those_before(tmp_path: Path) -> None:
    often, now_and_then = GradientStatistics(every(1)), GradientHistograms(every(5))
    watching = [often, now_and_then, Imbalance(every(1))]
    training = Training(tmp_path, schedule=None, instruments=watching)
    training.steps(23)
    training.probe.detach()
    run = Run(tmp_path)
    assert set(run.scalars("gradient_norm")["step"]) == set(range(23))
    assert set(run.histogram_steps()["step"]) == set(range(0, 23, 5))


def test_parts_get_their_names_although_steps_wait(tmp_path: Path) -> None:
    seeded()
    nets = {"first": network(), "second": network()}
    optimizers = {name: torch.optim.Adam(net.parameters(), 1e-3) for name, net in nets.items()}
    with Probe(None, tmp_path, instruments=WATCHING, schedule=every(1), strict=True):
        for name, number in (("first", 20), ("second", 20), ("first", 20)):
            for _ in range(number):
                optimizers[name].zero_grad()
                residual, boundary = residual_of(nets[name], points()), boundary_of(nets[name])
                (residual + 10.0 * boundary).backward()
                optimizers[name].step()
    counts = Run(tmp_path).timeline().groupby("part").size()
    assert sorted(counts.tolist()) == [20, 40]
    assert "" not in counts.index


def test_a_large_network_is_measured_at_once(tmp_path: Path) -> None:
    net = nn.Linear(300, 1000)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    probe = Probe(net, tmp_path, instruments="light", schedule=every(1), strict=True)
    for _ in range(4):
        optimizer.zero_grad()
        y = net(torch.ones(1, 300))
        probe.backward({"data": y.square().mean(), "size": net.weight.square().mean()})
        optimizer.step()
        assert probe._stepping.backlog.is_empty
    probe.detach()


def test_functional_code_records_steps_that_wait(tmp_path: Path) -> None:
    net = network()
    names = dict(net.named_parameters())
    probe = Probe(net, tmp_path, instruments=WATCHING, schedule=at(*range(20)), strict=True)
    for step in range(22):
        gradients = {
            term: {name: torch.rand_like(p) for name, p in names.items()} for term in ("a", "b")
        }
        total = {name: gradients["a"][name] + gradients["b"][name] for name in names}
        recorded = probe.record(
            {"a": 1.0, "b": 2.0}, gradients=gradients, gradient=total, learning_rate=0.1
        )
        assert recorded == (step < 20)
        if step == 19:
            assert not probe._stepping.backlog.is_empty
    assert probe._stepping.backlog.is_empty
    probe.detach()
    assert Run(tmp_path).steps == tuple(range(20))
    assert len(Run(tmp_path).histograms()) == 20 * 4


@pytest.mark.parametrize("damage", [lambda data: b"?" + data, lambda data: data[:-1]])
def test_damaged_histograms_are_named(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.steps(10)
    training.probe.detach()
    from gradpath.probes.schema import open_for_writing

    connection = open_for_writing(tmp_path, "wal")
    found = connection.execute("SELECT step, data FROM packed_histograms").fetchall()
    for step, data in found:
        connection.execute(
            "UPDATE packed_histograms SET data = ? WHERE step = ?", (damage(data), step)
        )
    connection.close()
    with pytest.raises(ArgumentError, match="no table of histograms, or a damaged one"):
        Run(tmp_path).histograms()


def test_steps_of_two_kinds_in_turn_do_not_wait_for_ever(tmp_path: Path) -> None:
    training = Training(tmp_path)
    for number in range(40):
        training.optimizer.zero_grad()
        terms = training.terms()
        if number % 2:
            del terms["boundary"]
        training.probe.backward(terms)
        training.optimizer.step()
    assert not training.probe._stepping.backlog._may
    training.probe.detach()
    assert Run(tmp_path).steps == tuple(range(40))
