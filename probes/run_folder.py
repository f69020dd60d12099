"""The folder of a run, before anything is written to it."""

from __future__ import annotations

from pathlib import Path

from .errors import StoreError, explained
from .lock import LOCK
from .run_json import DOCUMENT
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
