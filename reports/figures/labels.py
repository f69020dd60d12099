"""What several runs in one figure are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...diagnostics.errors import ArgumentError
from ...probes.store import Run

Runs = Run | Sequence[Run] | Mapping[str, Run]


def by_label(runs: Runs) -> dict[str, Run]:
    """Returns runs by the name to show: what their descriptions differ in, else their folders.

    Raises:
        ArgumentError: there is no run.
    """
    if isinstance(runs, Run):
        return {runs.folder.name: runs}
    if isinstance(runs, Mapping):
        found = dict(runs)
    else:
        several = list(runs)
        described = [_description(run) for run in several]
        keys = [
            key
            for key in dict.fromkeys(key for each in described for key in each)
            if len({str(each.get(key)) for each in described}) > 1
        ]
        labels = [
            ", ".join(_described(key, each.get(key)) for key in keys) or run.folder.name
            for run, each in zip(several, described, strict=True)
        ]
        found = {}
        for label, run in zip(labels, several, strict=True):
            is_taken = labels.count(label) > 1
            name = f"{label} ({run.folder.name})" if is_taken else label
            while name in found:
                name += "'"
            found[name] = run
    if not found:
        raise ArgumentError("No run was given to draw: give at least one.")
    return found


def _description(run: Run) -> dict[str, Any]:
    metadata = run.metadata
    keys = ("problem", "model", "complexity", "hidden", "seed")
    return {key: metadata[key] for key in keys if key in metadata}


def _described(key: str, value: Any) -> str:
    return f"{key} {value}" if key in ("complexity", "seed", "hidden") else str(value)
