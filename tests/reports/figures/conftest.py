"""Runs that the tests of figures share; they are only read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradpath import Run
from tests.reports.figures.written_runs import HOSTILE, write

_KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one term": {"terms": ("loss",)},
    "one step": {"steps": (0,)},
    "broken": {"broken_from": 100},
    "always broken": {"broken_from": 0},
    "hostile": {"terms": HOSTILE, "layers": HOSTILE, "steps": (0, 10)},
    "two parts": {"parts": ("generator", "discriminator"), "steps": (0, 10, 20)},
    "fixed batch": {"batch": "grid"},
    "many layers": {"layers": [f"blocks.{n}.attention.projection" for n in range(200)],
                    "steps": (0, 10)},
    "many terms": {"terms": [f"term {n}" for n in range(30)], "steps": (0, 10)},
    "paper": {"layers": ("layers.0", "layers.1", "encoders.0"),
              "metadata": {"problem": "helmholtz"}},
}  # fmt: skip


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Returns the run of a kind, which is written once."""
    written: dict[str, Run] = {}
    folder: Path = tmp_path_factory.mktemp("runs")

    def of(kind: str) -> Run:
        if kind not in written:
            written[kind] = write(folder / kind, **_KINDS[kind])
        return written[kind]

    return of
