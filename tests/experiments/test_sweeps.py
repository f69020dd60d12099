"""Sweeps lose nothing: members that fail, workers that are killed, calls that are interrupted."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from gradpath import cli
from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments.sweeps import (
    Sweep,
    SweepProgress,
    SweepResult,
    run_sweep,
    sweep_state,
)
from gradpath.probes import Run, RunWriter, StoreError, runs
from gradpath.probes.lock import WriterLock
from tests.experiments import sweep_works as works
from tests.package import ROOT


def sweep(models: str = "M1 M2", seeds: int = 2) -> Sweep:
    return Sweep("poisson", models=models.split(), complexities=[1], seeds=seeds, steps=10)


def run(folder: Path, work: Any, declared: Sweep | None = None, **options: Any) -> SweepResult:
    options = {"progress": lambda _: None} | options
    if "executor" not in options:
        options = {"workers": 2} | options
    return run_sweep(declared or sweep(), folder, work, **options)


def statuses(folder: Path) -> dict[str, str]:
    return {member.name: status for member, status in sweep_state(folder).statuses.items()}


def in_threads() -> Executor:
    return ThreadPoolExecutor(2)


def assert_complete(result: SweepResult) -> None:
    """Every member is finished, with all its steps, each once and with the right values."""
    assert [(each.status, each.error) for each in result.members] == [("finished", None)] * len(
        result.members
    )
    for each in result.members:
        losses = Run(each.folder).scalars("loss")
        assert losses["step"].tolist() == list(range(works.STEPS))
        assert losses["value"].tolist() == [
            works.loss(each.member, step) for step in range(works.STEPS)
        ]
        assert each.summary["loss"] == works.loss(each.member, works.STEPS - 1)


def test_each_member_has_a_run_of_its_own_that_says_what_it_is(tmp_path: Path) -> None:
    result = run(tmp_path / "s", works.quick)
    assert_complete(result)
    found = runs(tmp_path / "s").sort_values(["seed", "model"])
    assert found["status"].tolist() == ["finished"] * 4
    assert found[["model", "seed", "complexity", "C", "problem", "planned_steps"]].to_dict("split")[
        "data"
    ] == [[model, seed, 1, 1, "poisson", 10] for seed in (0, 1) for model in ("M1", "M2")]
    assert [Path(path).name for path in found["path"]] == [m.name for m in sweep().members]


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_any_executor_will_do_and_is_left_open(tmp_path: Path, kind: Any) -> None:
    options = {"mp_context": get_context("spawn")} if kind is ProcessPoolExecutor else {}
    with kind(2, **options) as executor:
        assert_complete(run(tmp_path / "s", works.quick, executor=executor))
        assert executor.submit(abs, -1).result() == 1


def test_a_forked_worker_does_not_hold_the_sweep(tmp_path: Path) -> None:
    script = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from gradpath.experiments.sweeps import Sweep, run_sweep
from tests.experiments import sweep_works as works
sweep = Sweep("poisson", models=["M1"], steps=10)
with ProcessPoolExecutor(1, mp_context=get_context("fork")) as executor:
    for resume in (False, True):
        run_sweep(sweep, "s", works.quick, executor=executor, resume=resume, progress=print)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=tmp_path, check=True)


def test_a_member_that_raises_is_failed_and_the_others_go_on(tmp_path: Path) -> None:
    result = run(tmp_path / "s", works.failing_m2)
    assert [each.status for each in result.members] == ["finished", "failed"] * 2
    assert len(result.finished) == len(result.failed) == 2
    for each in result.failed:
        assert each.error == "FloatingPointError: the loss is not finite"
        assert Run(each.folder).metadata["error"] == each.error
        assert "in failing_m2" in (each.folder / "traceback.txt").read_text()
        assert each.attempts == 1
    assert sorted(runs(tmp_path / "s")["status"]) == ["failed", "failed", "finished", "finished"]


def test_a_member_that_raises_before_its_run_began_has_a_failed_run(tmp_path: Path) -> None:
    result = run(tmp_path / "s", works.failing_before_its_run, executor=in_threads())
    found = runs(tmp_path / "s")
    assert dict(zip(found["path"], found["error"], strict=True)) == {
        str(each.folder): each.error for each in result.members
    }
    assert result.members[2].error == "RuntimeError: no data for seed 1"


def test_a_training_that_fails_its_run_and_returns_is_failed_with_its_summary(
    tmp_path: Path,
) -> None:
    result = run(tmp_path / "s", works.diverging, executor=in_threads())
    for each in result.members:
        assert (each.status, each.error) == ("failed", "The loss is infinite.")
        assert each.summary["outcome"] == "diverged"
        assert math.isnan(each.summary["error"])
        assert not (each.folder / "traceback.txt").exists()


def test_work_that_writes_no_run_gets_one_and_one_left_open_is_an_error(tmp_path: Path) -> None:
    written = run(tmp_path / "a", works.writing_no_run, executor=in_threads())
    assert [each.summary for each in written.finished] == [{"seed": n} for n in (0, 0, 1, 1)]
    assert set(runs(tmp_path / "a")["status"]) == {"finished"}

    left = run(tmp_path / "b", works.leaving_its_run_open, executor=in_threads())
    assert all("left its run running" in str(each.error) for each in left.members)
    while works.kept:
        works.kept.pop().finish()


def test_resume_leaves_finished_members_alone_and_tries_failed_ones_again(tmp_path: Path) -> None:
    run(tmp_path / "s", works.failing_m2, executor=in_threads())
    finished = [tmp_path / "s" / m.name for m in sweep().members if m.model == "M1"]
    before = [(folder / "run.json").stat().st_mtime_ns for folder in finished]

    result = run(tmp_path / "s", works.quick, executor=in_threads(), resume=True)
    assert_complete(result)
    assert [(folder / "run.json").stat().st_mtime_ns for folder in finished] == before
    assert [each.attempts for each in result.members] == [0, 1, 0, 1]
    assert [each.summary["resumed"] for each in result.members] == [False, True, False, True]
    assert not list((tmp_path / "s").glob("*/traceback.txt"))


def test_resume_begins_a_sweep_that_is_not_there(tmp_path: Path) -> None:
    assert_complete(run(tmp_path / "s", works.quick, executor=in_threads(), resume=True))


def test_a_folder_belongs_to_one_sweep(tmp_path: Path) -> None:
    run(tmp_path / "s", works.quick, executor=in_threads())
    with pytest.raises(StoreError, match="already; give another folder, or `resume=True`"):
        run(tmp_path / "s", works.quick)
    with pytest.raises(StoreError, match=r"seeds was \[0, 1\] and is \[0, 1, 2\]"):
        run(tmp_path / "s", works.quick, sweep(seeds=3), resume=True)
    with pytest.raises(StoreError, match="There is no sweep in"):
        sweep_state(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(StoreError, match=r"holds other files \(thesis.tex\)"):
        run(tmp_path / "other", works.quick)
    (tmp_path / "s" / "sweep.json").write_text("{")
    with pytest.raises(StoreError, match=r"sweep.json is damaged"):
        sweep_state(tmp_path / "s")


def test_two_processes_do_not_work_on_one_sweep(tmp_path: Path) -> None:
    lock = WriterLock(tmp_path)
    with pytest.raises(StoreError, match="Another process is working on the sweep"):
        run(tmp_path, works.quick, resume=True)
    lock.release()


def test_a_member_that_somebody_still_trains_is_left_alone(tmp_path: Path) -> None:
    """As after Ctrl-C in the program that sent it to a cluster."""
    run(tmp_path / "s", works.failing_m2, sweep(seeds=1), executor=in_threads())
    left = tmp_path / "s" / sweep().members[1].name
    with RunWriter(left, resume=True):
        result = run(
            tmp_path / "s", works.quick, sweep(seeds=1), executor=in_threads(), resume=True
        )
        assert [each.status for each in result.members] == ["finished", "running"]
        assert "Another process is still training poisson_C=1_M2" in str(result.failed[0].error)
    assert statuses(tmp_path / "s")[left.name] == "finished"
    assert Run(left).steps == (0,)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"work": lambda member: {}}, r"called as work\(member, folder, resume=...\)"),
        ({"work": lambda member, folder, *, resume: {}}, "top level of a module"),
        ({"workers": 0}, "0 workers cannot work"),
        ({"retries": -1}, "`retries` is -1"),
        ({"executor": in_threads(), "workers": 2}, "one of `executor`, `workers`"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_sentence(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ArgumentError, match=sentence):
        run_sweep(sweep(), tmp_path / "s", **{"work": works.quick, **options})


def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    result = run(tmp_path / "s", works.killed_once)
    assert_complete(result)
    assert [each.attempts for each in result.members] == [1, 2, 1, 2]
    for each in result.members:
        resumed = [f"after step {works.STEPS // 2}"] if each.attempts == 2 else []
        events = Run(each.folder).events()
        assert events[events["kind"] == "continued"]["text"].tolist() == resumed


def test_a_member_that_always_loses_its_worker_fails_alone(tmp_path: Path) -> None:
    result = run(tmp_path / "s", works.killed_always, sweep(seeds=1))
    finished, failed = result.members
    assert finished.status == "finished"
    assert (failed.status, failed.attempts) == ("failed", 2)
    assert failed.error == (
        "The member lost its worker in each of 2 attempts. The worker process was killed by"
        " SIGKILL, which the system does when memory runs out."
    )
    assert Run(failed.folder).metadata["error"] == failed.error


def test_a_pool_that_breaks_leaves_what_can_be_resumed(tmp_path: Path) -> None:
    """The standard library's gives up everything; what did not run is not called failed."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        broken = run(tmp_path / "s", works.killed_once, sweep(seeds=1), executor=executor)
    assert [each.status for each in broken.members] == ["finished", "lost"]
    assert "takes no more work" in str(broken.failed[0].error)
    assert_complete(run(tmp_path / "s", works.quick, sweep(seeds=1), resume=True))


def test_ctrl_c_leaves_a_sweep_that_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    members = [folder / member.name for member in sweep().members]
    recorded = lambda: all((each / "run.json").exists() for each in members[:2])  # noqa: E731
    thread = works.interrupt_when(recorded)
    with pytest.raises(KeyboardInterrupt):
        run(folder, works.slow)
    thread.join()
    # Cut short, and not failed: nothing was wrong with them.
    assert list(statuses(folder).values()) == ["lost", "lost", "waiting", "waiting"]
    assert sweep_state(folder).waiting == sweep().members[2:]
    assert sorted(runs(folder)["status"]) == ["lost", "lost"]
    assert_complete(run(folder, works.quick, resume=True))


def kill_alone(process: subprocess.Popen[bytes]) -> None:
    process.kill()


def press_ctrl_c(process: subprocess.Popen[bytes]) -> None:
    """A terminal sends it to every process of the program, workers included."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize("end", [kill_alone, press_ctrl_c])
def test_a_program_that_is_ended_takes_its_workers_along_and_the_sweep_goes_on(
    tmp_path: Path, end: Any
) -> None:
    folder = tmp_path / "s"
    (tmp_path / "main.py").write_text(f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from gradpath.experiments.sweeps import Sweep, run_sweep
from tests.experiments import sweep_works as works
if __name__ == "__main__":
    sweep = Sweep("poisson", models=["M1", "M2"], complexities=[1], seeds=2, steps=10)
    run_sweep(sweep, "s", works.slow, workers=2, progress=print)
""")
    process = subprocess.Popen(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    first = [folder / member.name for member in sweep().members[:2]]
    works.wait_until(lambda: all((each / "run.json").exists() for each in first))
    pids = [json.loads((each / "run.json").read_text())["pid"] for each in first]
    assert process.pid not in pids
    end(process)
    process.wait(10)
    works.wait_until(lambda: list(statuses(folder).values())[:2] == ["lost", "lost"])
    assert_complete(run(folder, works.quick, resume=True))


def test_the_workers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradpath.experiments.slots.available_cores", lambda: 8)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    shared = run(tmp_path / "a", works.environment_of_the_worker)
    assert all(each.summary["threads"] == ["4"] for each in shared.members)
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    own = run(tmp_path / "b", works.environment_of_the_worker, sweep(seeds=1))
    # What the others would take from it if they were not set.
    assert all(each.summary["threads"] == ["3"] for each in own.members)


def test_the_command_line_says_what_is_done_and_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(tmp_path / "s", works.failing_m2, executor=in_threads())
    shutil.rmtree(result.finished[0].folder)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "sweep.json").write_text("{")
    assert cli.main(["runs", str(tmp_path)]) == 0
    *_, sweep_line, damaged = capsys.readouterr().out.splitlines()
    assert sweep_line == f"Sweep {tmp_path / 's'}: 1 of 4 done, 0 running, 2 failed, 1 left."
    assert "sweep.json" in damaged


def test_progress_adds_up_and_ends_with_everything_done(tmp_path: Path) -> None:
    told: list[SweepProgress] = []
    run(tmp_path / "s", works.failing_m2, executor=in_threads(), progress=told.append)
    assert {each.total for each in told} == {4}
    assert (told[0].done, told[0].left, told[0].seconds_left) == (0, 4, None)
    latest = [each.latest for each in told if each.latest is not None]
    assert {each.member for each in latest} == set(sweep().members)
    assert replace(told[-1], latest=None, elapsed=0) == SweepProgress(2, 0, 2, 0, 0, 0.0, None)


def test_members_that_run_are_seen(tmp_path: Path) -> None:
    told: list[SweepProgress] = []
    run(tmp_path / "s", works.unhurried, executor=in_threads(), progress=told.append)
    assert max(each.running for each in told) == 2
    halfway = next(each for each in told if each.done == 2)
    assert halfway.seconds_left == pytest.approx(halfway.elapsed)


def test_a_sweep_is_shown_as_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path / "s", works.failing_m2, sweep(seeds=1), executor=in_threads(), progress=None)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert len(lines) == 2
    assert lines[0].startswith("1/2  poisson_C=1_M")
    assert any("M2_steps=10_seed=0 failed: FloatingPointError: the loss" in line for line in lines)
    assert "about 0 s left" in lines[1]


def test_an_error_of_the_callback_ends_the_sweep_and_its_workers(tmp_path: Path) -> None:
    def fail(progress: SweepProgress) -> None:
        if progress.latest is not None:
            raise LookupError("the callback's own")

    with pytest.raises(LookupError):
        run(tmp_path / "s", works.quick, progress=fail)
    assert not [thread for thread in threading.enumerate() if "gradpath-slot" in thread.name]
    assert_complete(run(tmp_path / "s", works.quick, resume=True))


def test_signals_are_as_before(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run(tmp_path / "s", works.quick, sweep(seeds=1))
    assert signal.getsignal(signal.SIGINT) is before
