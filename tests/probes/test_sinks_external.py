"""W&B, trackio, MLflow and Lightning's loggers, each read back from what it has stored."""

from __future__ import annotations

import json
import struct
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradpath.probes import ProbeWarning, Run
from gradpath.probes.sinks import LightningSink, MLflowSink, WandbLikeSink
from tests.probes.test_sinks import train

# What these packages warn of while they are imported and used is theirs to mend.
pytestmark = [pytest.mark.frameworks, pytest.mark.filterwarnings("default")]


def same_histogram(stored: Any, run: Run, step: int) -> bool:
    frame = run.histograms(step=step, term="data", layer="0")
    counts, edges = frame["histogram"].iloc[0].to_numpy()
    return bool(np.array_equal(stored["bins"], edges) and np.array_equal(stored["values"], counts))


def data_losses(run: Run) -> dict[int, float]:
    losses = run.scalars("loss").query("term == 'data'")
    return dict(zip(losses["step"], losses["value"], strict=True))


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off")
    run = wandb.init(mode="offline", dir=tmp_path, settings=settings)
    train(tmp_path / "run", [WandbLikeSink(run, wandb.Histogram)])
    run.finish()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    rows: list[dict[str, Any]] = []
    until = time.monotonic() + 60
    while not rows and time.monotonic() < until:  # a process of its own writes the file
        time.sleep(0.1)
        rows = wandb_rows(path)
    recorded = Run(tmp_path / "run")
    stored = {row["_step"]: row for row in rows}
    assert {step: row["loss/data"] for step, row in stored.items()} == data_losses(recorded)
    assert all(same_histogram(row["gradient/data/0"], recorded, s) for s, row in stored.items())


def wandb_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows that an offline run has stored; none while it is being written.

    Its file is a log of LevelDB's: after a header, blocks in which a record stands in one piece or
    in several, each after its checksum, length and kind (1 whole, 2 first, 3 inner, 4 last).
    """
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    rows = []
    is_complete = False
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little is left of the block
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        piece, at = data[at + 7 : at + 7 + length], at + 7 + length
        whole = piece if kind in (1, 2) else whole + piece
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            if record.WhichOneof("record_type") == "history":
                row: dict[str, Any] = {"_step": record.history.step.num}
                for item in record.history.item:
                    *outer, last = item.nested_key or [item.key]
                    place = row
                    for key in outer:
                        place = place.setdefault(key, {})
                    place[last] = json.loads(item.value_json)
                rows.append(row)
            is_complete |= record.WhichOneof("record_type") == "exit"
    return rows if is_complete else []


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    run = trackio.init(project="gradpath", name="first")
    train(tmp_path / "run", [WandbLikeSink(run, trackio.Histogram)])
    trackio.finish()
    rows = SQLiteStorage.get_logs("gradpath", "first")
    recorded = Run(tmp_path / "run")
    numbers = {row["step"]: row["loss/data"] for row in rows if "loss/data" in row}
    assert numbers == data_losses(recorded)
    histograms = {r["step"]: r["gradient/data/0"] for r in rows if "gradient/data/0" in r}
    assert set(histograms) == set(numbers)
    assert all(same_histogram(stored, recorded, step) for step, stored in histograms.items())


def test_mlflow(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow.create_experiment("e", artifact_location=(tmp_path / "files").as_uri())
    active = mlflow.start_run(experiment_id=experiment)
    sink = MLflowSink(active, mlflow)
    mlflow.end_run()  # the user's run may end before the probe's: nothing must start another one
    with pytest.warns(ProbeWarning, match="MLflow has no histograms"):
        train(tmp_path / "run", [sink])
    (tmp_path / "report.html").write_text("<p>healthy</p>")
    sink.log_report(tmp_path / "report.html")
    client = mlflow.MlflowClient()
    history = client.get_metric_history(active.info.run_id, "loss/data")
    assert {each.step: each.value for each in history} == data_losses(Run(tmp_path / "run"))
    (artifact,) = client.list_artifacts(active.info.run_id)
    assert artifact.path == "report.html"
    assert len(client.search_runs([experiment])) == 1
    # Names of terms may be source text, with characters that MLflow refuses.
    sink.scalars(9, {"loss/(u-v)**2, 'x'": 2.0})
    assert client.get_run(active.info.run_id).data.metrics["loss/_u-v___2_ _x_"] == 2.0


def test_a_lightning_logger_for_tensorboard(tmp_path: Path) -> None:
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    logger = loggers.TensorBoardLogger(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProbeWarning)
        train(tmp_path / "run", [LightningSink(logger)])
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(logger.log_dir)
    events.Reload()
    assert [each.step for each in events.Scalars("loss/data")] == [0, 1, 2, 3]
    assert {"gradient/data/0", "gradient/decay/0"} <= set(events.Tags()["histograms"])


def test_a_lightning_logger_of_numbers(tmp_path: Path) -> None:
    loggers = pytest.importorskip("lightning.pytorch.loggers")
    logger = loggers.CSVLogger(tmp_path)
    with pytest.warns(ProbeWarning, match="CSVLogger takes numbers alone"):
        train(tmp_path / "run", [LightningSink(logger)])
    rows = Path(logger.log_dir, "metrics.csv").read_text().splitlines()
    assert len(rows) == 1 + 4
    assert "loss/data" in rows[0].split(",")
