"""A Dask cluster as an executor: what runs in processes here runs on its machines as it is."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future, wait as wait_for
from dataclasses import dataclass
from typing import Any, TypeVar

from ..diagnostics.errors import ArgumentError, MissingPackageError

_Result = TypeVar("_Result")

_PATIENCE_SECONDS = 10


def dask_executor(address: str) -> Executor:
    """Returns an executor over a Dask cluster; shutting it down closes the connection.

    The cluster's workers should have one thread each (`--nthreads 1`), because trainings in one
    process would share PyTorch's settings, and need to see the folder of the sweep.

    Args:
        address: of its scheduler, such as "tcp://10.0.0.1:8786".

    Raises:
        MissingPackageError: `dask.distributed` is not installed.
        ArgumentError: no scheduler answers there.
    """
    try:
        from distributed import Client
    except ImportError:
        raise MissingPackageError(
            "A Dask cluster needs the package distributed: pip install 'gradpath[dask]'."
        ) from None
    try:
        client = Client(address, timeout=_PATIENCE_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise ArgumentError(
            f"No Dask scheduler answers at {address!r}; give the address that `dask scheduler` "
            "prints, such as tcp://10.0.0.1:8786."
        ) from error
    return _DaskExecutor(client)


@dataclass(frozen=True, eq=False)
class _Call:
    future: Future[Any]
    submit: Callable[[], Future[Any]]  # gives it to Dask


class _DaskExecutor(Executor):
    """Dask's own executor, in which a call fails for the deaths of its own worker alone.

    Dask gives up a task after the fourth death of a worker that it was sent to, also where it only
    waited behind the one to blame. So what is given up is tried once more when nothing else of ours
    is on the cluster.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        # A training is not a function of its arguments alone: the same one may have to run again.
        self._executor = client.get_executor(pure=False)
        self._turn = threading.RLock()
        self._waiting: deque[_Call] = deque()
        self._on_cluster: set[_Call] = set()
        self._suspects: deque[_Call] = deque()
        self._is_one_alone = False

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        call = _Call(Future(), lambda: self._executor.submit(fn, *args, **kwargs))
        with self._turn:
            if self._is_one_alone:
                self._waiting.append(call)
            else:
                self._send(call)
        return call.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._turn:
            calls = [*self._waiting, *self._on_cluster, *self._suspects]
        for call in calls:
            # Without waiting, Dask drops what was not done.
            if not wait or cancel_futures:
                call.future.cancel()
        wait_for([call.future for call in calls if not call.future.cancelled()])
        self._executor.shutdown(wait=False)
        self._client.close()

    def _send(self, call: _Call, *, is_alone: bool = False) -> None:
        task = call.submit()
        self._on_cluster.add(call)
        self._is_one_alone = is_alone

        def cancel(future: Future[Any]) -> None:
            if future.cancelled():
                task.cancel()

        call.future.add_done_callback(cancel)
        task.add_done_callback(lambda task: self._ended(call, task))

    def _ended(self, call: _Call, task: Future[Any]) -> None:
        from distributed import KilledWorker

        error = CancelledError() if task.cancelled() else task.exception()
        with self._turn:
            self._on_cluster.discard(call)
            was_alone, self._is_one_alone = self._is_one_alone, False
            if isinstance(error, KilledWorker) and not was_alone:
                self._suspects.append(call)
            elif call.future.set_running_or_notify_cancel():
                if error is None:
                    call.future.set_result(task.result())
                else:
                    call.future.set_exception(error)
            self._go_on()

    def _go_on(self) -> None:
        while self._waiting:
            self._try(self._waiting.popleft())
        while self._suspects and not self._on_cluster:
            self._try(self._suspects.popleft(), is_alone=True)

    def _try(self, call: _Call, *, is_alone: bool = False) -> None:
        if call.future.cancelled():
            return
        try:
            self._send(call, is_alone=is_alone)
        except Exception as error:  # the cluster is gone
            call.future.set_exception(error)
