"""MLflow: metrics, and reports as artifacts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ...diagnostics.histograms import GradientHistogram

_LONGEST_NAME = 250  # MLflow refuses longer ones


class MLflowSink:
    """Logs to a run that `mlflow.start_run` has returned, whichever run is active.

    Args:
        run: whose `info.run_id` says where to log.
        mlflow: the imported package.
    """

    def __init__(self, run: Any, mlflow: Any) -> None:
        self._id, self._mlflow = run.info.run_id, mlflow

    def scalars(self, step: int, values: Mapping[str, float]) -> None:  # noqa: D102
        named = {_allowed(tag): value for tag, value in values.items()}
        self._mlflow.log_metrics(named, step=step, run_id=self._id)

    def histogram(self, step: int, tag: str, histogram: GradientHistogram) -> None:  # noqa: D102
        raise NotImplementedError("MLflow has no histograms; the report shows them")

    def close(self) -> None:
        """Leaves the run open, which is the user's to end."""

    def log_report(self, path: str | os.PathLike[str]) -> None:
        """Adds a file, such as a report on the run, to the artifacts of the run."""
        self._mlflow.log_artifact(str(path), run_id=self._id)


def _allowed(tag: str) -> str:
    """Returns a tag with an underscore for each character that MLflow refuses."""
    return re.sub(r"[^\w\-. :/]", "_", tag)[:_LONGEST_NAME]
