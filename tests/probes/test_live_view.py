"""What a live view shows is what is in the run; what is not there is missing, never zero."""

import math
from pathlib import Path

import pytest

from gradpath.diagnostics.lanczos import Eigenvalue
from gradpath.probes import Cost, EigenvalueRecord, Event, Finding, Run, RunWriter, Scalar
from gradpath.probes.live_view import LiveView, live_view
from gradpath.probes.records import Record


def view_of(folder: Path, *steps: list[Record], part: str = "") -> LiveView:
    with RunWriter(folder) as writer:
        for step, records in enumerate(steps):
            writer.record(10 * step, records, part=part)
    return live_view(Run(folder))


def eigenvalue(value: float, end: str = "largest", name: str = "hessian") -> EigenvalueRecord:
    return EigenvalueRecord(
        Eigenvalue(value, value - 5, value + 5, 0.1, True, "Converged.", 9), end, name=name
    )


def test_of_a_run_without_a_step_everything_is_missing(tmp_path: Path) -> None:
    view = view_of(tmp_path)
    assert view == LiveView(
        folder=str(tmp_path),
        status="finished",
        error=None,
        step=None,
        elapsed=None,
        steps_per_second=None,
        probe_share=None,
        learning_rates={},
        alignment=None,
        terms=(),
        sharpness=(),
        findings=(),
        events=(),
    )


def test_terms_have_what_was_recorded_last_and_the_sum_comes_below(tmp_path: Path) -> None:
    view = view_of(
        tmp_path,
        [
            Scalar("loss", 5.0, "total"),
            Scalar("loss", 4.0, "residual"),
            Scalar("weight", 1.0, "residual"),
        ],
        [
            Scalar("loss", math.inf, "total"),
            Scalar("loss", 3.0, "residual"),
            Scalar("weight", 2.0, "residual"),
            Scalar("gradient_norm", 7.0, "residual", "net.0"),
            Scalar("gradient_norm", 9.0, "residual", "all"),
            Scalar("max_to_mean", 120.0, "boundary", "all"),
            Scalar("loss", 0.5, "residual", batch="fixed"),
        ],
    )
    residual, boundary, total = view.terms
    assert [residual.term, boundary.term, total.term] == ["residual", "boundary", "total"]
    assert residual.losses == (4.0, 3.0)
    assert (residual.weight, residual.gradient_norm, residual.max_to_mean) == (2.0, 9.0, None)
    assert (boundary.losses, boundary.max_to_mean) == ((), 120.0)
    assert (total.losses, total.weight) == ((5.0, math.inf), None)


def test_parts_are_told_apart(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        for part, loss in (("generator", 1.0), ("critic", 2.0)):
            records: list[Record] = [
                Scalar("loss", loss, "total"),
                Scalar("learning_rate", loss / 10),
                Scalar("stability_limit", 100 * loss),
                eigenvalue(150.0),
            ]
            writer.record(0, records, part=part)
    view = live_view(Run(tmp_path))
    assert [(term.part, term.losses) for term in view.terms] == [
        ("critic", (2.0,)),
        ("generator", (1.0,)),
    ]
    assert view.learning_rates == {"generator": 0.1, "critic": 0.2}
    assert {found.part: found.standing for found in view.sharpness} == {
        "generator": "above",
        "critic": "below",
    }


@pytest.mark.parametrize(
    ("limit", "standing"),
    [(106.0, "below"), (103.0, "around"), (94.0, "above"), (math.nan, ""), (None, "")],
)
def test_sharpness_is_held_against_the_limit_with_its_interval(
    limit: float | None, standing: str, tmp_path: Path
) -> None:
    records: list[Record] = [eigenvalue(100.0), eigenvalue(-100.0, "smallest")]
    if limit is not None:
        records.append(Scalar("stability_limit", limit))
    (found,) = view_of(tmp_path, [eigenvalue(1.0)], records).sharpness
    assert (found.step, found.value, found.lower, found.upper) == (10, 100.0, 95.0, 105.0)
    assert found.standing == standing


def test_each_operator_has_a_limit_of_its_own(tmp_path: Path) -> None:
    view = view_of(
        tmp_path,
        [
            eigenvalue(100.0),
            eigenvalue(200.0, name="preconditioned_hessian"),
            Scalar("preconditioned_stability_limit", 38.0),
        ],
    )
    assert [(found.operator, found.limit) for found in view.sharpness] == [
        ("hessian", None),
        ("preconditioned_hessian", 38.0),
    ]


def test_speed_and_share_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunWriter, "elapsed", property(lambda writer: next(clock)))
    clock = iter([10.0, 130.0, 140.0])
    view = view_of(tmp_path, [Cost("histograms", 1.0)], [Cost("stiffness", 6.0)], [])
    assert (view.step, view.elapsed) == (20, 140.0)
    assert view.steps_per_second == 1.0  # of the last minute: ten steps in ten seconds
    assert view.probe_share == 7.0 / 140.0


def test_events_and_findings_in_their_order(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.note(Event("told", "first"))
        writer.record(3, [Event("missing", "second", "stiffness"), Finding("GP101", "note", "x")])
        writer.fail("OSError: no room")
    view = live_view(Run(tmp_path))
    assert [(e.step, e.kind, e.text, e.source) for e in view.events] == [
        (None, "told", "first", ""),
        (3, "missing", "second", "stiffness"),
    ]
    assert view.findings[0].code == "GP101"  # then what the diagnosis finds
    assert (view.status, view.error) == ("failed", "OSError: no room")


def test_a_first_step_from_before_the_run_is_part_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunWriter, "elapsed", property(lambda writer: next(clock)))
    clock = iter([0.5, 3.0])
    view = view_of(tmp_path, [Cost("stiffness", 1.5)], [Cost("stiffness", 0.5)])
    assert view.probe_share == 2.0 / 4.0
