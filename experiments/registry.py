"""The reference problems by name.

Every class of a module of `problems` that is a problem is one of them, so that a file there is all
that it takes to add one.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from ..diagnostics.errors import ArgumentError
from . import problems
from .formulation import Problem


def _found() -> dict[str, type[Problem]]:
    found: dict[str, type[Problem]] = {}
    for entry in pkgutil.iter_modules(problems.__path__):
        module = import_module(f"{problems.__name__}.{entry.name}")
        for value in vars(module).values():
            is_defined_there = getattr(value, "__module__", None) == module.__name__
            if is_defined_there and isinstance(value, type) and issubclass(value, Problem):
                found[value.name] = value
    return dict(sorted(found.items()))


PROBLEMS: Mapping[str, type[Problem]] = _found()
"""The problems' classes by name; `PROBLEMS[name].complexity` is what makes each of them harder."""


def problem(name: str, **parameters: Any) -> Problem:
    """Returns a problem by name.

    Args:
        name: a key of `PROBLEMS`.
        **parameters: those that are not to be the default ones.

    Raises:
        ArgumentError: there is no problem of that name, or it has no such parameter.

    Example:
        >>> problem("helmholtz", a2=1)
        Helmholtz(a1=1, a2=1, k=1)
    """
    if name not in PROBLEMS:
        raise ArgumentError(f"There is no problem {name!r}; choose one of {', '.join(PROBLEMS)}.")
    known = [parameter.name for parameter in fields(PROBLEMS[name])]
    unknown = [parameter for parameter in parameters if parameter not in known]
    if unknown:
        raise ArgumentError(f"{name!r} has no parameter {unknown[0]!r}; it has {', '.join(known)}.")
    return PROBLEMS[name](**parameters)
