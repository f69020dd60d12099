"""Schedules decide from the step and the clock alone, and keep what they promise."""

import math

import pytest
from hypothesis import given, strategies as st

from gradpath.diagnostics.errors import ArgumentError
from gradpath.probes.schedules import (
    Clock,
    Schedule,
    any_of,
    at,
    earliest,
    every,
    log_spaced,
    within_budget,
)

UNUSED = Clock(training=0.0, measuring=0.0, next_cost=None)

SECONDS = st.floats(1e-6, 1e3)


def due(schedule: Schedule, steps: int) -> list[int]:
    return [step for step in range(steps) if schedule.due(step, UNUSED)]


@given(st.integers(1, 50), st.integers(0, 200))
def test_every_is_a_slice_of_the_steps(n: int, steps: int) -> None:
    assert due(every(n), steps) == list(range(steps))[::n]


@given(st.sets(st.integers(0, 100), min_size=1))
def test_at_is_the_given_steps(steps: set[int]) -> None:
    assert due(at(*steps), 101) == sorted(steps)


@given(st.integers(1, 40))
def test_log_spaced_are_the_rounded_powers(per_decade: int) -> None:
    powers = {round(10 ** (k / per_decade)) for k in range(3 * per_decade + 1)}
    assert due(log_spaced(per_decade), 1001) == sorted({0} | powers)


@given(st.integers(1, 20), st.integers(1, 12))
def test_log_spaced_holds_every_power_of_ten(per_decade: int, exponent: int) -> None:
    assert log_spaced(per_decade).due(10**exponent, UNUSED)


SCHEDULES = st.recursive(
    st.one_of(
        st.integers(1, 30).map(every),
        st.sets(st.integers(0, 300), min_size=1).map(lambda steps: at(*steps)),
        st.integers(1, 20).map(log_spaced),
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda some: any_of(*some)),
        inner.map(lambda one: within_budget(0.5, one)),
    ),
    max_leaves=4,
)


@given(SCHEDULES, st.integers(0, 300))
def test_nothing_is_due_before_the_earliest_step(schedule: Schedule, step: int) -> None:
    first = earliest(schedule, step)
    affordable = Clock(training=1.0, measuring=0.0, next_cost=None)
    dues = [each for each in range(step, 1001) if schedule.due(each, affordable)]
    assert dues[:1] == ([first] if first <= 1000 else [])


def test_a_schedule_of_the_users_that_tells_no_earliest_step_is_asked_at_each() -> None:
    class Fridays:
        def due(self, step: int, clock: Clock) -> bool:
            return step % 7 == 5

    assert [earliest(Fridays(), step) for step in (0, 5, 6)] == [0, 5, 6]
    assert earliest(any_of(Fridays(), every(10)), 3) == 3


def budgeted(
    fraction: float, steps: list[float], cost: float, first: float
) -> tuple[float, float, list[int]]:
    """Trains with steps of given durations; returns seconds of both kinds, and steps measured."""
    training = measuring = 0.0
    measured: list[int] = []
    for step, seconds in enumerate(steps):
        next_cost = measuring / len(measured) if measured else None
        if within_budget(fraction).due(step, Clock(training, measuring, next_cost)):
            measuring += cost if measured else first
            measured.append(step)
        training += seconds
    return training, measuring, measured


@given(st.floats(0.001, 0.999), st.lists(SECONDS, min_size=1, max_size=200), SECONDS)
def test_a_budget_is_kept_from_the_second_measurement_on(
    fraction: float, steps: list[float], cost: float
) -> None:
    training, measuring, measured = budgeted(fraction, steps, cost, cost)
    assert measured[0] == 0
    assert len(measured) == 1 or measuring <= fraction * training * (1 + 1e-9)


@given(st.floats(0.01, 0.5), SECONDS, st.integers(10, 1000))
def test_a_budget_is_used(fraction: float, cost: float, steps: int) -> None:
    step_seconds = 1.0
    training, _, measured = budgeted(fraction, [step_seconds] * steps, cost, cost)
    # Every measurement waits for its share, and for the end of the step in which that is there.
    affordable = math.floor(fraction * (training - step_seconds) / cost * (1 - 1e-9))
    assert len(measured) >= min(max(1, affordable), steps / math.ceil(cost / fraction) - 1)


@given(SECONDS, SECONDS, st.none() | SECONDS)
def test_a_smaller_budget_is_never_due_before_a_larger_one(
    training: float, measuring: float, next_cost: float | None
) -> None:
    clock = Clock(training, measuring, next_cost)
    decisions = [within_budget(share).due(0, clock) for share in (0.01, 0.1, 0.5)]
    assert decisions == sorted(decisions)


@pytest.mark.parametrize(
    "make",
    [
        lambda: every(0),
        lambda: at(),
        lambda: at(3, -1),
        lambda: log_spaced(0),
        lambda: within_budget(0.0),
        lambda: within_budget(1.0),
        lambda: within_budget(5),
        lambda: within_budget(math.nan),
    ],
)
def test_what_is_never_due_is_an_error(make: object) -> None:
    with pytest.raises(ArgumentError):
        make()  # type: ignore[operator]


def test_schedules_are_values() -> None:
    assert every(3) == every(3) != every(4)
    assert at(1, 2) == at(2, 1)
    assert len({log_spaced(2), log_spaced(2), within_budget(0.1)}) == 2
