"""A run's findings: what was recorded, then what its diagnosis finds, nothing twice."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from gradpath.probes import Event, Field, Finding, Run, RunWriter, Scalar
from gradpath.probes.evidence import measurements
from gradpath.probes.records import Record

SEEN = Finding("GP401", "fail", "The loss term weak became nan at step 3.", {"step": 3})


def imbalanced(weak: str = "weak", strong: str = "strong") -> list[Record]:
    return [
        *(Scalar("loss", 1.0, term) for term in (weak, strong, "total")),
        *(Scalar("weight", 1.0, term) for term in (weak, strong)),
        Scalar("gradient_norm", 1.0, weak, "all"),
        Scalar("gradient_norm", 100.0, strong, "all"),
    ]


def written(folder: Path, *steps: Sequence[Record], part: str = "") -> Run:
    with RunWriter(folder) as writer:
        for step, records in enumerate(steps):
            writer.record(step, records, part=part)
    return Run(folder)


def test_recorded_findings_come_first_and_none_comes_twice(tmp_path: Path) -> None:
    run = written(tmp_path, imbalanced(), imbalanced(), imbalanced(), [*imbalanced(), SEEN])
    assert [each.code for each in run.findings] == ["GP401", "GP101"]
    assert run.recorded_findings() == (SEEN,)
    assert run.findings[0] == SEEN
    # The diagnosis has both, the gravest first, and looks at nothing from the bad step on.
    found = run.diagnosis()
    assert [each.code for each in found.findings] == ["GP401", "GP101"]
    assert found.findings[1].evidence["steps"][1] == 2


def test_a_recorded_finding_of_one_part_is_said_once(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        for step in range(3):
            writer.record(step, imbalanced(), part="generator")
            writer.record(step, [Scalar("loss", 1.0, "real")], part="critic")
        writer.record(3, [SEEN], part="generator")
    found = Run(tmp_path).findings
    assert [each.code for each in found] == ["GP401", "GP101"]
    assert found[1].evidence["part"] == "generator"
    assert found[1].verdict.startswith("generator: ")


def test_terms_and_records_belong_to_their_part(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.record(0, [*imbalanced(), Event("missing", "Nothing.", "x")], part="generator")
        writer.record(0, [Scalar("loss", 1.0, "real")], part="critic")
    run = Run(tmp_path)
    generator, critic = (measurements(run, part) for part in ("generator", "critic"))
    assert (generator.terms, critic.terms) == (("weak", "strong"), ("real",))
    assert (len(generator.events), len(critic.events)) == (1, 0)
    assert critic.of_network("gradient_norm").empty


def test_of_two_batches_the_one_with_more_measurements_counts(tmp_path: Path) -> None:
    fixed = [Scalar("gradient_norm", 5.0, "a", "all", batch="fixed")]
    run = written(tmp_path, fixed, [*fixed, Scalar("gradient_norm", 9.0, "a", "all")])
    seen = measurements(run)
    assert seen.batch("gradient_norm") == "fixed"
    assert seen.of_term("gradient_norm", "a").tolist() == [5.0, 5.0]


def test_of_fields_the_last_is_read(tmp_path: Path) -> None:
    grid = np.linspace(0, 1, 3)
    run = written(tmp_path, *([Field("error", np.full(3, float(k)), grid)] for k in range(5)))
    assert run.field_steps("error") == (0, 1, 2, 3, 4)
    assert run.field_steps("other") == ()
    seen = measurements(run)
    assert seen.last_fields("error")["step"].tolist() == [4]
    assert seen.before(4).last_fields("error")["step"].tolist() == [3]


def test_an_empty_run_has_a_diagnosis(tmp_path: Path) -> None:
    found = written(tmp_path).diagnosis()
    assert found.findings == ()
    assert {each.status for each in found.checks} <= {"ok", "not measured"}


def test_a_diagnosis_can_be_taken_while_the_run_is_written(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    for step in range(3):
        writer.record(step, imbalanced())
    assert [each.code for each in Run(tmp_path).findings] == ["GP101"]
    writer.finish()


@pytest.mark.parametrize("weak", ["$x$", "<script>", "a'\"; DROP", "\u202eabc", "x" * 10_000])
def test_terms_of_any_name_are_told_apart(tmp_path: Path, weak: str) -> None:
    run = written(tmp_path, *(imbalanced(weak) for _ in range(3)))
    (found,) = run.findings
    assert found.evidence["term"] == weak
    assert len(found.verdict) < 500


def test_a_diagnosis_loads_no_pytorch(tmp_path: Path) -> None:
    written(tmp_path, imbalanced())
    code = (
        "import sys; from gradpath.probes.store import Run\n"
        f"Run({str(tmp_path)!r}).findings\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
