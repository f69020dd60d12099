"""Steps that wait to be measured are in the run, whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from gradpath.probes import (
    Probe,
    ProbeWarning,
    Run,
    RunWriter,
    StoreError,
    backlog,
    stretches,
    waiting,
)
from gradpath.probes.instruments import Imbalance
from gradpath.probes.lock import WAITING, WriterLock, completing
from gradpath.probes.schedules import every
from tests.package import ROOT
from tests.probes.loops import network
from tests.probes.waiting_loops import (
    WATCHING,
    Training,
)


def lost(folder: Path, steps: int = 20) -> Path:
    """A copy of a run whose last steps wait, as a kill would leave it."""
    training = Training(folder / "living")
    training.steps(steps)
    copy = folder / "lost"
    shutil.copytree(folder / "living", copy)
    training.probe.detach()
    assert (copy / WAITING).stat().st_size > 0
    return copy


def test_who_reads_a_lost_run_completes_it(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    run = Run(folder)
    assert run.status == "lost"
    living = Run(tmp_path / "living")
    assert run.steps == living.steps == tuple(range(20))
    for found, expected in (
        (run.scalars(), living.scalars()),
        (run.timeline(), living.timeline()),
        (run.histogram_steps(), living.histogram_steps()),
    ):
        pd.testing.assert_frame_equal(found, expected)
    assert {path.name for path in folder.iterdir()} == {"run.db", "run.json", "run.lock"}


def test_who_may_not_write_reads_it_complete(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    program = "import sys; from gradpath.probes import Run; print(*Run(sys.argv[1]).steps)"
    for path in (folder, *folder.iterdir()):
        path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH | path.stat().st_mode & 0o111)
    try:
        result = subprocess.run(
            [*_as_nobody(), sys.executable, "-c", program, folder],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
    finally:
        folder.chmod(0o755)
    assert result.stdout.split() == [str(step) for step in range(20)], result.stderr
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after[WAITING] == before[WAITING]
    assert after["run.db"] == before["run.db"]


def _as_nobody() -> list[str]:
    """Root may write everywhere; without its powers it may not."""
    if os.getuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("this process may write everywhere, and there is no setpriv")
    return [setpriv, "--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs"]


def test_who_resumes_a_lost_run_completes_it(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    RunWriter(folder, resume=True).finish()
    assert not (folder / WAITING).exists()
    assert Run(folder).steps == tuple(range(20))


def test_a_resumed_training_replaces_steps_that_waited(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    again = Training(folder, resume=True)
    assert Run(folder).steps == tuple(range(20))
    again.probe._stepping.registry.of_model().step = 15  # as an optimizer's state would say
    again.steps(7)
    again.probe.detach()
    run = Run(folder)
    assert run.steps == tuple(range(22))
    assert "Resumed at step 15, which replaced 5 steps" in run.events()["text"].iloc[-1]
    assert len(run.histograms(step=16)) == 4


@pytest.mark.parametrize("cut", [1, 8, 9, 100, 700, 3000])
def test_a_slot_that_was_cut_short_does_not_count(cut: int, tmp_path: Path) -> None:
    folder = lost(tmp_path)
    data = (folder / WAITING).read_bytes()
    kind, stretch = waiting.read_waiting(folder) or pytest.fail("nothing waits")
    slot = kind.numbers.size + kind.gradient_bytes + 8
    begin = 24 + int.from_bytes(data[16:24], "little")  # of the slots that wait, then old ones
    end = begin + len(stretch.stamps) * slot
    (folder / WAITING).write_bytes(data[: end - cut])
    gone = min(len(stretch.stamps), -(-cut // slot))
    assert Run(folder).steps == tuple(range(20 - gone))


@pytest.mark.parametrize("length", [0, 5, 16, 20, 100])
def test_a_file_that_was_just_begun_holds_nothing(length: int, tmp_path: Path) -> None:
    folder = lost(tmp_path)
    recorded = 20 - len((waiting.read_waiting(folder) or pytest.fail("nothing"))[1].stamps)
    (folder / WAITING).write_bytes((folder / WAITING).read_bytes()[:length])
    assert Run(folder).steps == tuple(range(recorded))


def test_steps_that_are_in_the_database_already_do_not_count_twice(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    data = (folder / WAITING).read_bytes()
    assert Run(folder).steps == tuple(range(20))
    (folder / WAITING).write_bytes(data)  # killed before it was cleared
    assert Run(folder).steps == tuple(range(20))
    assert not (folder / WAITING).exists()


def test_a_newer_version_is_named(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    data = (folder / WAITING).read_bytes()
    (folder / WAITING).write_bytes(data.replace(b"steps 1", b"steps 2", 1))
    with pytest.raises(StoreError, match="newer gradpath, whose last steps wait"):
        Run(folder)


def test_a_full_disk_ends_the_recording_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path, strict=False)
    training.steps(12)  # of which the last waits

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.warns(ProbeWarning, match="is full: make room there"):
        training.steps(3)
    monkeypatch.undo()
    assert training.probe.last_recorded == 11
    training.probe.detach()
    assert set(range(12)) <= set(Run(tmp_path).steps)


def test_an_instrument_that_fails_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Imbalance, stretch: object) -> None:
        raise ZeroDivisionError("so it goes")

    training = Training(tmp_path, strict=False)
    training.steps(5)
    monkeypatch.setattr(Imbalance, "measure_stretch", fail)

    def go_on() -> None:
        training.steps(7)
        training.probe.detach()

    with pytest.warns(ProbeWarning, match="imbalance failed and is switched off"):
        go_on()
    run = Run(tmp_path)
    assert run.steps == tuple(range(12))
    assert set(run.scalars("gradient_norm")["step"]) == set(range(12))


def test_a_fork_leaves_what_waits_to_the_parent(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.steps(10)
    child = os.fork()
    if child == 0:
        training.steps(3)
        os._exit(0)
    os.waitpid(child, 0)
    training.steps(5)
    training.probe.detach()
    assert Run(tmp_path).steps == tuple(range(15))


def test_the_end_of_a_fork_leaves_the_file_to_the_parent(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.steps(12)
    training.probe._stepping.backlog.settle()
    assert (tmp_path / WAITING).exists()
    child = os.fork()
    if child == 0:
        training.probe.detach()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / WAITING).exists()
    training.steps(5)
    shutil.copytree(tmp_path, tmp_path.parent / "copy")
    assert Run(tmp_path.parent / "copy").steps == tuple(range(17))
    training.probe.detach()


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_while_steps_are_measured_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path)

    def train() -> None:
        with training.probe:
            training.steps(45)
            monkeypatch.setattr(backlog, "measure", interrupted)
            training.steps(45)

    with pytest.raises(KeyboardInterrupt):
        train()
    monkeypatch.undo()
    run = Run(tmp_path)
    assert run.status == "failed"
    assert training.probe.last_recorded is not None
    assert set(range(training.probe.last_recorded + 1)) <= set(run.steps)


def test_an_error_of_a_strict_probe_loses_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Imbalance, stretch: object) -> None:
        raise ZeroDivisionError("so it goes")

    training = Training(tmp_path)
    training.steps(12)
    monkeypatch.setattr(Imbalance, "measure_stretch", fail)
    with pytest.raises(ZeroDivisionError):
        training.probe.detach()
    training.probe._recorder.end("failed")
    monkeypatch.undo()
    assert Run(tmp_path).steps == tuple(range(12))


def test_who_reads_in_another_thread_waits_for_what_is_being_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path)
    training.steps(20)
    begun, may_go_on = threading.Event(), threading.Event()
    measure = stretches.measure

    def slow(*arguments: Any) -> Any:
        begun.set()
        assert may_go_on.wait(30)
        return measure(*arguments)

    monkeypatch.setattr(backlog, "measure", slow)
    seen: list[int] = []
    readers = [
        threading.Thread(target=lambda: seen.append(len(Run(tmp_path).steps))) for _ in range(2)
    ]
    readers[0].start()
    assert begun.wait(30)
    readers[1].start()
    readers[1].join(0.2)
    may_go_on.set()
    for reader in readers:
        reader.join()
    assert seen == [20, 20]
    training.probe.detach()


def test_a_folder_is_the_same_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    training = Training(Path("run"))
    (tmp_path / "link").symlink_to(tmp_path / "run")
    monkeypatch.chdir("/")
    for path in (tmp_path / "run", tmp_path / "link", tmp_path / "link" / ".." / "run"):
        training.steps(10)
        assert Run(path).steps == tuple(range(training.probe.step))
    training.probe.detach()


def test_a_fork_does_not_wait_for_a_thread_that_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path)
    training.steps(20)
    waiting_steps = training.probe._stepping.backlog
    held, may_go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with waiting_steps._turn:
            held.set()
            may_go_on.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    child = os.fork()
    if child == 0:
        training.steps(3)
        training.probe.detach()
        os._exit(0)
    try:
        assert _ended(child), "the child hangs"
    finally:
        may_go_on.set()
        holder.join()
    training.probe.detach()
    assert Run(tmp_path).steps == tuple(range(20))


def _ended(child: int) -> bool:
    for _ in range(300):
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def test_a_writer_waits_for_a_reader_that_completes_the_run(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    begun, may_end = threading.Event(), threading.Event()

    def complete_slowly() -> None:
        with completing(folder):
            lock = WriterLock(folder)
            begun.set()
            may_end.wait(30)
            lock.release()

    reader = threading.Thread(target=complete_slowly)
    reader.start()
    assert begun.wait(30)
    assert Run(folder).status == "lost"  # from a copy in memory
    assert Run(folder).steps == tuple(range(20))
    assert reader.is_alive()
    threading.Timer(1.0, may_end.set).start()
    RunWriter(folder, resume=True).finish()
    reader.join()
    assert Run(folder).steps == tuple(range(20))


def test_readers_that_come_at_once_see_all(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    seen: list[tuple[str, int]] = []

    def read() -> None:
        run = Run(folder)
        seen.append((run.status, len(run.steps)))

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert seen == [("lost", 20)] * 4
    assert not (folder / WAITING).exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    folder = lost(tmp_path)
    data = bytearray((folder / WAITING).read_bytes())
    data[30:34] = bytes(4)
    (folder / WAITING).write_bytes(data)
    for open_it in (lambda: Run(folder), lambda: RunWriter(folder, resume=True)):
        with pytest.raises(StoreError, match=r"its run\.waiting is damaged"):
            open_it()
    (folder / WAITING).unlink()
    assert len(Run(folder).steps) > 5


def test_a_step_that_is_there_already_is_named(tmp_path: Path) -> None:
    net = network()
    probe = Probe(net, tmp_path, instruments=WATCHING, schedule=every(1))
    gradient = {"a": {name: torch.ones_like(p) for name, p in net.named_parameters()}}

    def record() -> None:
        for step in (20, *range(100)):
            probe.record(
                {"a": 1.0}, step=step, gradients=gradient, gradient=gradient["a"], learning_rate=0.1
            )

    with pytest.warns(ProbeWarning, match="Step 20 is recorded already"):
        record()
    probe.detach()
    assert set(range(21)) <= set(Run(tmp_path).steps)


def test_what_was_committed_before_a_part_got_its_name_is_not_there_twice(tmp_path: Path) -> None:
    training = Training(tmp_path / "living")
    training.steps(20)
    training.probe._recorder.rename_part("", "named")
    copy = tmp_path / "lost"
    shutil.copytree(tmp_path / "living", copy)
    training.probe.detach()
    assert (copy / WAITING).exists()
    assert Run(copy).parts == ("named",)
    assert len(Run(copy).timeline()) == 20


def test_a_slot_that_could_not_be_written_leaves_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(tmp_path / "living")
    training.steps(16)  # of which the last two wait
    file = training.probe._stepping.backlog._file
    assert file is not None
    write = os.write

    def half(to: int, data: memoryview) -> int:
        write(to, data[:100])
        raise OSError(28, "No space left on device")

    step = file.steps[-1]
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(StoreError, match="is full"):
            file.append(step._replace(stamp=step.stamp._replace(step=16)), file.gradients[0])
    training.steps(2)
    shutil.copytree(tmp_path / "living", tmp_path / "lost")
    training.probe.detach()
    assert Run(tmp_path / "lost").steps == tuple(range(18))


def test_what_cannot_be_measured_later_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Imbalance, stretch: object) -> None:
        raise ZeroDivisionError("so it goes")

    folder = lost(tmp_path)
    monkeypatch.setattr(Imbalance, "measure_stretch", fail)
    run = Run(folder)
    assert run.steps == tuple(range(20))
    assert "imbalance failed (ZeroDivisionError: so it goes)" in run.events()["text"].iloc[-1]
