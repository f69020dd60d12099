"""A Dask cluster as an executor: what runs in processes here runs on its machines as it is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
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


class _DaskExecutor(Executor):
    """Dask's own executor, which would leave the connection open."""

    def __init__(self, client: Any) -> None:
        self._client = client
        # A training is not a function of its arguments alone: the same one may have to run again.
        self._executor = client.get_executor(pure=False)

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        return self._executor.submit(fn, *args, **kwargs)  # type: ignore[no-any-return]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        # Without waiting, Dask drops what was not done.
        self._executor.shutdown(wait=wait and not cancel_futures)
        self._client.close()
