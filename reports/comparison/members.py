"""The runs that are compared: what each is described with, whether it counts, its numbers.

A run counts when it has finished. What has failed, is lost, still runs, cannot be read, or was
declared for a sweep and not begun, is a member as well, because a comparison that hides it would
look better than it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ...diagnostics.errors import ArgumentError
from ...probes.store import Run, StoreError, runs as runs_in
from .quantities import numbers_of

Key = str | int | float | bool | None

FINISHED = "finished"
NOT_BEGUN = "not begun"

RUN = "run"
"""A key that every run has: the name of its folder."""

_DECLARATION = "sweep.json"

# What tells the members of a sweep apart, and what its declaration calls the values.
_AXES = {"seed": "seeds", "complexity": "complexities", "model": "models"}


@dataclass(frozen=True)
class Member:
    """One run of a comparison, or one that should be there."""

    name: str
    path: str  # "" where there is none
    status: str  # of the run; "not begun" where there is none; "broken" where it cannot be read
    reason: str  # why it does not count, "" where it does
    described: Mapping[str, Key]  # what it is to be found by
    numbers: Mapping[str, float]  # by the keys of `QUANTITIES`
    published: tuple[Mapping[str, Any], ...] = ()  # `value`, `deviation`, `source` of each
    last_step: int | None = None

    @property
    def counts(self) -> bool:
        """Whether its numbers are part of the comparison."""
        return self.status == FINISHED

    @property
    def label(self) -> str:
        """Status and reason, in a few words."""
        return f"{self.status}: {self.reason}" if self.reason else self.status


def members_of(
    given: str | os.PathLike[str] | Iterable[Run | str | os.PathLike[str]],
    *,
    with_numbers: bool = True,
) -> tuple[Member, ...]:
    """Returns all members of a folder at any depth, or one a run of those given.

    Raises:
        StoreError: there is no such folder.
        ArgumentError: there is no run in it.
    """
    if isinstance(given, str | os.PathLike):
        found = [_member(Path(path), with_numbers) for path in runs_in(given)["path"]]
        # Several sweeps may have been written below one folder.
        for declaration in sorted(Path(given).rglob(_DECLARATION)):
            found = _with_declared(declaration, found)
        where = f"in {os.fspath(given)}"
    else:
        paths = [each.folder if isinstance(each, Run) else Path(each) for each in given]
        found = [_member(path, with_numbers) for path in paths]
        where = "among those given"
    if not found:
        raise ArgumentError(f"There is no run {where}: give a folder that runs were written to.")
    return tuple(found)


def _member(path: Path, with_numbers: bool) -> Member:
    try:
        run = Run(path)
        document, status = run.metadata, run.status
        numbers = numbers_of(run) if with_numbers and status == FINISHED else {}
        steps = run.steps
    except StoreError as error:
        name = _text(path.name)
        return Member(name, str(path), "broken", _text(str(error)), {RUN: name}, {})
    ended_by = document.get("error")
    reason = _text(str(ended_by)) if status != FINISHED and ended_by else ""
    return Member(
        _text(path.name),
        str(path),
        status,
        reason,
        {RUN: _text(path.name), **_described(document)},
        numbers,
        _published(document),
        steps[-1] if steps else None,
    )


def _described(document: Mapping[str, Any]) -> dict[str, Key]:
    """Returns what a run is described with; its problem's parameters are names as well."""
    nested = document.get("parameters")
    parameters = nested if isinstance(nested, Mapping) else {}
    described = {**parameters, **document}
    return {name: _key(value) for name, value in described.items()}


def _key(value: Any) -> Key:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, int | float | bool):
        return value
    if isinstance(value, list) and all(isinstance(each, str | int | float) for each in value):
        return _text("x".join(str(each) for each in value))  # widths of layers, mostly
    return json.dumps(value, default=str)


def _text(value: str) -> str:
    """Returns a text that every frame and file can hold: JSON knows halves of characters."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _published(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    given = document.get("published")
    return tuple(
        each
        for each in (given if isinstance(given, list) else [])
        if isinstance(each, Mapping) and isinstance(each.get("value"), int | float)
    )


def _with_declared(declaration: Path, members: list[Member]) -> list[Member]:
    """Returns all members, also those of a declared sweep that have no run in its folder."""
    here = [member for member in members if Path(member.path).parent == declaration.parent]
    begun = {tuple(member.described.get(name) for name in _AXES) for member in here}
    broken = [member for member in here if member.status == "broken"]
    axes, shared = _declared(declaration)
    found = list(members)
    for seed, complexity, model in product(*axes):
        if (seed, complexity, model) in begun:
            continue
        described = {**shared, **dict(zip(_AXES, (seed, complexity, model), strict=True))}
        unreadable = next((each for each in broken if _is_called(each.name, described)), None)
        if unreadable is not None:
            at = found.index(unreadable)
            found[at] = replace(unreadable, described={**unreadable.described, **described})
            continue
        name = f"{shared['problem']} {model} complexity={complexity} seed={seed}"
        found.append(Member(name, "", NOT_BEGUN, "", {RUN: name, **described}, {}))
    return found


def _declared(declaration: Path) -> tuple[list[list[Key]], dict[str, Key]]:
    """Returns the values of a sweep's axes, and what all its members have in common."""
    # A damaged declaration is the business of who resumes the sweep, and hides no run.
    try:
        content = json.loads(declaration.read_bytes())
        axes = [[_key(each) for each in content[plural]] for plural in _AXES.values()]
        shared = {**content["options"], **content["parameters"]}
        shared |= {"problem": content["problem"], "steps": content["steps"]}
    except (OSError, ValueError, KeyError, TypeError):
        return [[], [], []], {}
    return axes, {name: _key(value) for name, value in shared.items()}


def _is_called(folder: str, described: Mapping[str, Key]) -> bool:
    """Whether a folder has the name that a sweep gives to a member."""
    pieces = folder.split("_")
    return (
        described["model"] in pieces
        and f"seed={described['seed']}" in pieces
        and any(piece.endswith(f"={described['complexity']}") for piece in pieces)
    )
