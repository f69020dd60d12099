"""Trainings for sweeps that take milliseconds and need no PyTorch: ten steps with a pause each."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from gradpath.experiments.sweeps import Member
from gradpath.probes.records import Event, Scalar
from gradpath.probes.run_writer import RunWriter

STEPS = 10


def quick(member: Member, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    return _train(member, folder, resume, pause=0.0)


def unhurried(member: Member, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Long enough to be seen at work."""
    return _train(member, folder, resume, pause=0.15)


def slow(member: Member, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Five seconds, so that two are in the middle at once even on a busy machine."""
    return _train(member, folder, resume, pause=0.5)


def failing_m2(member: Member, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    if member.model == "M2":
        with RunWriter(folder, metadata=member.metadata, resume=resume) as writer:
            writer.record(0, [Scalar("loss", loss(member, 0), term="total")])
            raise FloatingPointError("the loss is not finite")
    return quick(member, folder, resume=resume)


def diverging(member: Member, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """Knows that its run has failed, and returns what there is to say."""
    RunWriter(folder, metadata=member.metadata, resume=resume).fail("The loss is infinite.")
    return {"outcome": "diverged", "error": float("nan")}


def failing_before_its_run(member: Member, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    raise RuntimeError(f"no data for seed {member.seed}")


def killed_once(member: Member, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    """M2 is killed in the middle of its first attempt, as by the kernel when memory runs out."""
    kill_at = STEPS // 2 if member.model == "M2" and not resume else None
    return _train(member, folder, resume, pause=0.02, kill_at=kill_at)


def killed_always(member: Member, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    if member.model == "M2":
        os.kill(os.getpid(), signal.SIGKILL)
    return quick(member, folder, resume=resume)


def dying_with_its_result(mark: Path) -> int:
    """Returns, its worker is killed a moment later, and so is whoever does it again."""
    if mark.exists():
        mark.write_text("again")
        time.sleep(1)  # meanwhile the lost result is asked for
        os.kill(os.getpid(), signal.SIGKILL)
    mark.write_text("once")
    time.sleep(0.5)  # the test holds back who would fetch the result
    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGKILL]).start()
    return 1


def leaving_its_run_open(member: Member, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    kept.append(RunWriter(folder, metadata=member.metadata, resume=resume))
    return {}


def writing_no_run(member: Member, folder: Path, *, resume: bool = False) -> dict[str, Any]:
    return {"seed": member.seed}


def environment_of_the_worker(
    member: Member, folder: Path, *, resume: bool = False
) -> dict[str, Any]:
    threads = {os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return {"threads": sorted(map(str, threads)), "pid": os.getpid()}


kept: list[RunWriter] = []


def _train(
    member: Member, folder: Path, resume: bool, *, pause: float, kill_at: int | None = None
) -> dict[str, Any]:
    """A checkpoint is not needed: what is recorded is what was done."""
    with RunWriter(folder, metadata=member.metadata, resume=resume) as writer:
        last = writer.last_step()
        if resume:
            writer.note(Event("continued", f"after step {last}", source="test"))
        for step in range(0 if last is None else last + 1, STEPS):
            writer.record(step, [Scalar("loss", loss(member, step), term="total")])
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(pause)
    return {"loss": loss(member, STEPS - 1), "resumed": resume}


def loss(member: Member, step: int) -> float:
    return (member.seed + 1) / (step + 1)


def wait_until(is_true: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def interrupt_when(is_true: Any) -> threading.Thread:
    """Sends this process what Ctrl-C does, once something holds."""

    def watch() -> None:
        wait_until(is_true)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread
