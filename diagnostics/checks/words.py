"""How numbers and names are said in a verdict: short, and whatever they hold, as one line."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import pandas as pd

_LONGEST_NAME = 60
_LEADING_ZERO = re.compile(r"e([+-])0")


def number(value: float) -> str:
    """Returns a number with three digits.

    Example:
        >>> number(7.48529e5), number(0.27892), number(2400.0)
        ('7.49e+5', '0.279', '2,400')
    """
    if math.isfinite(value) and 1000 <= abs(value) < 100_000:
        digits = 10 ** (int(math.log10(abs(value))) - 2)
        return f"{round(value / digits) * digits:,}"
    return _LEADING_ZERO.sub(r"e\1", f"{value:.3g}")


def name(given: str) -> str:
    """Returns a name of the user's as a verdict shows it: one line, cut where it is very long."""
    line = "".join(character if character.isprintable() else "?" for character in given)
    if not line:
        return "(unnamed)"
    return line if len(line) <= _LONGEST_NAME else f"{line[: _LONGEST_NAME - 1]}…"


def layer(given: str) -> str:
    """Returns what a verdict calls a layer, where it has no name of its own: by its number.

    Example:
        >>> layer("net.0"), layer("2")
        ('net.0', 'layer 2')
    """
    return f"layer {given}" if given.isdecimal() else name(given)


def listed(names: Iterable[str]) -> str:
    """Returns names in a row.

    Example:
        >>> listed(["net.0"]), listed(["a", "b", "c"])
        ('net.0', 'a, b and c')
    """
    shown = [name(each) for each in names]
    if len(shown) > 5:
        shown = [*shown[:4], f"{len(shown) - 4} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def listed_layers(names: Iterable[object]) -> str:
    """Returns layers in a row.

    Example:
        >>> listed_layers(["0", "2"]), listed_layers(["head"])
        ('layer 0 and layer 2', 'head')
    """
    return listed(layer(str(each)) for each in names)


def plural(count: int, of: str) -> str:
    """Returns a number of things.

    Example:
        >>> plural(1, "step"), plural(3, "step")
        ('1 step', '3 steps')
    """
    return f"{count:,} {of}{'' if count == 1 else 's'}"


def span(steps: Sequence[int] | pd.Index) -> str:
    """Returns where measurements were taken.

    Example:
        >>> span([5]), span([20, 30, 40])
        ('at step 5', 'median of 3 measurements, steps 20 to 40')
    """
    if len(steps) == 1:
        return f"at step {steps[0]:,}"
    return f"median of {len(steps):,} measurements, steps {steps[0]:,} to {steps[-1]:,}"


def steps_of(measured: pd.DataFrame | pd.Series) -> list[int]:
    """Returns the first and the last step of what was measured."""
    return [int(measured.index[0]), int(measured.index[-1])]
