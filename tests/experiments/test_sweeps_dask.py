"""Sweeps on a real Dask cluster whose workers are processes."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gradpath.diagnostics.errors import ArgumentError, MissingPackageError
from gradpath.experiments.dask_cluster import dask_executor
from gradpath.experiments.sweeps import Sweep, run_sweep, sweep_state
from gradpath.probes import Run, runs
from tests.experiments import sweep_works as works
from tests.experiments.test_sweeps import assert_complete, sweep

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def local_cluster(workers: int, allowed_failures: int = 3) -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    import dask

    configured = {
        "distributed.scheduler.allowed-failures": allowed_failures,
        # A local cluster gives up workers that take longer than this to begin again.
        "distributed.deploy.lost-worker-timeout": "240s",
    }
    with (
        dask.config.set(configured),
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with local_cluster(2) as cluster:
        yield cluster


def run(
    cluster: Any, folder: Path, work: Any, declared: Sweep | None = None, **options: Any
) -> Any:
    with dask_executor(cluster.scheduler_address) as executor:
        return run_sweep(
            declared or sweep(), folder, work, executor, progress=lambda _: None, **options
        )


def test_a_sweep_runs_on_a_cluster_and_is_resumed_there(cluster: Any, tmp_path: Path) -> None:
    failed = run(cluster, tmp_path / "s", works.failing_m2)
    assert [each.status for each in failed.members] == ["finished", "failed"] * 2
    pids = {Run(each.folder).metadata["pid"] for each in failed.members}
    assert os.getpid() not in pids
    resumed = run(cluster, tmp_path / "s", works.quick, resume=True)
    assert_complete(resumed)
    assert [each.attempts for each in resumed.members] == [0, 1, 0, 1]


def test_a_killed_worker_of_a_cluster_costs_nothing(cluster: Any, tmp_path: Path) -> None:
    result = run(cluster, tmp_path / "s", works.killed_once, sweep(seeds=1))
    assert_complete(result)
    events = Run(result.members[1].folder).events()
    assert "continued" in events["kind"].tolist()


def test_a_member_that_always_kills_its_worker_fails_alone(tmp_path: Path) -> None:
    """Also where the others wait behind it, so that Dask blames them for the deaths too."""
    with local_cluster(1, allowed_failures=1) as one_worker:
        declared = sweep("M2 M1")
        result = run(one_worker, tmp_path / "s", works.killed_always, declared, retries=0)
    assert [each.status for each in result.members] == ["failed", "finished"] * 2
    for failed in result.failed:
        assert "The member lost its worker. KilledWorker" in str(failed.error)
    assert runs(tmp_path / "s")["status"].tolist().count("finished") == 2


def test_a_result_that_is_lost_with_its_worker_ends_its_call(tmp_path: Path) -> None:
    """Nobody has fetched the result when its worker dies, and its second run is given up."""
    mark = tmp_path / "mark"
    with (
        local_cluster(1, allowed_failures=0) as one_worker,
        dask_executor(one_worker.scheduler_address) as executor,
    ):
        future = executor.submit(works.dying_with_its_result, mark)
        works.wait_until(mark.exists)
        is_lost = threading.Event()
        loop = vars(executor)["_client"].loop
        loop.add_callback(is_lost.wait)  # nothing is fetched until then
        works.wait_until(lambda: mark.read_text() == "again", 120)
        is_lost.set()
        assert type(future.exception(timeout=120)).__name__ == "KilledWorker"


def test_ctrl_c_drops_what_waits_on_a_cluster(cluster: Any, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    first = [folder / member.name for member in sweep().members[:2]]
    thread = works.interrupt_when(lambda: all((each / "run.json").exists() for each in first))
    with pytest.raises(KeyboardInterrupt):
        run(cluster, folder, works.slow)
    thread.join()
    # Dask does not stop what runs: it ends by itself, and nothing else begins.
    works.wait_until(lambda: not sweep_state(folder).members("running"))
    counts = sweep_state(folder).counts
    assert set(counts) == {"finished", "waiting"}
    assert_complete(run(cluster, folder, works.quick, resume=True))


def test_an_address_without_a_scheduler_is_one_sentence() -> None:
    with pytest.raises(ArgumentError, match=r"No Dask scheduler answers at 'nonsense://1'.*\.$"):
        dask_executor("nonsense://1")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'gradpath\[dask\]'"):
        dask_executor("tcp://127.0.0.1:1")
