"""run.json: what a person wants to know of a run, and where it was made."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ..diagnostics.errors import ArgumentError
from .errors import StoreError, explained
from .series import storable

DOCUMENT = "run.json"

# Kept by the writer itself: what a user describes a run with has other names.
_OWN = ("status", "started", "ended", "error", "earlier")

_VERSIONS = ("gradpath", "torch", "numpy", "scipy", "pandas")
_GIT_PATIENCE_SECONDS = 10.0


def read_document(folder: Path) -> dict[str, Any]:
    """Returns what run.json says.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    if not folder.exists():
        raise StoreError(
            f"There is no run at {folder}: the folder does not exist; give one that a probe wrote."
        )
    if not folder.is_dir():
        raise StoreError(f"{folder} is a file and no run: give the folder that a probe wrote.")
    try:
        document = json.loads((folder / DOCUMENT).read_bytes())
    except FileNotFoundError:
        raise StoreError(
            f"{folder} is no run: it has no {DOCUMENT}; give the folder that a probe wrote."
        ) from None
    except OSError as error:
        raise StoreError(
            f"Run {folder} cannot be read: {error.strerror}; change the permissions of its files."
        ) from error
    except ValueError:
        document = None
    if not isinstance(document, dict) or "status" not in document:
        raise StoreError(
            f"Run {folder} cannot be read: its {DOCUMENT} is damaged; restore it from a copy."
        )
    return document


def write_document(folder: Path, document: Mapping[str, Any]) -> None:
    """Replaces run.json by a new one, at once: a reader finds the old one or the new one.

    Raises:
        StoreError: it cannot be written.
    """
    text = json.dumps(document, indent=2, default=jsonable, ensure_ascii=False)
    draft = folder / f"{DOCUMENT}.new"
    try:
        with draft.open("wb") as file:
            file.write(text.encode("utf-8", "backslashreplace") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / DOCUMENT)
    except OSError as error:
        raise explained(error, folder) from error


def with_earlier_session(document: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the document of a run that is resumed, with how its last session ended.

    Args:
        document: what the last session has left.
        here: the names of what this session will say of itself.
    """
    session = {key: value for key, value in document.items() if key in here}
    ending = {key: document.get(key) for key in ("status", "ended", "error")}
    if ending["status"] == "running":
        ending["status"] = "lost"  # for nobody else has the lock
    return dict(document) | {"earlier": [*document.get("earlier", []), ending | session]}


def check_names(metadata: Mapping[str, Any]) -> None:
    """Raises ArgumentError where a run would be described by a name that it keeps by itself."""
    for name in _OWN:
        if name in metadata:
            raise ArgumentError(f"A run keeps its {name!r} by itself; give this another name.")


def tabular(document: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    """Returns the entries that a table can have a column for: numbers and texts.

    JSON knows halves of characters, which the strings of pandas do not; they are written as Python
    writes them.
    """
    numbers_and_texts = {
        name: value
        for name, value in document.items()
        if isinstance(value, str | int | float | bool)
    }
    return {
        name: storable(value) if isinstance(value, str) else value
        for name, value in numbers_and_texts.items()
    }


def jsonable(value: Any) -> Any:
    """Returns numbers and lists for arrays, tensors and their entries; else the text of a value."""
    for method in ("tolist", "item"):
        if hasattr(value, method):
            return getattr(value, method)()
    if isinstance(value, Mapping):
        return dict(value)
    return sorted(value, key=str) if isinstance(value, set | frozenset) else str(value)


def environment() -> dict[str, Any]:
    """Returns where and with what this process runs: command, versions, the user's repository."""
    return {
        "command": sys.orig_argv,
        "folder": os.getcwd(),
        "host": platform.node(),
        "platform": platform.platform(),
        "pid": os.getpid(),
        "versions": {"python": platform.python_version(), **_versions()},
        "git": _repository(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _repository() -> dict[str, Any]:
    """The commit that the user's script lies in; of the working folder, where there is no script.

    `dirty` is whether a file that git follows differs from the commit.
    """
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folder = Path(script).absolute().parent if script else Path.cwd()
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except subprocess.CalledProcessError as error:
        return {"commit": None, "reason": error.stderr.partition("\n")[0]}
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"commit": None, "reason": f"git did not answer: {error}"}
    return {"commit": commit, "dirty": bool(changes), "folder": str(folder)}


def _git(folder: Path, *arguments: str) -> str:
    # `status` would otherwise refresh the user's index file.
    return subprocess.run(
        ["git", "--no-optional-locks", "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=True,
        timeout=_GIT_PATIENCE_SECONDS,
        stdin=subprocess.DEVNULL,
    ).stdout.strip()
