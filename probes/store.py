"""Reading runs, also while they are written.

A `Run` keeps nothing open: each question reads the newest state in one short transaction, because
one that is held lets the writer's log grow, and because what was read stays valid when the run is
moved, deleted or carried over a fork. No PyTorch is loaded before histograms are asked for.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from ..diagnostics.findings import Diagnosis
from .arrays import unpack
from .errors import StoreError as StoreError, explained
from .frames import (
    conditions,
    exact,
    named,
    quoted,
    series_named,
    steps_between,
    without_single_names,
    without_single_part,
)
from .live_backlogs import settle
from .lock import has_writer
from .packed_histograms import read_packed_histograms
from .packed_scalars import last_loss, read_scalars
from .records import Finding as Finding
from .recovery import has_waiting, open_completed
from .run_folder import folders_of_runs, status_of
from .run_json import read_document, tabular
from .schema import DATABASE, open_for_reading

__all__ = ["Finding", "Run", "StoreError", "runs"]


class Run:
    """One run on disk.

    The frames have one row a measurement, in the order of steps. `term` is "" for what belongs to
    no term of the loss and "total" for the weighted sum; `layer` is "" for what belongs to none
    and "all" for the whole network. A run of several models or optimizers has a further column
    `part`, and one with measurements on other points than those of the training step a column
    `batch`.

    Args:
        folder: of the run: a live one, a finished one, one that was killed, or a copy.

    Raises:
        StoreError: there is no run, it is damaged, or a newer version's. The other methods raise
            it when the files have become so.

    Example:
        >>> import tempfile
        >>> from gradpath.probes import RunWriter, Scalar
        >>> folder = tempfile.TemporaryDirectory()
        >>> writer = RunWriter(folder.name)
        >>> for step, loss in ((0, 3.0), (10, float("nan"))):
        ...     writer.record(step, [Scalar("loss", loss, term="boundary")])
        >>> run = Run(folder.name)
        >>> run.status, run.terms, run.steps
        ('running', ('boundary',), (0, 10))
        >>> run.scalars("loss")
           step      term layer  value
        0     0  boundary          3.0
        1    10  boundary          NaN
        >>> writer.finish()
        >>> folder.cleanup()
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).absolute()
        read_document(self.folder)
        with self._reading():
            pass

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed`, or `lost`: neither ended nor written by a process.

        A run is lost when its writer was killed, and so is a copy of one that was running.
        """
        return status_of(self.folder, self.metadata)

    @property
    def metadata(self) -> dict[str, Any]:
        """What run.json says."""
        return read_document(self.folder)

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the loss terms, in the order in which they were first recorded."""
        return self._names("term", ("", "total"))

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, in the order in which they were first recorded."""
        return self._names("layer", ("", "all"))

    @property
    def parts(self) -> tuple[str, ...]:
        """The models or optimizers that the run tells apart; ("",) where there is one."""
        with self._reading() as connection:
            found = connection.execute("SELECT part FROM steps GROUP BY part ORDER BY min(step)")
            return tuple(part for (part,) in found)

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps, ascending."""
        with self._reading() as connection:
            found = connection.execute("SELECT DISTINCT step FROM steps ORDER BY step")
            return tuple(step for (step,) in found)

    def timeline(self, *, since: int | None = None) -> pd.DataFrame:
        """Returns when each step was recorded.

        Columns: step, time, elapsed (seconds that the run had been going on, pauses before a
        resume left out), evaluations (of the loss so far, missing where nobody counted them).
        """
        columns = ["step", "part", "time", "elapsed", "evaluations"]
        with self._reading() as connection:
            found = connection.execute(
                f"SELECT {', '.join(columns)} FROM steps WHERE step >= ? ORDER BY step, part",
                (since or 0,),
            ).fetchall()
        frame = pd.DataFrame(found, columns=columns)
        frame["time"] = pd.to_datetime(frame["time"].astype(float), unit="s", utc=True)
        frame["evaluations"] = frame["evaluations"].astype("Int64")
        return without_single_part(frame.astype({"step": "int64", "elapsed": float, "part": str}))

    def scalars(self, name: str | None = None, *, since: int | None = None) -> pd.DataFrame:
        """Returns the numbers recorded under a name; without one, all, and `name` as a column.

        Columns: step, term, layer, value. With `since`, as elsewhere, from that step on.
        """
        with self._reading() as connection:
            series = series_named(connection, {} if name is None else {"name": name})
            found = read_scalars(connection, name, since)
        frame = named(found.steps, found.series, series)
        frame["value"] = found.values
        return without_single_names(frame, ["name"] if name is None else [])

    def eigenvalues(
        self, operator: str | None = "hessian", *, since: int | None = None
    ) -> pd.DataFrame:
        """Returns the ends of the spectra of an operator, each with its evidence; None: of all.

        Columns: step, term, layer, end ("largest" or "smallest"), value, lower, upper, residual,
        products, converged, status, operator, batch. See `Eigenvalue` for what they mean.
        """
        columns = {
            "end": "str",
            **dict.fromkeys(("value", "lower", "upper", "residual"), "float64"),
            "products": "int64",
            "converged": "bool",
            "status": "str",
        }
        frame = self._measurements("eigenvalues", columns, since=since, name=operator)
        frame = without_single_names(frame, ["name", "batch"]).rename(columns={"name": "operator"})
        return frame[[*frame.columns.drop(["operator", "batch"]), "operator", "batch"]]

    def histograms(
        self,
        step: int | None = None,
        term: str | None = None,
        layer: str | None = None,
        name: str | None = "gradient",
    ) -> pd.DataFrame:
        """Returns histograms of the gradient, or under another name of something else.

        Columns: step, term, layer, histogram (a `GradientHistogram`); without a name, `name` too.
        """
        from ..diagnostics.histograms import GradientHistogram

        frame = self.encoded_histograms(step, term, layer, name).rename(
            columns={"data": "histogram"}
        )
        frame["histogram"] = frame["histogram"].map(GradientHistogram.from_bytes)
        return frame

    def encoded_histograms(
        self,
        step: int | None = None,
        term: str | None = None,
        layer: str | None = None,
        name: str | None = "gradient",
    ) -> pd.DataFrame:
        """Returns histograms as the bytes that they are stored as, `data`; loads no PyTorch."""
        frame = self._measurements(
            "histograms", {"data": "object"}, step, name=name, term=term, layer=layer
        )
        return without_single_names(frame, ["name"] if name is None else [])

    def histogram_steps(self, name: str = "gradient") -> pd.DataFrame:
        """Returns at which steps there are histograms.

        Columns: step, part and batch as in other frames, count (how many histograms).

        Reading those of one step with `histograms` is quick, however many the run has.
        """
        frame = self._measurements("histograms", {}, name=name)
        counts = frame.groupby([*frame.columns.intersection(["step", "part", "batch"])])
        return counts.size().rename("count").reset_index()

    def fields(self, name: str | None = None, step: int | None = None) -> pd.DataFrame:
        """Returns arrays recorded under a name; without one, all, and `name` as a column.

        Columns: step, term, layer, values, grid (arrays; grid is None where none was given).
        """
        columns = dict.fromkeys(("dtype", "shape", "data", "grid"), "object")
        with self._reading() as connection:
            frame = self._measurements("fields", columns, step, connection, name=name)
            found = connection.execute("SELECT id, dtype, shape, data FROM grids").fetchall()
        grids = {number: unpack(*packed) for number, *packed in found}
        packed = zip(*(frame.pop(column) for column in ("dtype", "shape", "data")), strict=True)
        frame["values"] = pd.Series([unpack(*each) for each in packed], dtype="object")
        frame["grid"] = pd.Series([grids.get(each) for each in frame.pop("grid")], dtype="object")
        return without_single_names(frame, ["name"] if name is None else [])

    def field_steps(self, name: str) -> tuple[int, ...]:
        """Returns the steps that have a field of a name, ascending, without reading it."""
        return tuple(sorted(set(self._measurements("fields", {}, name=name)["step"].tolist())))

    def cost(self, *, since: int | None = None) -> pd.DataFrame:
        """Returns what the measurements took. Columns: step, instrument, seconds."""
        frame = self._measurements("costs", {"seconds": "float64"}, since=since)
        frame = frame.drop(columns=["term", "layer", "batch"])
        return without_single_part(frame.rename(columns={"name": "instrument"}))

    def events(self) -> pd.DataFrame:
        """Returns what happened, in the order in which it did.

        Columns: step (missing for what belongs to none), time, kind, text, source.
        """
        columns = ["step", "part", "time", "kind", "text", "source"]
        with self._reading() as connection:
            found = connection.execute(
                f"SELECT {', '.join(columns)} FROM events ORDER BY id"
            ).fetchall()
        frame = pd.DataFrame(found, columns=columns)
        frame["step"] = frame["step"].astype("Int64")
        frame["time"] = pd.to_datetime(frame["time"].astype(float), unit="s", utc=True)
        return without_single_part(frame.astype(dict.fromkeys(["part", *columns[3:]], "str")))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong: what was found while the run went on, then what its diagnosis finds.

        The first are in the order in which they were found, the others the gravest first.
        """
        recorded = self.recorded_findings()
        said = {(each.code, each.verdict) for each in recorded}
        said |= {(code, f"{part}: {verdict}") for code, verdict in said for part in self.parts}
        return recorded + tuple(
            each for each in self.diagnosis().findings if (each.code, each.verdict) not in said
        )

    def diagnosis(self) -> Diagnosis:
        """Returns all that is asked of a run to find out what is wrong, and the answers.

        Made from what is in the run now; no fields are read but the last.
        """
        from .evidence import diagnosis

        return diagnosis(self)

    def recorded_findings(self, part: str | None = None) -> tuple[Finding, ...]:
        """Returns what was found while the run went on, of one part or of all."""
        columns = "code, severity, verdict, evidence, advice, source"
        with self._reading() as connection:
            found = connection.execute(
                f"SELECT {columns} FROM findings WHERE :part IS NULL OR part = :part ORDER BY id",
                {"part": part},
            ).fetchall()
        return tuple(
            Finding(
                code, severity, verdict, json.loads(evidence), tuple(json.loads(advice)), source
            )
            for code, severity, verdict, evidence, advice, source in found
        )

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if not (self.folder / DATABASE).is_file():
            raise StoreError(
                f"Run {self.folder} cannot be read: its {DATABASE} is missing; a run is moved as "
                "the whole folder."
            )
        settle(self.folder)
        if has_waiting(self.folder) and not has_writer(self.folder):
            connection = open_completed(self.folder)
        else:
            connection = open_for_reading(self.folder)
        try:
            connection.execute("BEGIN")
            yield connection
        except sqlite3.Error as error:
            raise explained(error, self.folder) from error
        finally:
            connection.close()

    def _names(self, column: str, but: tuple[str, str]) -> tuple[str, ...]:
        with self._reading() as connection:
            found = connection.execute(
                f"SELECT {column} FROM series WHERE {column} NOT IN (?, ?) "
                f"GROUP BY {column} ORDER BY min(id)",
                but,
            )
            return tuple(name for (name,) in found)

    def _measurements(
        self,
        table: str,
        columns: dict[str, str],
        step: int | None = None,
        connection: sqlite3.Connection | None = None,
        since: int | None = None,
        **wanted: str | None,
    ) -> pd.DataFrame:
        """Returns rows of a table with the names of their series, then the given columns."""
        if connection is None:
            with self._reading() as connection:
                return self._measurements(table, columns, step, connection, since, **wanted)
        given = {name: value for name, value in wanted.items() if value is not None}
        bounds = steps_between(step, since)
        series = series_named(connection, given)
        found = connection.execute(
            f"SELECT {', '.join(['step', 'series', *quoted(columns)])} FROM {table} "
            f"WHERE series IN (SELECT id FROM series WHERE {conditions(given)}) "
            "AND step BETWEEN :first AND :last ORDER BY step, series",
            given | bounds,
        ).fetchall()
        if table == "histograms":
            found += read_packed_histograms(connection, given | bounds, with_data=bool(columns))
            found.sort(key=itemgetter(0, 1))
        rows = pd.DataFrame(found, columns=["step", "series", *columns])
        rows = rows.astype({"step": "int64", "series": "int64", **columns})
        frame = named(rows.pop("step").to_numpy(), rows.pop("series").to_numpy(), series)
        return pd.concat([frame, rows], axis=1)


def runs(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """Returns one row for each run in a folder, at any depth.

    Columns: path, status, started, ended, steps (how many are recorded), last_step, loss (the last
    total that was recorded), error; then what the runs are described with, such as model,
    complexity and seed. A run that cannot be read has the status "broken" and says why in `error`.

    Raises:
        StoreError: there is no such folder.
    """
    if not Path(folder).is_dir():
        raise StoreError(f"There is no folder {folder}: give one that runs were written to.")
    found = [_summary(path) for path in folders_of_runs(Path(folder))]
    columns = ["path", "status", "started", "ended", "steps", "last_step", "loss", "error"]
    described = sorted({name for row in found for name in row} - set(columns))
    frame = pd.DataFrame(found, columns=[*columns, *described])
    for name in described:
        frame[name] = exact(frame[name], [row.get(name) for row in found])
    for name in ("started", "ended"):
        frame[name] = pd.to_datetime(frame[name], utc=True, errors="coerce")
    return frame.astype({"steps": "Int64", "last_step": "Int64", "loss": "float64"})


def _summary(folder: Path) -> dict[str, Any]:
    try:
        run = Run(folder)
        document = run.metadata
        described = tabular(document)
        with run._reading() as connection:
            steps, last = connection.execute(
                "SELECT count(DISTINCT step), max(step) FROM steps"
            ).fetchone()
            loss = last_loss(connection)
        return described | {
            "path": str(folder),
            "status": status_of(folder, document),
            "steps": steps,
            "last_step": last,
            "loss": loss,
        }
    except StoreError as error:
        return {"path": str(folder), "status": "broken", "error": str(error)}
