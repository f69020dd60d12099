"""The numbers behind a report of a run, as CSV files that the page carries with it.

They are what figures show, not what was recorded: long series are thinned evenly, with their first
and last steps kept, since `gradpath export` writes all of them.
"""

from __future__ import annotations

import io

import numpy as np
import pandas as pd

from ..diagnostics.findings import Diagnosis
from ..probes.store import Run
from .content import Download
from .tables import Table

MOST_STEPS = 400
_MOST_ROWS = 1500

_OF_TERMS = ("loss", "weight", "weighted_loss")
_OF_LAYERS = ("gradient_norm", "gradient_mean", "gradient_max", "max_to_mean", "norm_ratio",
              "alignment", "cancellation")  # fmt: skip
_OF_STEPS = ("learning_rate", "relative_error", "stability_limit", "preconditioned_stability_limit",
             "update_norm", "self_check")  # fmt: skip


def downloads(run: Run, diagnosis: Diagnosis) -> tuple[Download, ...]:
    """Returns the files of a run's report; those without a row are left out."""
    scalars = run.scalars()
    files = (
        ("checks.csv", "a row is a check", _checks(diagnosis)),
        ("losses.csv", "a row is a step: losses and weights of the terms", _over_steps(scalars)),
        ("gradients.csv", "a row is a term of the loss in a layer, at a step", _by_layer(scalars)),
        ("eigenvalues.csv", "a row is an end of a spectrum, with its interval", _eigenvalues(run)),
    )
    return tuple(
        Download(file, meaning, text_of(frame)) for file, meaning, frame in files if len(frame)
    )


def table_download(file: str, table: Table) -> Download:
    """Returns a table of a report as a file."""
    return Download(file, table.title, text_of(table.frame()))


def text_of(frame: pd.DataFrame) -> str:
    """Returns a frame as CSV; what is missing is an empty field."""
    file = io.StringIO()
    frame.to_csv(file, index=False, float_format="%.6g")
    return file.getvalue()


def _checks(diagnosis: Diagnosis) -> pd.DataFrame:
    columns = ("name", "status", "number", "threshold", "experiment")
    rows = [[getattr(check, column) for column in columns] for check in diagnosis.checks]
    return pd.DataFrame(rows, columns=[*columns])


def _over_steps(scalars: pd.DataFrame) -> pd.DataFrame:
    whole = scalars[
        (scalars["name"].isin(_OF_TERMS) | scalars["name"].isin(_OF_STEPS))
        & scalars["layer"].isin(["", "all"])
    ]
    if whole.empty:
        return whole
    series = whole["name"] + np.where(whole["term"] == "", "", ":" + whole["term"])
    for column in ("part", "batch"):
        if column in whole:
            series = series + " " + whole[column]
    whole = whole.assign(series=series).drop_duplicates(["step", "series"], keep="last")
    wide = whole.pivot(index="step", columns="series", values="value")
    return _thinned(wide[list(dict.fromkeys(whole["series"]))].reset_index(), MOST_STEPS)


def _by_layer(scalars: pd.DataFrame) -> pd.DataFrame:
    rows = scalars[scalars["name"].isin(_OF_LAYERS)]
    if rows.empty:
        return rows
    steps = np.sort(rows["step"].unique())
    series = max(1, len(rows.groupby(["term", "layer"])))
    kept = _evenly(len(steps), max(2, _MOST_ROWS // series))
    rows = rows[rows["step"].isin(steps[kept])]
    keys = [name for name in ("step", "term", "layer", "part", "batch") if name in rows]
    rows = rows.drop_duplicates([*keys, "name"], keep="last")
    return rows.pivot(index=keys, columns="name", values="value").reset_index()


def _eigenvalues(run: Run) -> pd.DataFrame:
    operators = ("hessian", "preconditioned_hessian", "tangent_kernel")
    found = [frame for frame in map(run.eigenvalues, operators) if len(frame)]
    return (
        _thinned(pd.concat(found).drop(columns="status"), _MOST_ROWS) if found else pd.DataFrame()
    )


def _thinned(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    return frame.iloc[_evenly(len(frame), most)]


def _evenly(number: int, most: int) -> list[int]:
    if number <= most:
        return list(range(number))
    return [int(each) for each in np.unique(np.linspace(0, number - 1, most).round())]
