"""The folder of a run: before anything is written to it, where there are some, how one ended."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import StoreError, explained
from .lock import LOCK, has_writer
from .run_json import DOCUMENT, read_document
from .schema import DATABASE


def make_folder(folder: Path) -> None:
    """Makes the folder of a run, unless it is there.

    Raises:
        StoreError: it cannot be made, or holds something that is no run.
    """
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file: give the run a folder, new or empty.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise explained(error, folder) from error
    foreign = sorted(name for name in names if not name.startswith((DATABASE, DOCUMENT, LOCK)))
    if foreign and DOCUMENT not in names:
        raise StoreError(
            f"{folder} is no run and holds other files ({foreign[0]}): give the run a folder of "
            "its own, new or empty."
        )


def remove_what_a_killed_start_left(folder: Path) -> None:
    """Makes a folder without run.json empty: no step was recorded, as run.json is written before.

    Raises:
        StoreError: something cannot be removed.
    """
    try:
        for path in folder.glob(f"{DATABASE}*"):
            path.unlink()
    except OSError as error:
        raise explained(error, folder) from error


def folders_of_runs(folder: Path) -> Iterator[Path]:
    """Yields the folders in a folder, at any depth, that are runs or what is left of one."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        if DOCUMENT in files or DATABASE in files:
            folders.clear()
            yield Path(path)


def status_of(folder: Path, document: Mapping[str, Any]) -> str:
    """Returns what run.json says of the status, or `lost` where nobody writes the run any more.

    Raises:
        StoreError: the file was damaged meanwhile.
    """
    if document["status"] != "running" or has_writer(folder):
        return str(document["status"])
    # A writer says how it ended before it lets go of the lock.
    status = str(read_document(folder)["status"])
    return "lost" if status == "running" else status
