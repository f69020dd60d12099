"""What is exported is read back by pandas and TensorBoard as what was recorded."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gradpath.diagnostics.errors import ArgumentError, MissingPackageError
from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.probes import Field, Run, RunWriter, Scalar, export_tables
from gradpath.probes.export import ExportError, export
from tests.probes import recorded

TABLES = {"scalars", "eigenvalues", "histograms", "histogram_bins", "fields", "costs", "events",
          "findings", "timeline"}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("recorded") / "run"
    recorded.write(folder)
    return Run(folder)


def read(folder: Path, table: str) -> pd.DataFrame:
    if (folder / f"{table}.parquet").exists():
        return pd.read_parquet(folder / f"{table}.parquet")
    # As docs/command_line.md tells to: names may be empty.
    return pd.read_csv(folder / f"{table}.csv", keep_default_na=False, na_values=["nan"])


@pytest.fixture(scope="module", params=["csv", "parquet"])
def tables(
    request: pytest.FixtureRequest, run: Run, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pd.DataFrame]:
    folder = export(run, request.param, tmp_path_factory.mktemp("exported") / "tables")
    assert {path.name for path in folder.iterdir()} == {
        "run.json",
        *(f"{table}.{request.param}" for table in TABLES),
    }
    assert json.loads((folder / "run.json").read_text()) == run.metadata
    return {table: read(folder, table) for table in TABLES}


def test_scalars(tables: dict[str, pd.DataFrame], run: Run) -> None:
    found = tables["scalars"]
    assert list(found) == ["step", "name", "term", "layer", "part", "batch", "value"]
    assert set(found["part"]) == {""}
    assert set(found["batch"]) == {"training"}
    known = run.scalars()
    pd.testing.assert_frame_equal(found[list(known)], known)


def test_eigenvalues(tables: dict[str, pd.DataFrame], run: Run) -> None:
    known = run.eigenvalues().rename(columns={"operator": "name"})
    pd.testing.assert_frame_equal(tables["eigenvalues"][list(known)], known)


def test_histograms(tables: dict[str, pd.DataFrame]) -> None:
    found = tables["histograms"]
    assert len(found) == len(recorded.STEPS) * len(recorded.TERMS) * len(recorded.LAYERS)
    for row in found.astype({"layer": str}).to_dict("records"):
        known = recorded.histogram(row["step"], row["term"], row["layer"])
        assert (row["entries"], row["zeros"], row["nans"]) == (known.count, known.zeros, known.nans)
        assert row["quantile_0.25"] == known.quantile(0.25)
        assert row["name"] == "gradient"


def test_bins_hold_every_entry(tables: dict[str, pd.DataFrame]) -> None:
    found = tables["histogram_bins"].astype({"layer": str})
    for step in recorded.STEPS:
        for term in recorded.TERMS:
            for layer in recorded.LAYERS:
                bins = found.query(f"step == {step} and term == '{term}' and layer == '{layer}'")
                assert bins["count"].sum() == recorded.histogram(step, term, layer).count
                # The entries were -3, -2, ..., of which the first ones have bins of their own.
                assert bins["lower"].iloc[2] <= -1 <= bins["upper"].iloc[2]
                assert (bins["lower"].to_numpy()[1:] > bins["upper"].to_numpy()[:-1]).all()


def test_fields(tables: dict[str, pd.DataFrame]) -> None:
    found = tables["fields"]
    of_step = found[found["step"] == 10]
    np.testing.assert_array_equal(of_step["x0"], recorded.GRID)
    np.testing.assert_array_equal(
        of_step["value"], np.float32(10) + recorded.GRID.astype(np.float32)
    )
    assert of_step["entry"].tolist() == list(range(len(recorded.GRID)))


def test_what_is_said_in_words(tables: dict[str, pd.DataFrame], run: Run) -> None:
    (event,) = tables["events"].to_dict("records")
    assert (event["step"], event["text"]) == (20, "The loss is not finite.")
    finding, *diagnosed = tables["findings"].to_dict("records")
    assert [each["code"] for each in diagnosed] == [each.code for each in run.findings[1:]]
    assert finding["verdict"] == recorded.FINDING.verdict
    assert json.loads(finding["evidence"]) == recorded.FINDING.evidence
    assert json.loads(finding["advice"]) == list(recorded.FINDING.advice)
    assert tables["timeline"]["evaluations"].tolist() == [0, 20, 40]
    assert tables["costs"]["seconds"].tolist() == run.cost()["seconds"].tolist()


@pytest.fixture(scope="module")
def events(run: Run, tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    folder = export(run, "tensorboard", tmp_path_factory.mktemp("events") / "events")
    everything = dict.fromkeys(("scalars", "histograms", "tensors"), 0)
    found = EventAccumulator(str(folder), size_guidance=everything)
    found.Reload()
    return found


class TestTensorBoard:
    def test_scalars_with_their_times(self, events: EventAccumulator, run: Run) -> None:
        found = events.Scalars("loss/residual")
        assert [event.step for event in found] == [0, 10, 20]
        np.testing.assert_allclose([event.value for event in found], [0.1, 10.1, math.inf])
        times = run.timeline()["time"].map(pd.Timestamp.timestamp)
        np.testing.assert_allclose([event.wall_time for event in found], times, rtol=0, atol=1e-3)
        (_, _, last) = events.Scalars("loss/boundary")
        assert math.isnan(last.value)

    def test_eigenvalues_with_their_intervals(self, events: EventAccumulator) -> None:
        tags = ("largest", "largest (lower bound)", "largest (upper bound)", "smallest")
        firsts = [events.Scalars(f"hessian/total/all/{tag}")[0].value for tag in tags]
        np.testing.assert_allclose(firsts, [5.5, 5.4, 5.6, -5.5], rtol=1e-6)

    def test_every_histogram_of_every_step(self, events: EventAccumulator) -> None:
        assert len(events.Tags()["histograms"]) == len(recorded.TERMS) * len(recorded.LAYERS)
        for term in recorded.TERMS:
            for layer in recorded.LAYERS:
                for event in events.Histograms(f"gradient/{term}/{layer}"):
                    self.check(event.histogram_value, recorded.histogram(event.step, term, layer))

    def check(self, found: Any, known: GradientHistogram) -> None:
        counts, edges = known.to_numpy()
        assert (found.num, found.min, found.max) == (known.count, edges[0], edges[-1])
        assert found.bucket_limit == edges.tolist()
        assert found.bucket == [0, *counts]
        entries = np.arange(known.count) - 3.0
        np.testing.assert_allclose(found.sum, entries.sum(), rtol=0.05)

    def test_words(self, events: EventAccumulator) -> None:
        (event,) = events.Tensors("events/text_summary")
        assert event.step == 20
        assert event.tensor_proto.string_val == [b"The loss is not finite. (stiffness)"]
        finding, *_ = events.Tensors("findings/text_summary")
        assert b"GP101" in finding.tensor_proto.string_val[0]

    def test_values_that_it_cannot_hold(self, tmp_path: Path) -> None:
        with RunWriter(tmp_path / "run") as writer:
            writer.record(0, [Scalar("loss", 1e300, "a/b \u2603")])
        export(Run(tmp_path / "run"), "tensorboard", tmp_path / "events")
        found = EventAccumulator(str(tmp_path / "events"))
        found.Reload()
        (event,) = found.Scalars("loss/a|b \u2603")
        assert event.value == math.inf


@pytest.mark.parametrize("to", ["csv", "parquet", "tensorboard"])
class TestAnyFormat:
    def test_an_empty_run_has_all_tables(self, to: str, tmp_path: Path) -> None:
        RunWriter(tmp_path / "run").finish()
        folder = export(Run(tmp_path / "run"), to, tmp_path / "out")
        if to == "tensorboard":
            return
        for table in TABLES:
            assert read(folder, table).empty
            assert len(read(folder, table).columns) >= 3

    def test_nothing_is_overwritten(self, to: str, run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path, tmp_path / "file"):
            with pytest.raises(ExportError, match="already: give the export a new folder"):
                export(run, to, path)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_an_empty_folder_is_filled(self, to: str, run: Run, tmp_path: Path) -> None:
        assert export(run, to, tmp_path) == tmp_path
        assert (tmp_path / "run.json").exists()

    def test_a_folder_that_cannot_be_made(self, to: str, run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ExportError, match="give another folder"):
            export(run, to, tmp_path / "file" / "out")


def test_a_failed_export_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_tables, "write_csv", fail)
    with pytest.raises(ExportError, match="No space left on device"):
        export(run, "csv", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "package"), [("parquet", "pyarrow"), ("tensorboard", "tensorboard")]
)
def test_a_missing_package_is_named_with_its_extra(
    to: str, package: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"needs {package}: .*'gradpath\[{to}\]'"):
        export(run, to, tmp_path / "out")


def test_an_unknown_format_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="csv, parquet, tensorboard, not to 'xlsx'"):
        export(run, "xlsx", tmp_path / "out")


def test_parts_and_batches_are_columns(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        writer.record(0, [Scalar("loss", 1.0), Scalar("loss", 2.0, batch="fixed")], part="critic")
    found = read(export(Run(tmp_path / "run"), "csv", tmp_path / "out"), "scalars")
    assert found["part"].tolist() == ["critic", "critic"]
    assert found["batch"].tolist() == ["training", "fixed"]


@pytest.mark.parametrize(
    ("values", "grid", "coordinates"),
    [
        ((3,), None, []),
        ((3,), (3,), [[0, 1, 2]]),
        ((3, 1), (3, 2), [[0, 2, 4], [1, 3, 5]]),
        # Two outputs at each of two points in the plane.
        ((2, 2), (2, 2), [[0, 0, 2, 2], [1, 1, 3, 3]]),
        # An image, and a point for each of its pixels.
        ((2, 2), (2, 2, 2), [[0, 2, 4, 6], [1, 3, 5, 7]]),
        # Nobody knows which number belongs to which.
        ((2, 3), (2, 2, 3), []),
        ((), None, []),
    ],
)
def test_a_field_is_a_row_an_entry(
    values: tuple[int, ...],
    grid: tuple[int, ...] | None,
    coordinates: list[list[int]],
    tmp_path: Path,
) -> None:
    array = np.arange(math.prod(values), dtype=np.float64).reshape(values)
    points = None if grid is None else np.arange(math.prod(grid), dtype=np.float64).reshape(grid)
    with RunWriter(tmp_path / "run") as writer:
        writer.record(0, [Field("u", array, points)])
    found = read(export(Run(tmp_path / "run"), "csv", tmp_path / "out"), "fields")
    assert found["value"].tolist() == array.reshape(-1).tolist()
    axes = found.drop(columns=["step", "name", "term", "layer", "part", "batch", "entry", "value"])
    assert axes.to_numpy().T.tolist() == coordinates


def test_tables_are_written_without_pytorch(run: Run, tmp_path: Path) -> None:
    program = (
        "import sys; from gradpath.probes import Run; from gradpath.probes.export import export; "
        f"export(Run({str(run.folder)!r}), 'csv', {str(tmp_path / 'out')!r}); "
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
