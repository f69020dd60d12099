"""What is recorded is read back; what is no run, or is not for us, is one clear sentence."""

import json
import math
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as npst

from gradpath.diagnostics.errors import ArgumentError, GradpathError
from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.probes import (
    Cost,
    EigenvalueRecord,
    Event,
    Field,
    HistogramRecord,
    Record,
    Run,
    RunWriter,
    Scalar,
    ScalarTable,
    StoreError,
    runs,
    schema,
)
from gradpath.probes.arrays import pack, unpack
from tests.package import ROOT
from tests.probes import recorded

STORED = ROOT / "tests" / "probes" / "data"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "run"
    recorded.write(folder)
    return folder


@pytest.fixture(params=["now", "run_v1", "run_v2"])
def run(request: pytest.FixtureRequest, written: Path) -> Run:
    """The known run, written just now and stored by each version of the schema."""
    return Run(written if request.param == "now" else STORED / request.param)


def test_names_steps_and_metadata(run: Run) -> None:
    assert run.status == "finished"
    assert (run.terms, run.layers, run.steps) == (recorded.TERMS, recorded.LAYERS, recorded.STEPS)
    assert run.parts == ("",)
    assert recorded.METADATA.items() <= run.metadata.items()
    assert run.metadata["started"] <= run.metadata["ended"]
    assert set(run.metadata["versions"]) >= {"python", "gradpath", "torch", "numpy"}
    assert run.metadata["command"]
    assert "commit" in run.metadata["git"]


def test_scalars_of_a_name(run: Run) -> None:
    frame = run.scalars("loss")
    assert list(frame.columns) == ["step", "term", "layer", "value"]
    total = frame[frame["term"] == "total"]
    assert total["value"].tolist() == [3.25, 13.25, 23.25]
    residual = frame[frame["term"] == "residual"]
    assert residual["value"].tolist() == [0.1, 10.1, math.inf]
    boundary = frame[frame["term"] == "boundary"]["value"].to_numpy()
    np.testing.assert_array_equal(boundary, [1.0, 1 / 11, np.nan])
    assert frame.dtypes["step"] == np.int64
    assert frame.dtypes["value"] == np.float64


def test_scalars_of_all_names(run: Run) -> None:
    frame = run.scalars()
    assert list(frame.columns) == ["step", "name", "term", "layer", "value"]
    assert len(frame) == 3 * 4
    assert set(frame["name"]) == {"loss", "learning_rate"}


def test_what_was_not_recorded_is_an_empty_frame(run: Run) -> None:
    frame = run.scalars("no such thing")
    assert list(frame.columns) == ["step", "term", "layer", "value"]
    assert frame.empty
    assert frame.dtypes["value"] == np.float64
    assert run.histograms(step=5).empty
    assert run.eigenvalues("gauss_newton").empty
    assert run.fields("v").empty


def test_eigenvalues_with_their_evidence(run: Run) -> None:
    frame = run.eigenvalues()
    assert list(frame.columns) == [
        *("step", "term", "layer", "end", "value", "lower", "upper", "residual"),
        *("products", "converged", "status", "operator", "batch"),
    ]
    for row in frame.to_dict("records"):
        known = recorded.eigenvalue(row["step"], row["end"])
        for name in ("value", "lower", "upper", "residual", "products", "converged", "status"):
            np.testing.assert_equal(row[name], getattr(known, name))
        assert [row["term"], row["layer"], row["operator"]] == ["total", "all", "hessian"]
        assert row["batch"] == "training"
    assert len(frame) == 6


def test_histograms(run: Run) -> None:
    frame = run.histograms()
    assert list(frame.columns) == ["step", "term", "layer", "histogram"]
    assert len(frame) == 3 * 2 * 2
    for row in frame.to_dict("records"):
        known = recorded.histogram(row["step"], row["term"], row["layer"])
        assert row["histogram"] == known
    some = run.histograms(step=10, term="boundary", layer="2")
    assert some["histogram"].tolist() == [recorded.histogram(10, "boundary", "2")]


def test_fields(run: Run) -> None:
    frame = run.fields("u")
    assert list(frame.columns) == ["step", "term", "layer", "values", "grid"]
    for row in frame.to_dict("records"):
        assert row["values"].dtype == np.float32
        expected = np.float32(row["step"]) + recorded.GRID.astype(np.float32)
        np.testing.assert_array_equal(row["values"], expected)
        np.testing.assert_array_equal(row["grid"], recorded.GRID)
    assert list(run.fields(step=10)["name"]) == ["u"]


def test_events_cost_timeline_and_findings(run: Run) -> None:
    events = run.events()
    assert events[["step", "kind", "text", "source"]].to_numpy().tolist() == [
        [20, "missing", "The loss is not finite.", "stiffness"]
    ]
    assert run.cost().to_dict("list") == {
        "step": [0, 10, 20],
        "instrument": ["stiffness"] * 3,
        "seconds": [0.5, 10.5, 20.5],
    }
    timeline = run.timeline()
    assert list(timeline.columns) == ["step", "time", "elapsed", "evaluations"]
    assert timeline["evaluations"].tolist() == [0, 20, 40]
    assert timeline["elapsed"].is_monotonic_increasing
    assert timeline["time"].is_monotonic_increasing
    assert run.recorded_findings() == (recorded.FINDING,)
    assert run.findings[0] == recorded.FINDING


def test_a_stored_grid_is_stored_once(written: Path) -> None:
    with sqlite3.connect(written / "run.db") as connection:
        assert connection.execute("SELECT count(*) FROM grids").fetchone() == (1,)
    connection.close()


def test_parts_and_batches_show_where_there_are_several(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.record(0, [Scalar("loss", 1.0)], part="generator")
        writer.record(0, [Scalar("loss", 2.0), Cost("losses", 0.1)], part="critic")
        writer.record(5, [Scalar("loss", 3.0, batch="grid")], part="critic")
        writer.note(Event("missing", "No gradient.", "losses"), part="critic")
    run = Run(tmp_path)
    assert run.steps == (0, 5)
    assert sorted(run.parts) == ["critic", "generator"]
    frame = run.scalars("loss").set_index("value")
    assert list(frame.columns) == ["step", "term", "layer", "part", "batch"]
    assert frame.loc[3.0].to_dict() == {
        **{"step": 5, "term": "", "layer": ""},
        **{"part": "critic", "batch": "grid"},
    }
    assert run.cost()["part"].tolist() == ["critic"]
    assert run.events()["part"].tolist() == ["critic"]
    assert run.events()["step"].isna().all()
    assert len(run.timeline()) == 3


@given(npst.arrays(st.sampled_from(["<f4", "<f8"]), npst.array_shapes(min_dims=0, min_side=0)))
def test_arrays_come_back_bit_by_bit(array: np.ndarray) -> None:
    back = unpack(*pack(array))
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_any_float_comes_back(tmp_path: Path) -> None:
    numbers = [0.0, 1.0, -1.5, 5e-324, 1.7e308, math.inf, -math.inf, math.nan, 2.0**60, 1 / 3]
    with RunWriter(tmp_path) as writer:
        writer.record(0, [Scalar("x", number, str(k)) for k, number in enumerate(numbers)])
    np.testing.assert_array_equal(Run(tmp_path).scalars("x")["value"].to_numpy(), numbers)


def test_a_tensor_and_a_numpy_number_are_numbers(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        step = np.int64(3)
        writer.record(step, [Scalar("x", torch.tensor(2.0)), Scalar("y", np.float32(0.5))])  # type: ignore[arg-type]
    assert Run(tmp_path).scalars()["value"].tolist() == [2.0, 0.5]


def test_names_that_no_file_can_hold_are_stored_as_python_writes_them(tmp_path: Path) -> None:
    name, stored = "u\udcff", r"u\udcff"
    records: list[Record] = [
        ScalarTable(("loss",), np.ones((1, 1, 1)), (name,), (name,)),
        Scalar("own", 2.0, name, name),
        HistogramRecord(GradientHistogram.of(torch.ones(3)), name, name),
        Event("missing", f"nothing of {name}"),
    ]
    for step in range(3):
        # A resumed run must know the stored name again.
        with RunWriter(tmp_path, resume=step > 0) as writer:
            writer.record(2 * step, records)
            writer.record(2 * step + 1, records)
    run = Run(tmp_path)
    assert (run.terms, run.layers, len(run.steps)) == ((stored,), (stored,), 6)
    assert run.scalars("loss")["value"].tolist() == [1.0] * 6
    assert set(run.scalars("own")["layer"]) == set(run.histograms()["term"]) == {stored}
    assert f"nothing of {stored}" in set(run.events()["text"])


# One step, once.


def test_a_step_is_recorded_once(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.record(4, [Scalar("loss", 1.0)])
        with pytest.raises(StoreError, match="Step 4 is recorded already"):
            writer.record(4, [Scalar("weight", 1.0)])
        writer.record(4, [Scalar("loss", 2.0)], part="critic")
        writer.record(3, [Scalar("loss", 0.0)])
    assert Run(tmp_path).scalars("loss")["value"].tolist() == [0.0, 1.0, 2.0]


def test_two_measurements_of_one_name_are_refused_whole(tmp_path: Path) -> None:
    twice = [Scalar("new", 1.0), Scalar("loss", 1.0, "a"), Scalar("loss", 2.0, "a")]
    with RunWriter(tmp_path) as writer:
        with pytest.raises(StoreError, match="two scalars named 'loss' of term 'a' in layer ''"):
            writer.record(0, twice)
        writer.record(0, twice[:2])
    assert Run(tmp_path).scalars()["value"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("step", [-1, 2**63])
def test_a_step_is_a_natural_number(tmp_path: Path, step: int) -> None:
    with RunWriter(tmp_path) as writer, pytest.raises(ArgumentError, match="number steps from 0"):
        writer.record(step, [])


def test_a_resumed_training_replaces_what_comes_after_its_checkpoint(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        for step in range(0, 100, 10):
            told = Event("told", f"old {step}")
            writer.record(step, [Scalar("loss", 1.0), Cost("losses", 1.0), told])
            writer.record(step, [Scalar("loss", 1.0)], part="critic")
    elapsed = Run(tmp_path).timeline()["elapsed"].max()
    with RunWriter(tmp_path, resume=True) as writer:
        assert writer.elapsed >= elapsed
        assert writer.last_step() == 90
        assert writer.last_step("nobody") is None
        assert len(Run(tmp_path).steps) == 10, "nothing is replaced before there is something new"
        writer.record(65, [Scalar("loss", 2.0)])
        writer.record(55, [Scalar("loss", 2.0)])  # from another thread, a little late
        writer.record(75, [Scalar("loss", 2.0)])
        with pytest.raises(StoreError, match="recorded already"):
            writer.record(65, [])
    run = Run(tmp_path)
    losses = run.scalars("loss").query("part == ''")
    assert losses["step"].tolist() == [0, 10, 20, 30, 40, 50, 55, 65, 75]
    assert losses["value"].tolist() == [1.0] * 6 + [2.0] * 3
    assert run.cost()["step"].tolist() == [0, 10, 20, 30, 40, 50]
    assert len(run.scalars("loss").query("part == 'critic'")) == 10, "the critic had no step yet"
    events = run.events()
    assert events["step"].tolist() == [0, 10, 20, 30, 40, 50, 65]
    assert events["text"].iloc[-1] == (
        "Resumed at step 65, which replaced 3 steps recorded from there on."
    )
    assert run.status == "finished"
    assert len(run.metadata["earlier"]) == 1


def test_a_replacement_that_fails_replaces_nothing(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.record(5, [Scalar("loss", 1.0)])
    with RunWriter(tmp_path, resume=True) as writer:
        with pytest.raises(StoreError, match="two scalars"):
            writer.record(0, [Scalar("loss", 2.0)] * 2)
        assert Run(tmp_path).steps == (5,)
        writer.record(0, [Scalar("loss", 3.0)])
    assert Run(tmp_path).scalars("loss")["value"].tolist() == [3.0]


# How a run ends.


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    with pytest.raises(ZeroDivisionError), writer:
        raise ZeroDivisionError("by the learning rate")
    run = Run(tmp_path)
    assert run.status == "failed"
    assert run.metadata["error"] == "ZeroDivisionError: by the learning rate"
    with pytest.raises(StoreError, match="is failed, so this process cannot record"):
        writer.record(1, [])
    with RunWriter(tmp_path, resume=True):
        assert Run(tmp_path).status == "running"
        assert Run(tmp_path).metadata["error"] is None
    (earlier,) = Run(tmp_path).metadata["earlier"]
    assert earlier["status"] == "failed"
    assert earlier["error"] == "ZeroDivisionError: by the learning rate"


def test_a_finished_run_is_sealed(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path)
    writer.record(0, [Scalar("loss", 1.0)])
    assert (tmp_path / "run.db-wal").exists()
    writer.finish()
    writer.finish()
    assert {path.name for path in tmp_path.iterdir()} == {"run.db", "run.json", "run.lock"}
    assert (tmp_path / "run.db").read_bytes()[18:20] == b"\1\1"  # no WAL: readable anywhere


def test_a_run_is_finished_also_while_somebody_reads_on_and_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_PATIENCE_SECONDS", 0.05)
    writer = RunWriter(tmp_path)
    writer.record(0, [Scalar("loss", 1.0)])
    reader = sqlite3.connect(tmp_path / "run.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM scalars").fetchall()
    writer.finish()
    reader.close()
    assert Run(tmp_path).status == "finished"
    assert Run(tmp_path).steps == (0,)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_both_journals_write_the_same_run(
    tmp_path: Path, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADPATH_JOURNAL", journal)
    writer = RunWriter(tmp_path)
    writer.record(0, [Scalar("loss", 1.0)])
    assert (tmp_path / "run.db-wal").exists() == (journal == "wal")
    assert Run(tmp_path).scalars("loss")["value"].tolist() == [1.0]
    writer.finish()


def test_where_wal_cannot_work_the_other_journal_is_taken(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.record(0, [Scalar("loss", 1.0)])
    # A file that cannot be made is what a file system without shared memory looks like.
    (tmp_path / "run.db-shm").symlink_to(tmp_path / "nowhere" / "run.db-shm")
    with RunWriter(tmp_path, resume=True) as writer:
        writer.record(1, [Scalar("loss", 2.0)])
        assert not (tmp_path / "run.db-wal").exists()
        assert Run(tmp_path).scalars("loss")["value"].tolist() == [1.0, 2.0]


def test_an_unknown_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match='give "wal" or "delete"'):
        RunWriter(tmp_path, journal="memory")


def test_a_run_can_be_described_on_the_way(tmp_path: Path) -> None:
    with RunWriter(tmp_path, metadata={"seed": 0}) as writer:
        writer.describe(loss="residual + 10 * boundary", parameters=torch.tensor([3, 4]))
        metadata = Run(tmp_path).metadata
        assert (metadata["loss"], metadata["seed"]) == ("residual + 10 * boundary", 0)
        assert metadata["parameters"] == [3, 4]
        with pytest.raises(ArgumentError, match="'status'"):
            writer.describe(status="good")
    assert Run(tmp_path).metadata["loss"] == "residual + 10 * boundary"


def test_the_repository_is_that_of_the_users_script(tmp_path: Path) -> None:
    script = tmp_path / "code" / "train.py"
    script.parent.mkdir()
    script.write_text(f"from gradpath.probes import RunWriter\nRunWriter({str(tmp_path)!r} + '/'"
                      " + __import__('sys').argv[1]).finish()\n")  # fmt: skip
    git = ["git", "-C", str(script.parent), "-c", "user.name=n", "-c", "user.email=e@x"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)

    def repository(name: str) -> dict[str, object]:
        subprocess.run([sys.executable, script, name], cwd=tmp_path, check=True)
        found = Run(tmp_path / name).metadata["git"]
        assert isinstance(found, dict)
        return found

    clean = repository("clean")
    assert clean["dirty"] is False
    assert len(str(clean["commit"])) == 40
    (script.parent / "notes.txt").write_text("git does not follow this")
    assert repository("with notes")["dirty"] is False
    script.write_text(script.read_text() + "# changed\n")
    assert repository("dirty") == clean | {"dirty": True}


# One sentence each.


def foreign_database(folder: Path) -> None:
    (folder / "run.json").write_text('{"status": "finished"}')
    with sqlite3.connect(folder / "run.db") as connection:
        connection.execute("CREATE TABLE run (a)")
    connection.close()


def newer_version(folder: Path) -> None:
    recorded.write(folder)
    with sqlite3.connect(folder / "run.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def without(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        recorded.write(folder)
        (folder / name).unlink()

    return make


def with_text(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        recorded.write(folder)
        (folder / name).write_text("This is something else. " * 50)

    return make


def empty_database(folder: Path) -> None:
    recorded.write(folder)
    (folder / "run.db").write_bytes(b"")


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "an empty folder": (lambda _: None, "is no run: it has no run.json"),
    "another program's": (foreign_database, "made by another program"),
    "newer": (newer_version, "written by a newer gradpath .* update gradpath"),
    "no database": (without("run.db"), "its run.db is missing; a run is moved as the whole folder"),
    "no document": (without("run.json"), "is no run: it has no run.json"),
    "a damaged document": (with_text("run.json"), "its run.json is damaged; restore it"),
    "a damaged database": (with_text("run.db"), "its run.db is damaged or no database"),
    "an empty database": (empty_database, "is no run: its run.db holds none of gradpath's tables"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_run_is_told_in_one_sentence(tmp_path: Path, case: str) -> None:
    make, sentence = BROKEN[case]
    make(tmp_path)
    with pytest.raises(StoreError, match=sentence) as caught:
        Run(tmp_path)
    text = str(caught.value)
    assert str(tmp_path) in text
    assert "\n" not in text
    assert isinstance(caught.value, GradpathError)


@pytest.mark.parametrize(
    "case", ["another program's", "newer", "no database", "a damaged database"]
)
def test_what_is_no_run_is_not_resumed(tmp_path: Path, case: str) -> None:
    make, _ = BROKEN[case]
    make(tmp_path)
    before = {
        path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.lock"
    }
    with pytest.raises(StoreError):
        RunWriter(tmp_path, resume=True)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "run.lock"}
    assert after == before


def test_a_missing_folder_and_a_file_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"There is no run at .*nowhere: the folder does not exist"
    ):
        Run(tmp_path / "nowhere")
    (tmp_path / "file").write_text("text")
    with pytest.raises(StoreError, match="is a file and no run"):
        Run(tmp_path / "file")
    with pytest.raises(StoreError, match="is a file: give the run a folder"):
        RunWriter(tmp_path / "file")
    with pytest.raises(StoreError, match="There is no folder"):
        runs(tmp_path / "nowhere")


def test_a_run_is_not_overwritten(written: Path) -> None:
    with pytest.raises(StoreError, match=r"a run at .* already: give another folder, or `resume"):
        RunWriter(written)
    assert Run(written).steps == recorded.STEPS


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("text")
    with pytest.raises(StoreError, match="is no run and holds other files"):
        RunWriter(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_start_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "run.db").write_bytes(b"half a database")
    (tmp_path / "run.db-wal").write_bytes(b"and its log")
    (tmp_path / "run.lock").write_bytes(b"")
    (tmp_path / "run.json.new").write_bytes(b"{")
    with RunWriter(tmp_path) as writer:
        writer.record(0, [Scalar("loss", 1.0)])
    assert Run(tmp_path).steps == (0,)


# Moving, many runs, versions.


def test_a_finished_run_moves_as_a_folder(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "a ?copy# of 100% d'été")
    copy = Run(tmp_path / "a ?copy# of 100% d'été")
    pd.testing.assert_frame_equal(copy.scalars(), Run(written).scalars())


def test_a_run_stays_where_it_is_when_the_working_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    writer = RunWriter("runs/a")
    (tmp_path / "elsewhere").mkdir()
    run = Run("runs/a")
    monkeypatch.chdir(tmp_path / "elsewhere")
    writer.record(0, [Scalar("loss", 1.0)])
    writer.finish()
    assert run.status == "finished"


def test_one_row_a_run(tmp_path: Path, written: Path) -> None:
    shutil.copytree(written, tmp_path / "deep" / "er" / "known")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    writer = RunWriter(tmp_path / "failed")
    writer.record(8, [Scalar("loss", math.nan, "total")])
    writer.fail(ValueError("Sorry"))
    (tmp_path / "no run").mkdir()
    with RunWriter(tmp_path / "live", metadata={"model": "M4", "note": None, "tags": ["a"]}):
        frame = runs(tmp_path).set_index("path")
    frame.index = frame.index.map(lambda path: Path(path).relative_to(tmp_path).as_posix())
    assert frame["status"].to_dict() == {
        "broken": "broken",
        "deep/er/known": "finished",
        "failed": "failed",
        "live": "running",
    }
    known = frame.loc["deep/er/known"]
    assert (known["model"], known["complexity"], known["seed"]) == ("M1", 4, 7)
    assert (known["steps"], known["last_step"], known["loss"]) == (3, 20, 23.25)
    assert known["started"].tzinfo is not None
    assert "its run.json is damaged" in str(frame.loc["broken", "error"])
    assert frame.loc["failed", "error"] == "ValueError: Sorry"
    assert np.isnan(frame["loss"]["failed"])
    assert frame.loc["live", "steps"] == 0
    assert "tags" not in frame


@pytest.mark.parametrize("seed", [7, 2**53 + 1, 2**64 - 1])
def test_seeds_keep_every_digit_beside_a_run_that_has_none(tmp_path: Path, seed: int) -> None:
    RunWriter(tmp_path / "a", metadata={"seed": seed}).finish()
    RunWriter(tmp_path / "b").finish()
    seeds = runs(tmp_path).set_index("path")["seed"]
    assert seeds[str(tmp_path / "a")] == seed
    assert pd.isna(seeds[str(tmp_path / "b")])


def test_a_folder_without_runs_has_no_rows(tmp_path: Path) -> None:
    frame = runs(tmp_path)
    assert frame.empty
    assert list(frame.columns[:2]) == ["path", "status"]


@pytest.fixture
def a_later_version(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = (*schema.MIGRATIONS, "ALTER TABLE steps ADD COLUMN mood TEXT DEFAULT 'fine';")
    monkeypatch.setattr(schema, "MIGRATIONS", newer)


@pytest.mark.usefixtures("a_later_version")
@pytest.mark.parametrize("stored", ["run_v1", "run_v2"])
def test_an_older_version_is_read_in_memory_and_migrated_by_a_writer(
    tmp_path: Path, stored: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(STORED / stored, folder)
    before = (folder / "run.db").read_bytes()
    run = Run(folder)
    assert run.steps == recorded.STEPS
    with run._reading() as connection:
        assert connection.execute("SELECT DISTINCT mood FROM steps").fetchall() == [("fine",)]
    assert (folder / "run.db").read_bytes() == before
    RunWriter(folder, resume=True).finish()
    with sqlite3.connect(folder / "run.db") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(schema.MIGRATIONS),)
    connection.close()
    assert Run(folder).scalars("loss").shape == (9, 4)


@pytest.mark.parametrize("version", [1, 2])
def test_the_stored_file_is_of_its_version(version: int) -> None:
    folder = STORED / f"run_v{version}"
    with sqlite3.connect(f"file:{folder / 'run.db'}?mode=ro", uri=True) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
    connection.close()
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_reading_scalars_loads_no_torch(written: Path) -> None:
    program = (
        "import sys; from gradpath.probes.store import Run, runs; "
        f"run = Run({str(written)!r}); assert len(run.scalars()) == 12; run.findings; "
        "print([name for name in ('torch', 'matplotlib') if name in sys.modules])"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_writing_loads_neither_torch_nor_pandas(tmp_path: Path) -> None:
    program = (
        "import sys; from gradpath.probes import RunWriter, Scalar\n"
        f"with RunWriter({str(tmp_path)!r}) as writer: writer.record(0, [Scalar('loss', 1.0)])\n"
        "print([name for name in ('torch', 'pandas') if name in sys.modules])"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_records_of_several_operators_are_kept_apart(tmp_path: Path) -> None:
    found = recorded.eigenvalue(0, "largest")
    with RunWriter(tmp_path) as writer:
        writer.record(
            0,
            [
                EigenvalueRecord(found, "largest"),
                EigenvalueRecord(found, "largest", name="preconditioned_hessian"),
                HistogramRecord(recorded.histogram(0, "a", "0"), "a", "0", name="update"),
                Field("error", np.zeros((2, 3))),
            ],
        )
    run = Run(tmp_path)
    assert len(run.eigenvalues()) == 1
    assert len(run.eigenvalues("preconditioned_hessian")) == 1
    assert run.histograms().empty
    assert len(run.histograms(name="update")) == 1
    assert run.fields().iloc[0]["grid"] is None
    assert run.fields().iloc[0]["values"].shape == (2, 3)


def test_steps_with_histograms_are_known_without_reading_them(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        for step, layers in ((0, "ab"), (5, ""), (10, "b")):
            found = [
                HistogramRecord(recorded.histogram(0, "a", "0"), term, layer)
                for term in ("residual", "boundary")
                for layer in layers
            ]
            writer.record(step, [Scalar("loss", 1.0), *found])
    found_steps = Run(tmp_path).histogram_steps()
    assert found_steps[["step", "count"]].to_dict("list") == {"step": [0, 10], "count": [4, 2]}
    assert Run(tmp_path).histogram_steps("update").empty
