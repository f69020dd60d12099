"""The numbers of a finding, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..diagnostics.checks.words import number

# Values of one number in a row, such as those of the layers of a deep network.
_MOST_VALUES = 8


def in_words(evidence: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns what each number of a finding's evidence is called, and the number.

    Example:
        >>> in_words({"factor": 28.6123, "first_step": 13, "layers": ["net.0", "net.2"]})
        [('factor', '28.6'), ('first step', '13'), ('layers', 'net.0, net.2')]
    """
    return [(str(name).replace("_", " "), _value(value)) for name, value in evidence.items()]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return _first([f"{name}: {_value(each)}" for name, each in value.items()])
    if isinstance(value, list | tuple):
        return _first([_value(each) for each in value])
    return str(value)


def _first(words: list[str]) -> str:
    shown = words if len(words) <= _MOST_VALUES + 2 else words[:_MOST_VALUES]
    more = f" and {len(words) - len(shown)} more" if len(shown) < len(words) else ""
    return ", ".join(shown) + more
