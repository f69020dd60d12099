"""One member of a sweep, in the process that trains it.

Whoever sends a member here may do it more than once: a cluster gives the work of a lost worker to
another one by itself. So what is to be done is read from the member's folder, and not from the
call: nothing where its run is finished, the rest where it was begun.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..probes.errors import StoreError, described
from ..probes.lock import has_writer
from ..probes.run_json import DOCUMENT
from ..probes.run_writer import RunWriter
from ..probes.store import Run
from .sweep_file import DECLARATION, write_json
from .sweep_grid import Member

# Beside the run, in its folder.
SUMMARY = "summary.json"
TRACEBACK = "traceback.txt"

_PATIENCE_SECONDS = 2.0


class Work(Protocol):
    """What trains a member, writes its run into the folder, ends it, and sums it up."""

    def __call__(self, member: Member, folder: Path, /, *, resume: bool) -> Mapping[str, Any]:
        """Returns a few numbers or words; `resume` is whether the run in the folder goes on."""
        ...


@dataclass(frozen=True)
class Outcome:
    """How a member ended, as it is sent back."""

    error: str | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)


def attempt(work: Work, member: Member, folder: Path) -> Outcome:
    """Trains a member in its folder, and returns how that ended; its errors are no exceptions.

    Raises:
        StoreError: this process does not see the folder of the sweep.
    """
    if not (folder.parent / DECLARATION).is_file():
        raise StoreError(
            f"The worker on {platform.node()} does not find {folder.parent / DECLARATION}; give a "
            "folder that all workers share."
        )
    settle(folder)
    before = member_status(folder)
    if before == "running":
        return Outcome(f"Another process is still training {folder.name}; resume when it is done.")
    if before == "finished":
        return Outcome(summary=read_summary(folder))
    for name in (SUMMARY, TRACEBACK):
        (folder / name).unlink(missing_ok=True)
    try:
        # A member that was killed before its run began leaves nothing to go on from.
        summary = dict(work(member, folder, resume=before != "waiting"))
        error = _how_the_run_ended(member, folder)
        write_json(folder / SUMMARY, summary)
    except (Exception, SystemExit) as raised:
        text = "".join(traceback.format_exception(raised))
        record_failure(member, folder, described(raised), text)
        return Outcome(described(raised))
    # As JSON has it: a tensor in it would make whoever reads it load PyTorch.
    return Outcome(error, read_summary(folder))


def member_status(folder: Path) -> str:
    """Returns the status of the run in a folder; "waiting" where none was begun."""
    if not (folder / DOCUMENT).exists():
        return "running" if has_writer(folder) else "waiting"
    try:
        return Run(folder).status
    except StoreError:
        return "broken"


def settle(folder: Path) -> None:
    """Waits until the run of a worker that has died is free: its death may be known earlier."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while has_writer(folder) and time.monotonic() < end:
        time.sleep(0.01)


def read_summary(folder: Path) -> dict[str, Any]:
    """Returns what the training of a member summed up, {} where it did not come to that."""
    try:
        summary = json.loads((folder / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def record_failure(member: Member, folder: Path, error: str, text: str = "") -> None:
    """Sees to it that the run in a folder is failed; begins one where there is none.

    A run that somebody writes, or that cannot be written, is left alone.
    """
    with contextlib.suppress(StoreError, OSError):
        status = member_status(folder)
        if status == "running":
            return
        if status != "failed":
            RunWriter(folder, metadata=member.metadata, resume=True).fail(error)
        if text:
            (folder / TRACEBACK).write_text(text, "utf-8", "backslashreplace")


def _how_the_run_ended(member: Member, folder: Path) -> str | None:
    """Returns the error of a run that its training has failed, as one does that diverges.

    Work that writes no run gets an empty one.

    Raises:
        StoreError: the run has not ended.
    """
    status = member_status(folder)
    if status == "waiting":
        RunWriter(folder, metadata=member.metadata).finish()
    elif status == "failed":
        return str(Run(folder).metadata["error"])
    elif status != "finished":
        raise StoreError(
            f"The training returned and left its run {status}; end it with `writer.finish()` or a "
            "`with` block."
        )
    return None
