"""Sweeps in files: declared by a person in TOML, and written into the folder that they run in.

problem = "helmholtz"
models = ["M1", "M4"]
complexities = [1, 4]
seeds = 3
steps = 40000

[parameters]  # of the problem, where not the default ones
k = 1

[options]  # handed on to each training
learning_rate = 1e-3
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..diagnostics.errors import ArgumentError
from ..probes.errors import StoreError, explained
from ..probes.run_json import jsonable
from .sweep_grid import Sweep

DECLARATION = "sweep.json"

_KEYS = tuple(entry.name for entry in fields(Sweep))
_REQUIRED = ("problem", "models", "steps")


def read_sweep(file: str | os.PathLike[str]) -> Sweep:
    """Returns the sweep that a TOML file declares, with the keys of `Sweep`'s arguments.

    Raises:
        ArgumentError: there is no such file, it is not TOML, a key is unknown or missing, or
            `Sweep` says what is wrong.
    """
    try:
        declared = tomllib.loads(Path(file).read_text("utf-8"))
    except OSError as error:
        raise ArgumentError(
            f"The sweep {os.fspath(file)} cannot be read ({error.strerror}); give a TOML file."
        ) from None
    except ValueError as error:
        raise ArgumentError(
            f"The sweep {os.fspath(file)} is not written in TOML: {error}."
        ) from None
    try:
        return _sweep(declared)
    except ArgumentError as error:
        raise ArgumentError(f"In {os.fspath(file)}: {error}") from None


def read_declaration(folder: Path) -> Sweep | None:
    """Returns the sweep that a folder belongs to, None where it belongs to none.

    Raises:
        StoreError: the declaration is damaged.
    """
    try:
        declared = json.loads((folder / DECLARATION).read_bytes())
        return _sweep(declared)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explained(error, folder) from error
    except ValueError as error:  # ArgumentError is one
        raise StoreError(
            f"The sweep in {folder} cannot be read: its {DECLARATION} is damaged ({error}); "
            "restore it from a copy, or give another folder."
        ) from None


def write_declaration(sweep: Sweep, folder: Path) -> None:
    """Writes which sweep a folder belongs to; it is there as a whole, or not at all.

    Raises:
        StoreError: it cannot be written.
    """
    write_json(folder / DECLARATION, sweep.declaration)


def difference(declared: Sweep, given: Sweep) -> str:
    """Returns in what a sweep differs from the one of the folder, "" where they are the same."""
    before, now = declared.declaration, given.declaration
    differing = [name for name in _KEYS if before[name] != now[name]]
    return ", ".join(f"{name} was {before[name]} and is {now[name]}" for name in differing)


def write_json(path: Path, content: Any) -> None:
    """Replaces a file at once: a reader finds the old one or the new one.

    Raises:
        StoreError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.new")
    text = json.dumps(content, indent=2, default=jsonable)
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise explained(error, path.parent) from error


def _sweep(declared: Any) -> Sweep:
    if not isinstance(declared, Mapping):
        raise ArgumentError(f"A sweep has the keys {', '.join(_KEYS)}.")
    unknown = [key for key in declared if key not in _KEYS]
    if unknown:
        raise ArgumentError(
            f"There is no key {unknown[0]!r} of a sweep; it has {', '.join(_KEYS)}."
        )
    missing = [key for key in _REQUIRED if key not in declared]
    if missing:
        raise ArgumentError(f"The key {missing[0]!r} is missing; a sweep cannot do without it.")
    return Sweep(**declared)
