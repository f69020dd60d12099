"""A Dask cluster as an executor: what runs in processes here runs on its machines as it is."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, wait as wait_for
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
    submit: Callable[[], Any]  # gives it to Dask


class _DaskExecutor(Executor):
    """An executor on which a call fails for the deaths of its own worker alone, and always ends.

    Dask gives up a task after the fourth death of a worker that it was sent to, also where it only
    waited behind the one to blame. So what is given up is tried once more when nothing else of ours
    is on the cluster. Dask's own executor leaves a call open for ever whose result was lost with
    its worker and whose second run was given up (`Client.get_executor`, distributed 2026.8).
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._turn = threading.RLock()
        self._waiting: deque[_Call] = deque()
        self._on_cluster: set[_Call] = set()
        self._suspects: deque[_Call] = deque()
        self._is_one_alone = False

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        # A training is not a function of its arguments alone: the same one may have to run again.
        call = _Call(Future(), lambda: self._client.submit(fn, *args, pure=False, **kwargs))
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
        self._client.close()

    def _send(self, call: _Call, *, is_alone: bool = False) -> None:
        task = call.submit()
        self._on_cluster.add(call)
        self._is_one_alone = is_alone

        def cancel(future: Future[Any]) -> None:
            if future.cancelled():
                task.cancel()

        call.future.add_done_callback(cancel)
        self._client.loop.add_callback(self._carry, call, task)

    async def _carry(self, call: _Call, task: Any) -> None:
        from distributed import KilledWorker

        result, error = None, None
        try:
            result = await task
        except Exception as raised:
            error = raised
        with self._turn:
            self._on_cluster.remove(call)
            was_alone, self._is_one_alone = self._is_one_alone, False
            if isinstance(error, KilledWorker) and not was_alone:
                self._suspects.append(call)
            elif call.future.set_running_or_notify_cancel():
                if error is None:
                    call.future.set_result(result)
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
