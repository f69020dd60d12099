"""Changes to what a run has recorded already: steps replaced after a resume, parts renamed.

All are part of a transaction of the writer's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from .errors import StoreError
from .schema import PACKED_TABLES, PART_TABLES, SERIES_TABLES


def delete_steps(connection: sqlite3.Connection, part: str, first: int, stop: int) -> int:
    """Deletes all that was recorded of a part at steps from the first to the one before `stop`.

    Returns:
        how many steps there were.
    """
    within = {"part": part, "first": first, "stop": stop}
    number = count_steps(connection, part, first, stop)
    of_part = "SELECT id FROM series WHERE part = :part"
    conditions = dict.fromkeys(SERIES_TABLES, f"series IN ({of_part})")
    conditions |= dict.fromkeys(PART_TABLES, "part = :part")
    packings = f"SELECT packing FROM packed_columns WHERE series IN ({of_part})"
    conditions |= dict.fromkeys(PACKED_TABLES, f"packing IN ({packings})")
    for table, condition in conditions.items():
        connection.execute(
            f"DELETE FROM {table} WHERE step >= :first AND step < :stop AND {condition}", within
        )
    return number


def count_steps(
    connection: sqlite3.Connection, part: str, first: int = 0, stop: int = 2**63 - 1
) -> int:
    """Returns how many steps of a part are recorded from the first to the one before `stop`."""
    found = connection.execute(
        "SELECT count(*) FROM steps WHERE part = ? AND step >= ? AND step < ?", (part, first, stop)
    )
    return int(found.fetchone()[0])


def refuse_recorded(
    connection: sqlite3.Connection, steps: Sequence[int], part: str, folder: Path
) -> None:
    """Raises StoreError where one of some steps, ascending, is recorded already."""
    found = connection.execute(
        "SELECT step FROM steps WHERE part = ? AND step BETWEEN ? AND ?",
        (part, steps[0], steps[-1]),
    )
    known = {step for (step,) in found}.intersection(steps)
    if known:
        raise recorded_already(min(known), part, folder)


def recorded_already(step: int, part: str, folder: Path) -> StoreError:
    """Returns the error that a step is recorded twice."""
    of_part = f" of part {part!r}" if part else ""
    return StoreError(
        f"Step {step}{of_part} is recorded already in run {folder}: give all the records of a step "
        "in one call."
    )


def rename(connection: sqlite3.Connection, old: str, new: str) -> None:
    """Gives everything of a part another name, under which there are no steps yet."""
    # A packing is of the part that its series are of.
    for table in ("series", *PART_TABLES):
        connection.execute(f"UPDATE {table} SET part = ? WHERE part = ?", (new, old))


def parts(connection: sqlite3.Connection) -> list[str]:
    """Returns the parts that have steps."""
    return [part for (part,) in connection.execute("SELECT DISTINCT part FROM steps")]


def elapsed(connection: sqlite3.Connection) -> float:
    """Returns the seconds that the run had been going on at its last step."""
    found = connection.execute("SELECT coalesce(max(elapsed), 0) FROM steps").fetchone()
    return float(found[0])
