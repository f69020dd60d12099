"""Processes that cannot take each other's work down.

The standard library's process pool gives up everything that waits when one of its workers is
killed, for instance by the kernel when memory runs out. Here each worker has a slot of its own:
its death costs the call that it was at, and the slot begins a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from ..diagnostics.errors import ArgumentError, GradpathError

_Result = TypeVar("_Result")

# Read once, when the library of each is loaded: they must be set before a worker begins.
_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)

# How often it is seen whether a worker lives. Its pipe tells mostly at once, but a process that the
# worker itself began may hold the other end open.
_LOOK_SECONDS = 1.0

# Several slots may begin a worker at once, but there is one environment.
_environment = threading.Lock()

# Fresh interpreters: a fork of a process with threads, as PyTorch has, may hang.
_CONTEXT = multiprocessing.get_context("spawn")


class WorkerDiedError(GradpathError, BrokenProcessPool):
    """The process that a call ran in has ended before the call did."""


class SlotExecutor(Executor):
    """An executor of single processes, each begun when there is work for it.

    A call whose process dies raises `WorkerDiedError` in its future; the other calls go on. The
    workers leave Ctrl-C to this process, and end with it however it ends.

    Args:
        slots: how many processes; by default one for each core that this process may use.
        threads: of each one's numerical libraries; by default an equal share of the cores, or what
            the environment says, such as OMP_NUM_THREADS.

    Raises:
        ArgumentError: a number is below 1.
    """

    def __init__(self, slots: int | None = None, *, threads: int | None = None) -> None:
        slots = available_cores() if slots is None else slots
        if slots < 1:
            raise ArgumentError(f"{slots} workers cannot work; give 1 or more.")
        if threads is not None and threads < 1:
            raise ArgumentError(f"A worker of {threads} threads cannot work; give 1 or more.")
        self.slots = slots
        # The others fall back to this one, but not any more once they are set.
        named = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        share = str(threads or named or max(1, available_cores() // slots))
        self._variables = {
            name: share for name in _THREADS if threads is not None or name not in os.environ
        }
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._is_open = True
        self._is_killed = False
        self._workers: set[_Worker] = set()
        self._threads = [
            threading.Thread(target=self._serve, name=f"gradpath-slot-{slot}", daemon=True)
            for slot in range(slots)
        ]
        for thread in self._threads:
            thread.start()
        # Else the interpreter would wait at its end for workers that wait for calls.
        atexit.register(self.kill)

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        """Returns the future of a call, which runs in the next slot that is free.

        Raises:
            RuntimeError: the executor has been shut down.
            ArgumentError: the function or an argument cannot be sent to another process.
        """
        try:
            content = pickle.dumps((fn, args, kwargs))
        except Exception as error:
            raise ArgumentError(
                f"This cannot be sent to another process ({error}); give a function that stands at "
                "the top level of a module, and plain values."
            ) from error
        future: Future[_Result] = Future()
        with self._turn:
            if not self._is_open:
                raise RuntimeError("The executor has been shut down and takes no more calls.")
            self._calls.put(_Call(future, content))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls, and ends the workers when those that it has are done."""
        with self._turn:
            if cancel_futures:
                self._cancel()
            if self._is_open:
                self._is_open = False
                for _ in self._threads:
                    self._calls.put(None)
        if wait:
            for thread in self._threads:
                thread.join()
            atexit.unregister(self.kill)

    def kill(self) -> None:
        """Ends the workers in the middle of their calls, and drops the calls that wait."""
        with self._turn:
            self._is_killed = True
            self._cancel()
            workers = list(self._workers)
        for worker in workers:
            worker.kill()
        self.shutdown(wait=True)

    def _cancel(self) -> None:
        waiting = []
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.append(self._calls.get_nowait())
        for call in waiting:
            if call is None:
                self._calls.put(None)
            else:
                call.future.cancel()
                call.future.set_running_or_notify_cancel()

    def _serve(self) -> None:
        worker: _Worker | None = None
        while (call := self._calls.get()) is not None:
            if not call.future.set_running_or_notify_cancel():
                continue
            try:
                worker = worker or self._begin()
                is_result, value = worker.ask(call.content)
            except BaseException as error:
                if worker is not None:
                    self._end(worker)
                    worker = None
                is_result, value = False, error
            if is_result:
                call.future.set_result(value)
            else:
                call.future.set_exception(value)
        if worker is not None:
            self._end(worker)

    def _begin(self) -> _Worker:
        worker = _Worker(self._variables)
        with self._turn:
            self._workers.add(worker)
            is_killed = self._is_killed
        if is_killed:
            worker.kill()
        return worker

    def _end(self, worker: _Worker) -> None:
        with self._turn:
            self._workers.discard(worker)
        worker.end()


@dataclass(frozen=True)
class _Call:
    future: Future[Any]
    content: bytes


class _Worker:
    """A process of its own, as seen from the outside."""

    def __init__(self, variables: dict[str, str]) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        # Not daemonic, so that a training may have processes of its own, as a DataLoader does.
        self._process = _CONTEXT.Process(target=_work, args=(theirs,), name="gradpath-worker")
        try:
            with _set_for_a_moment(variables):
                self._process.start()
        finally:
            theirs.close()
        self._has_begun = False

    def ask(self, content: bytes) -> tuple[bool, Any]:
        """Returns whether a call gave a result, and that or its exception."""
        try:
            if not self._has_begun:
                self._receive()
                self._has_begun = True
            self._pipe.send_bytes(content)
            answer = self._receive()
        except (EOFError, OSError):
            self._process.join()
            raise WorkerDiedError(self._how_it_ended()) from None
        return pickle.loads(answer)  # type: ignore[no-any-return]

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._pipe.close()  # which an idle worker takes as the end
        self._process.join()

    def _receive(self) -> bytes:
        while not wait([self._pipe, self._process.sentinel], _LOOK_SECONDS):
            if not self._process.is_alive():
                break
        # What it had sent before it died can still be read.
        if not self._pipe.poll():
            raise EOFError
        return self._pipe.recv_bytes()

    def _how_it_ended(self) -> str:
        code = self._process.exitcode or 0
        if code >= 0 and not self._has_begun:
            return (
                f"A worker process could not begin (exit status {code}): put what a script does "
                'under `if __name__ == "__main__":`, and see what the worker printed.'
            )
        if code >= 0:
            return f"The worker process ended in the middle of its work, with exit status {code}."
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        cause = ", which the system does when memory runs out" if name == "SIGKILL" else ""
        return f"The worker process was killed by {name}{cause}."


def available_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _set_for_a_moment(variables: dict[str, str]) -> Iterator[None]:
    """Sets variables for a process that begins inside; it imports the user's script first of all.

    Code in the worker would be too late where that script imports PyTorch.
    """
    with _environment:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _work(pipe: Connection) -> None:
    """What a worker does: one call after the other, until the pipe is closed."""
    # Ctrl-C goes to every process of a terminal. A training must not take it for its own failure.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send_bytes(b"begun")
    while True:
        try:
            content = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_answer(content))


def _answer(content: bytes) -> bytes:
    try:
        function, arguments, named = pickle.loads(content)
        return pickle.dumps((True, function(*arguments, **named)))
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        error.add_note(f"In a worker process:\n{text}")
        try:
            answer = pickle.dumps((False, error))
            pickle.loads(answer)  # some can be pickled but not read back
        except Exception:
            answer = pickle.dumps((False, RuntimeError(text)))
        return answer


def _end_with_parent() -> None:
    # A worker without a parent would go on writing a run that the resumed sweep wants to continue.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
