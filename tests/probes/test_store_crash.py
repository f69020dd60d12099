"""A run survives whatever ends or disturbs its writer; with real processes."""

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gradpath.probes import Event, Run, RunWriter, Scalar, StoreError
from gradpath.probes.lock import has_writer
from gradpath.probes.run_writer import _connections_of_the_parent
from tests.package import ROOT
from tests.probes.writing_process import HISTOGRAMS, PACKED, SCALARS, records

WRITING = ROOT / "tests" / "probes" / "writing_process.py"
PER_STEP = {
    **{"scalars": SCALARS, "packed_scalars": 1, "histograms": HISTOGRAMS},
    **{"fields": 1, "costs": 1, "events": 1},
}


def start(folder: Path, first: int = 0) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, WRITING, folder, str(first)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def kill(process: subprocess.Popen[str]) -> list[int]:
    """Returns the steps that the process had seen committed."""
    assert process.poll() is None, "the process ended before it was killed"
    process.send_signal(signal.SIGKILL)
    output, _ = process.communicate()
    return [int(line) for line in output.splitlines(keepends=True) if line.endswith("\n")]


def write_and_kill(folder: Path, moments: random.Random, first: int = 0) -> list[int]:
    """Kills a writer at any moment, a quarter of them while it is still starting."""
    process = start(folder, first)
    if moments.random() < 0.75:
        assert process.stdout is not None
        process.stdout.readline()
        acknowledged = [first]
        time.sleep(moments.random() * 0.1)
    else:
        acknowledged = []
        time.sleep(moments.random() * 0.5)
    return acknowledged + kill(process)


def assert_whole(folder: Path, acknowledged: set[int]) -> None:
    """Every acknowledged step is there, no step is there by half, and SQLite is content."""
    if not (folder / "run.json").exists():
        assert not acknowledged
        return
    run = Run(folder)
    assert run.status == "lost"
    steps = set(run.steps)
    assert acknowledged <= steps
    with sqlite3.connect(folder / "run.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        for table, each in PER_STEP.items():
            told = " WHERE kind = 'told'" * (table == "events")
            counts = connection.execute(f"SELECT step, count(*) FROM {table}{told} GROUP BY step")
            assert dict(counts) == dict.fromkeys(steps, each), table
    connection.close()
    packed = run.scalars("packed")
    assert (packed["value"] == packed["step"]).all()
    assert len(packed) == PACKED * len(steps)


@pytest.mark.parametrize("runs", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_no_acknowledged_step_is_lost_by_kill_9(tmp_path: Path, runs: int) -> None:
    """One in two resumes the run of the one before, from a checkpoint some steps earlier."""
    moments = random.Random(runs)
    folder, acknowledged = tmp_path / "0", set[int]()
    for number in range(runs):
        if number % 2 == 0:
            folder, acknowledged, first = tmp_path / str(number), set(), 0
        else:
            first = max(0, max(acknowledged, default=0) - 3)
        found = set(write_and_kill(folder, moments, first))
        # Steps from `first` on are replaced as soon as the resumed writer has recorded one, which
        # it may not have come to say.
        acknowledged = {step for step in acknowledged if step < first} | found
        assert_whole(folder, acknowledged)


def test_a_live_reader_sees_no_torn_step(tmp_path: Path) -> None:
    process = start(tmp_path / "run")
    assert process.stdout is not None
    process.stdout.readline()
    seen = []
    for _ in range(20):
        run = Run(tmp_path / "run")
        assert run.status == "running"
        counts = run.scalars("loss").groupby("step").size()
        assert (counts == SCALARS).all()
        assert (run.scalars("packed").groupby("step").size() == PACKED).all()
        assert list(counts.index) == list(range(len(counts)))
        seen.append(len(counts))
        assert len(run.fields("u")) >= len(counts)
    kill(process)
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_a_killed_run_is_lost_and_can_be_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(folder)
    assert process.stdout is not None
    process.stdout.readline()
    kill(process)
    before = Run(folder).steps
    assert Run(folder).status == "lost"
    with RunWriter(folder, resume=True) as writer:
        assert writer.last_step() == before[-1]
        writer.record(before[-1] + 1, records(before[-1] + 1))
    run = Run(folder)
    assert run.status == "finished"
    assert run.steps == (*before, before[-1] + 1)
    assert [session["status"] for session in run.metadata["earlier"]] == ["lost"]


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    process = start(tmp_path / "run")
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(StoreError, match=f"is being written by process {process.pid} on "):
        RunWriter(tmp_path / "run", resume=True)
    assert Run(tmp_path / "run").status == "running"
    kill(process)
    RunWriter(tmp_path / "run", resume=True).finish()


def test_a_second_writer_of_the_same_process_is_refused(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        with pytest.raises(StoreError, match=f"is being written by process {os.getpid()} on "):
            RunWriter(tmp_path / "run", resume=True)
        writer.record(0, [Scalar("loss", 1.0)])
        assert Run(tmp_path / "run").status == "running"


def test_copying_a_live_run_does_not_cost_the_writer_its_lock(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        assert has_writer(tmp_path / "run")
        assert Run(tmp_path / "copy").status == "lost"


def test_a_writer_thrown_away_lets_go_of_the_run(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.record(0, [Scalar("loss", 1.0)])
    del writer
    assert Run(tmp_path / "run").status == "lost"
    RunWriter(tmp_path / "run", resume=True).finish()


FORKING = """
import os, signal, sys, time
from gradpath.probes import RunWriter, Scalar, StoreError

writer = RunWriter(sys.argv[1])
writer.record(0, [Scalar("loss", 0.0)])
child = os.fork()
if child == 0:
    try:
        writer.record(1, [Scalar("loss", -1.0)])
    except StoreError as error:
        sys.exit(0 if "was forked from" in str(error) else 2)
    sys.exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
child = os.fork()
if child == 0:
    with writer:
        raise SystemExit(0)  # leaves the block as a data loader's worker would
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
for step in range(1, 100):
    writer.record(step, [Scalar("loss", float(step))])
child = os.fork()
if child == 0:
    time.sleep(60)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_processes_leave_the_run_to_their_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKING, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        assert process.wait() == -signal.SIGKILL
        run = Run(tmp_path / "run")
        assert run.scalars("loss")["value"].tolist() == [float(step) for step in range(100)]
        assert run.status == "lost", "a child that lives on must not hold the lock"
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_waits_for_the_step_that_another_thread_records(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    done = threading.Event()

    def train() -> None:
        step = 0
        while not done.is_set():
            writer.record(step, [Scalar("loss", float(step), term=str(k)) for k in range(20)])
            step += 1

    training = threading.Thread(target=train)
    training.start()
    try:
        for _ in range(30):
            child = os.fork()
            if child == 0:
                # Other tests may have left writers behind, which are idle.
                connections = list(_connections_of_the_parent)
                os._exit(int(not connections or any(c.in_transaction for c in connections)))
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        done.set()
        training.join()
    writer.finish()


def test_threads_record_together(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")

    def train(first: int) -> None:
        for step in range(first, 200, 4):
            writer.record(step, [Scalar("loss", float(step), term=f"{first}")])

    threads = [threading.Thread(target=train, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.finish()
    assert Run(tmp_path / "run").scalars("loss")["value"].tolist() == list(range(200))


FILLING = """
import json, resource, sys
from gradpath.probes import RunWriter, StoreError
from tests.probes.writing_process import records

folder, limit = sys.argv[1], int(sys.argv[2])
writer = RunWriter(folder)
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
acknowledged, sentence = [], None
for step in range(2000):
    try:
        writer.record(step, records(step))
    except StoreError as error:
        sentence = str(error)
        break
    acknowledged.append(step)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps([acknowledged, sentence]))
"""


def fill(folder: Path, limit: int) -> tuple[list[int], str]:
    command = [sys.executable, "-c", FILLING, str(folder), str(limit)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    acknowledged, sentence = json.loads(result.stdout)
    return acknowledged, sentence


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit on files here")
def test_a_limit_on_files_costs_no_acknowledged_step(tmp_path: Path) -> None:
    acknowledged, sentence = fill(tmp_path / "run", 1 << 20)
    assert "cannot grow" in sentence
    assert "ulimit -f" in sentence
    assert acknowledged
    assert_whole(tmp_path / "run", set(acknowledged))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_one_sentence_and_costs_no_acknowledged_step(small_disk: Path) -> None:
    acknowledged, sentence = fill(small_disk / "run", 0)
    assert "is full: make room there" in sentence
    assert acknowledged
    assert set(acknowledged) <= set(Run(small_disk / "run").steps)


def fill_up(writer: RunWriter, step: int) -> int:
    """Returns the first step that found no room."""
    while True:
        try:
            writer.record(step, records(step))
        except StoreError as error:
            if "is full" not in str(error):
                raise
            return step
        step += 1


def test_after_a_full_disk_the_same_writer_goes_on(small_disk: Path) -> None:
    writer = RunWriter(small_disk / "run")
    for step in range(5):
        writer.record(step, records(step))
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="space"):
        ballast.write_bytes(bytes(4 << 20))
    step = fill_up(writer, 5)
    ballast.unlink()
    writer.record(step, records(step))
    writer.finish()
    run = Run(small_disk / "run")
    assert run.status == "finished"
    assert run.steps == tuple(range(step + 1))
    assert (run.scalars("loss").groupby("step").size() == SCALARS).all()


def as_nobody(work: Any) -> Any:
    """Does the work without root's right to write everywhere."""
    if os.geteuid() != 0:
        return work()
    os.seteuid(65534)
    try:
        return work()
    finally:
        os.seteuid(0)


@pytest.fixture
def readable() -> Iterator[Path]:
    """A folder that others may read, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path in folder.iterdir():
        path.chmod(0o755)
    shutil.rmtree(folder)


def lock_up(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.mark.parametrize("end", ["sealed", "killed", "left in WAL mode"])
def test_a_run_in_an_unwritable_folder_is_read(readable: Path, end: str) -> None:
    folder = readable / "run"
    if end == "sealed":
        with RunWriter(folder) as writer:
            writer.record(0, records(0))
    else:
        process = start(folder)
        assert process.stdout is not None
        process.stdout.readline()
        kill(process)
        if end == "left in WAL mode":
            connection = sqlite3.connect(folder / "run.db")
            connection.execute("SELECT * FROM steps").fetchall()
            connection.close()
            assert not (folder / "run.db-wal").exists()
    lock_up(folder)
    scalars = as_nobody(lambda: Run(folder).scalars("loss"))
    assert len(scalars) >= SCALARS
    status = as_nobody(lambda: Run(folder).status)
    assert status == ("finished" if end == "sealed" else "lost")


def test_an_unwritable_folder_is_one_sentence(readable: Path) -> None:
    folder = readable / "closed"
    folder.mkdir()
    lock_up(folder)
    with pytest.raises(StoreError, match="read-only for you; change their permissions"):
        as_nobody(lambda: RunWriter(folder))
    with pytest.raises(StoreError, match="read-only for you; change their permissions"):
        as_nobody(lambda: RunWriter(folder / "run"))


def test_a_killed_run_moves_as_a_folder(tmp_path: Path) -> None:
    process = start(tmp_path / "run")
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    kill(process)
    shutil.copytree(tmp_path / "run", tmp_path / "a ?copy# of 100% d'été")
    shutil.rmtree(tmp_path / "run")
    copy = Run(tmp_path / "a ?copy# of 100% d'été")
    assert copy.status == "lost"
    assert set(range(5)) <= set(copy.steps)


def test_an_event_outside_of_steps_is_committed_as_well(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path / "run")
    writer.note(Event("missing", "No loss was seen."))
    assert Run(tmp_path / "run").events()["text"].tolist() == ["No loss was seen."]
    writer.finish()
