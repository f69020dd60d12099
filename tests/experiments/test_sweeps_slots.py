"""Single processes as an executor, and how a sweep looks on a terminal."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest
from rich.console import Console

from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments.slots import SlotExecutor, WorkerDiedError, available_cores
from gradpath.experiments.sweep_progress import shown
from gradpath.experiments.sweeps import Member, MemberResult, SweepProgress
from tests.experiments.sweep_works import wait_until
from tests.package import ROOT


class ManyArgumentsError(Exception):
    """Can be pickled, but not read back."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def raise_what_cannot_be_sent() -> None:
    raise ManyArgumentsError(1, 2)


def return_what_cannot_be_sent() -> object:
    return threading.Lock()


def interrupt_self() -> str:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)
    return "went on"


@pytest.fixture(scope="module")
def slot() -> Iterator[SlotExecutor]:
    with SlotExecutor(1) as executor:
        yield executor


def test_calls_run_in_another_process_which_stays(slot: SlotExecutor) -> None:
    pids = {slot.submit(os.getpid).result() for _ in range(3)}
    assert len(pids) == 1
    assert os.getpid() not in pids
    assert slot.submit(int, "ff", base=16).result() == 255


def test_an_exception_comes_back_with_where_it_was_raised(slot: SlotExecutor) -> None:
    error = slot.submit(int, "x").exception()
    assert isinstance(error, ValueError)
    assert "Traceback" in error.__notes__[0]
    assert isinstance(slot.submit(sys.exit, 3).exception(), SystemExit)
    assert "1 and 2" in str(slot.submit(raise_what_cannot_be_sent).exception())
    assert "pickle" in str(slot.submit(return_what_cannot_be_sent).exception())
    with pytest.raises(ArgumentError, match="top level of a module"):
        slot.submit(lambda: None)


def test_a_dead_process_costs_its_own_call(slot: SlotExecutor) -> None:
    calls = [slot.submit(abs, -1), slot.submit(os._exit, 7), slot.submit(abs, -2)]
    assert [calls[0].result(), calls[2].result()] == [1, 2]
    error = calls[1].exception()
    assert isinstance(error, WorkerDiedError | BrokenExecutor)
    assert "with exit status 7" in str(error)


def test_workers_leave_ctrl_c_to_the_one_who_sent_them(slot: SlotExecutor) -> None:
    assert slot.submit(interrupt_self).result() == "went on"


def test_what_waits_is_cancelled_and_what_runs_is_ended() -> None:
    executor = SlotExecutor(1)
    running, waiting = executor.submit(time.sleep, 60), executor.submit(abs, -1)
    wait_until(running.running)
    executor.kill()
    assert isinstance(running.exception(), WorkerDiedError)
    assert waiting.cancelled()
    with pytest.raises(RuntimeError, match="takes no more calls"):
        executor.submit(abs, -1)


def test_shutting_down_does_what_was_asked_for() -> None:
    with SlotExecutor(1) as executor:
        calls = [executor.submit(abs, -number) for number in range(5)]
    assert [call.result() for call in calls] == list(range(5))


@pytest.mark.parametrize("options", [{"slots": 0}, {"slots": 1, "threads": 0}])
def test_numbers_below_one_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ArgumentError, match="give 1 or more"):
        SlotExecutor(**options)
    assert available_cores() >= 1


def script(tmp_path: Path, text: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "main.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from gradpath.experiments.slots import SlotExecutor\n{text}"
    )
    return subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )


def test_a_program_that_forgets_its_executor_ends(tmp_path: Path) -> None:
    ended = script(
        tmp_path,
        "if __name__ == '__main__':\n    print(SlotExecutor(2).submit(abs, -1).result())",
    )
    assert (ended.returncode, ended.stdout.strip()) == (0, "1")


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    ended = script(tmp_path, "SlotExecutor(1).submit(abs, -1).result()")
    last = ended.stderr.splitlines()[-1]
    assert "A worker process could not begin" in last
    assert 'if __name__ == "__main__":' in last


def test_on_a_terminal_there_is_a_bar_with_counts_and_each_member() -> None:
    member = Member("poisson", "[M1]", 0, 10)
    result = MemberResult(member, Path("x"), "failed", {}, "[bold]no number", 1)
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    with shown(console) as show:
        show(SweepProgress(0, 2, 0, 2, 0.0, None, None))
        show(SweepProgress(1, 1, 1, 1, 100.0, 4000.0, result))
    text = output.getvalue()
    assert "1 done, 1 running, 1 failed, 1 to begin, about 1 h 06 min left" in text
    assert "failed: [bold]no number" in text
