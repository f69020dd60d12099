"""Sweeps: every member of a declared grid trained into a run folder of its own.

All that is known of a sweep is in its folder: the declaration, and a run for each member that was
begun. Whatever happens to the processes, the same call with `resume=True` does what is left.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..diagnostics.errors import ArgumentError
from ..probes.errors import StoreError, described, explained
from ..probes.forking import give_up_in_children
from ..probes.lock import LOCK, WriterLock, has_writer
from .slots import SlotExecutor, available_cores
from .sweep_file import DECLARATION, difference, read_declaration, write_declaration
from .sweep_grid import Member, Sweep
from .sweep_member import (
    Outcome,
    Work,
    attempt,
    member_status,
    read_summary,
    record_failure,
    settle,
)
from .sweep_progress import Counter, MemberResult, SweepProgress, shown

__all__ = ["Member", "MemberResult", "Sweep", "SweepProgress", "SweepResult", "SweepState",
           "run_sweep", "sweep_state"]  # fmt: skip

_LOOK_SECONDS = 0.5

# What `train` is given by the member itself, or what no file can hold.
_NO_OPTIONS = {"problem", "model", "folder", "steps", "seed", "resume", "progress", "dtype"}


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended, in the order of its members."""

    folder: Path
    members: tuple[MemberResult, ...]

    @property
    def finished(self) -> tuple[MemberResult, ...]:
        """Those whose training is complete, also if an earlier call did it."""
        return tuple(result for result in self.members if result.status == "finished")

    @property
    def failed(self) -> tuple[MemberResult, ...]:
        """All others; each says why in its `error`."""
        return tuple(result for result in self.members if result.status != "finished")


@dataclass(frozen=True)
class SweepState:
    """What the folder of a sweep shows, now and to anybody."""

    sweep: Sweep
    # "waiting" for what was not begun, else as of a run: "running", "finished", "failed", "lost";
    # "broken" for a run that cannot be read.
    statuses: Mapping[Member, str]

    def members(self, *statuses: str) -> tuple[Member, ...]:
        """Returns those with one of the statuses, in the order of the sweep."""
        return tuple(member for member, status in self.statuses.items() if status in statuses)

    @property
    def waiting(self) -> tuple[Member, ...]:
        """The members that were not begun."""
        return self.members("waiting")

    @property
    def counts(self) -> dict[str, int]:
        """How many members have each status."""
        return dict(Tally(self.statuses.values()))


def run_sweep(
    sweep: Sweep,
    folder: str | os.PathLike[str],
    work: Work | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    *,
    resume: bool = False,
    retries: int = 1,
    progress: Callable[[SweepProgress], object] | None = None,
) -> SweepResult:
    """Trains the members of a sweep side by side, and returns how each of them ended.

    A member that raises is failed, and its error is in its run, in `traceback.txt` beside it and in
    the result. One whose worker is killed goes on in another from where its run is. An exception
    that ends the sweep itself, such as Ctrl-C, leaves a folder that can be resumed.

    Args:
        sweep: what to train.
        folder: of the sweep; each member's run is in a folder of its name there.
        work: `work(member, folder, resume=...)` trains one member, writes its run and returns a
            summary that JSON can hold. With `resume` its run is there and is to be continued. A
            function at the top level of a module; by default `train`, which gets the
            sweep's options.
        executor: where to train, any of `concurrent.futures`; by default processes of this
            machine. It is left open.
        workers: how many processes, by default one for each core. Each gets an equal share of the
            cores for its threads, unless OMP_NUM_THREADS and the like say something else.
        resume: whether a sweep that is in the folder is continued: finished members are left as
            they are, lost and failed ones go on. Where there is none, it is begun.
        retries: how often a member may lose its worker and be tried again.
        progress: called with a `SweepProgress` whenever something has changed; by default it is
            shown on the standard error.

    Raises:
        ArgumentError: `work` cannot be used, both `executor` and `workers` are given, or a number
            is too small.
        StoreError: another sweep is in the folder, or this one and `resume` is False, or a process
            is working on it.
    """
    work = work or _train
    _check(work, executor, workers, retries)
    if work is _train:
        _check_training(sweep)
    root = Path(folder).absolute()
    with contextlib.ExitStack() as last:
        last.enter_context(_owned(root))
        _declare(sweep, root, resume)
        state = sweep_state(root)
        todo = [member for member, status in state.statuses.items() if status != "finished"]
        show = progress or last.enter_context(shown())
        counter = Counter(show, len(state.statuses), len(state.statuses) - len(todo))
        results = {member: _before(member, root) for member in state.members("finished")}
        if todo:
            crew = executor or last.enter_context(_slots(workers, len(todo)))
            results |= _train_all(todo, root, work, crew, retries, counter)
    return SweepResult(root, tuple(results[member] for member in sweep.members))


def sweep_state(folder: str | os.PathLike[str]) -> SweepState:
    """Returns which members of the sweep in a folder are done, running, failed, or not begun.

    Raises:
        StoreError: no sweep is in the folder, or its declaration is damaged.
    """
    root = Path(folder).absolute()
    sweep = read_declaration(root)
    if sweep is None:
        raise StoreError(f"There is no sweep in {root}; give the folder that one was run in.")
    return SweepState(
        sweep, {member: member_status(root / member.name) for member in sweep.members}
    )


def _train_all(
    members: list[Member],
    root: Path,
    work: Work,
    executor: Executor,
    retries: int,
    counter: Counter,
) -> dict[Member, MemberResult]:
    results: dict[Member, MemberResult] = {}
    pending: dict[Future[Outcome], Member] = {}
    attempts = dict.fromkeys(members, 0)

    def end(member: Member, error: str | None, summary: Mapping[str, Any] | None = None) -> None:
        folder = root / member.name
        status = member_status(folder)
        results[member] = MemberResult(
            member, folder, status, summary or {}, error, attempts[member]
        )
        counter.ended(results[member])

    def begin(member: Member) -> None:
        try:
            future = executor.submit(attempt, work, member, root / member.name)
        except (ArgumentError, TypeError):
            raise  # nothing can be sent there, now or later
        except Exception as error:
            # A broken pool takes no more. The folder shows the member as it is: to be resumed.
            settle(root / member.name)
            end(member, f"The executor takes no more work ({described(error)}); resume the sweep.")
        else:
            attempts[member] += 1
            pending[future] = member

    try:
        for member in members:
            begin(member)
        while pending:
            done, _ = wait(pending, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                member = pending.pop(future)
                # What work raises is in the outcome: an exception here is of what carried it.
                died = CancelledError() if future.cancelled() else future.exception()
                if died is None:
                    outcome = future.result()
                    end(member, outcome.error, outcome.summary)
                elif attempts[member] <= retries:
                    begin(member)
                else:
                    error = _lost_for_good(died, attempts[member])
                    settle(root / member.name)
                    record_failure(member, root / member.name, error)
                    end(member, error)
            counter.now_running(_running(pending, root))
    finally:
        # Empty, unless something has ended the sweep itself.
        for future in pending:
            future.cancel()
    return results


def _running(pending: Mapping[Future[Outcome], Member], root: Path) -> int:
    # A cluster's futures do not say whether they run, but the runs do.
    return sum(
        future.running() or has_writer(root / member.name) for future, member in pending.items()
    )


def _lost_for_good(died: BaseException, attempts: int) -> str:
    times = "" if attempts == 1 else f" in each of {attempts} attempts"
    return f"The member lost its worker{times}. {described(died)}"


def _before(member: Member, root: Path) -> MemberResult:
    folder = root / member.name
    return MemberResult(member, folder, "finished", read_summary(folder), None, 0)


@contextlib.contextmanager
def _slots(workers: int | None, members: int) -> Iterator[SlotExecutor]:
    executor = SlotExecutor(min(workers or available_cores(), members))
    try:
        yield executor
    except BaseException:
        # Nobody waits for trainings after Ctrl-C; a run that is cut short is complete to its last
        # step.
        executor.kill()
        raise
    executor.shutdown()


class _Owner:
    """The lock of the process that works on a sweep; a forked worker lets go of its copy."""

    def __init__(self, root: Path) -> None:
        self.turn = threading.RLock()
        if has_writer(root):
            raise StoreError(
                f"Another process is working on the sweep in {root}; wait for it, or end it first."
            )
        self._lock = WriterLock(root)
        give_up_in_children(self)

    def abandon(self) -> None:
        self._lock.release()


@contextlib.contextmanager
def _owned(root: Path) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise StoreError(f"{root} is a file; give the sweep a folder, new or empty.") from None
    except OSError as error:
        raise explained(error, root) from error
    owner = _Owner(root)
    try:
        yield
    finally:
        owner.abandon()


def _declare(sweep: Sweep, root: Path, resume: bool) -> None:
    declared = read_declaration(root)
    if declared is None:
        own = (DECLARATION, LOCK)
        foreign = sorted(path.name for path in root.iterdir() if not path.name.startswith(own))
        if foreign:
            raise StoreError(
                f"{root} is no sweep and holds other files ({foreign[0]}); give the sweep a folder "
                "of its own, new or empty."
            )
        write_declaration(sweep, root)
    elif not resume:
        raise StoreError(
            f"There is a sweep in {root} already; give another folder, or `resume=True` to "
            "continue it."
        )
    elif declared != sweep:
        raise StoreError(
            f"The sweep in {root} is another one ({difference(declared, sweep)}); give another "
            "folder, or the sweep as it was."
        )


def _check(work: Work, executor: Executor | None, workers: int | None, retries: int) -> None:
    if executor is not None and workers is not None:
        raise ArgumentError("An executor has its own workers; give one of `executor`, `workers`.")
    if workers is not None and workers < 1:
        raise ArgumentError(f"{workers} workers cannot work; give 1 or more.")
    if retries < 0:
        raise ArgumentError(f"`retries` is {retries}; give 0 or more.")
    try:
        inspect.signature(work).bind("member", "folder", resume=False)
    except TypeError:
        raise ArgumentError(
            "`work` is called as work(member, folder, resume=...); give a function that takes this."
        ) from None


def _train(member: Member, folder: Path, /, *, resume: bool) -> Mapping[str, Any]:
    from .registry import problem
    from .training import train

    stated = problem(member.problem, **member.parameters)
    return asdict(
        train(
            stated,
            member.model,
            folder,
            steps=member.steps,
            seed=member.seed,
            resume=resume,
            **member.options,
        )
    )


def _check_training(sweep: Sweep) -> None:
    """Finds before anything runs what every member would fail with."""
    from .models import model
    from .training import train

    options = inspect.signature(train).parameters.keys() - _NO_OPTIONS
    for option in sweep.options:
        if option not in options:
            raise ArgumentError(
                f"There is no option {option!r} of a training; choose from "
                f"{', '.join(sorted(options))}."
            )
    for name in sweep.models:
        model(name)
