"""The bench decides what is due, and keeps measurements within their budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from gradpath.diagnostics import ArgumentError
from gradpath.probes import Record, Snapshot
from gradpath.probes.bench import Bench
from gradpath.probes.schedules import Schedule, any_of, at, every, log_spaced, within_budget


@dataclass
class Named:
    name: str
    schedule: Schedule

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        yield from ()


@dataclass
class Clock:
    training: float = 0.0
    measuring: float = 0.0


def bench_with(*instruments: Named, schedule: Schedule | None = None) -> tuple[Bench, Clock]:
    bench = Bench(list(instruments), schedule, strict=True)
    clock: Any = Clock()
    bench.timer = clock
    return bench, clock


def test_each_instrument_is_due_by_its_own_schedule() -> None:
    bench, _ = bench_with(Named("a", every(2)), Named("b", any_of(at(3), every(4))))
    due = [[one.name for one in bench.due("", step)] for step in range(5)]
    assert due == [["a", "b"], [], ["a"], ["b"], ["a", "b"]]


def test_a_schedule_for_all_takes_the_place_of_their_own() -> None:
    bench, _ = bench_with(Named("a", every(2)), Named("b", every(3)), schedule=at(1))
    assert [len(bench.due("", step)) for step in range(4)] == [0, 2, 0, 0]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3])
def test_measurements_stay_within_their_share_but_for_the_first(share: float) -> None:
    bench, clock = bench_with(
        Named("a", every(1)), Named("b", every(1)), schedule=within_budget(share)
    )
    spent, times = 0.0, 0
    for step in range(5000):
        due = bench.due("", step)
        if due:
            bench.count("", due)
            times += 1
            for one in due:
                bench.charge("", [one], 0.2 if times == 1 else 0.02)
                spent += 0.0 if times == 1 else 0.02
        assert spent <= share * clock.training + 1e-9
        clock.training += 0.01
    assert times > 1
    assert spent > 0.5 * share * clock.training  # and the share is used


def test_a_budget_chooses_among_the_steps_of_another_schedule() -> None:
    bench, clock = bench_with(Named("a", within_budget(0.5, log_spaced(1))))
    clock.training = 1000.0
    assert [step for step in range(101) if bench.due("", step)] == [0, 1, 10, 100]


@dataclass
class OfLosses(Named):
    reads: Literal["losses"] = "losses"


def test_losses_are_recorded_wherever_others_measure_and_pay_where_they_are_alone() -> None:
    losses = OfLosses("losses", within_budget(0.1, every(1)))
    bench, clock = bench_with(Named("gradients", every(10)), losses)
    steps = []
    for step in range(100):
        due = bench.due("", step)
        steps += [step] if losses in due else []
        if due:
            bench.count("", due)
            bench.charge("", due, 100.0 if len(due) > 1 else 0.1)
        clock.training += 0.1
    alone = [step for step in steps if step % 10]
    assert set(range(0, 100, 10)) <= set(steps)
    assert 0.1 * len(alone) == pytest.approx(0.1 * clock.training, rel=0.2)


def test_losses_without_a_budget_are_recorded_when_their_schedule_says() -> None:
    bench, _ = bench_with(Named("gradients", every(2)), OfLosses("losses", every(3)))
    due = [[one.name for one in bench.due("", step)] for step in range(4)]
    assert due == [["gradients", "losses"], [], ["gradients"], ["losses"]]


def test_parts_have_budgets_of_their_own() -> None:
    bench, clock = bench_with(Named("a", within_budget(0.1)))
    clock.training = 1.0
    for part, cost in (("generator", 5.0), ("discriminator", 0.001)):
        for step in (0, 1):
            if due := bench.due(part, step):
                bench.count(part, due)
                bench.charge(part, due, cost)
    assert not bench.due("generator", 2)
    assert bench.due("discriminator", 2)


def test_two_instruments_of_one_name_are_refused() -> None:
    with pytest.raises(ArgumentError, match="'a'"):
        bench_with(Named("a", every(1)), Named("a", every(2)))
