"""How figures draw: series that a page can show, axes that can be read, legends that fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from ..theme import shown
from .measured import Series, Values
from .plate import Plate

MOST_TERMS = 12
"""Lines that can be told apart in one panel."""

_BUCKETS = 240
STRETCHES = 120

# An axis over no more decades than that has labels between powers of ten as well.
_FEW_DECADES = 3.0
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def thinned(one: Series, buckets: int = _BUCKETS) -> Series:
    """Returns the points of a series that make a difference on a page.

    Of each of so many equal stretches of steps, the smallest and the largest value are kept, so
    that no peak is lost, and the first that is not finite, so that a gap stays one. Short series
    are returned as they are.
    """
    if len(one.steps) <= 2 * buckets:
        return one
    edges = np.linspace(one.steps[0], one.steps[-1], buckets + 1)
    bucket = np.clip(np.searchsorted(edges, one.steps, side="right") - 1, 0, buckets - 1)
    known = np.flatnonzero(np.isfinite(one.values))
    order = known[np.lexsort((one.values[known], bucket[known]))]
    _, firsts, counts = np.unique(bucket[order], return_index=True, return_counts=True)
    gaps = np.flatnonzero(~np.isfinite(one.values))
    _, first_gaps = np.unique(bucket[gaps], return_index=True)
    ends = [0, len(one.steps) - 1]
    kept = np.unique(
        np.concatenate([order[firsts], order[firsts + counts - 1], gaps[first_gaps], ends])
    )
    return Series(one.steps[kept], one.values[kept])


def stretches(one: Series, number: int = STRETCHES) -> tuple[Series, Series, Series] | None:
    """Returns least, median and largest value over equal stretches of steps; None if it is short.

    Of what scatters from record to record, a line through all of them is a smear that hides the
    lines below it. The first and the last value stand at the ends of the medians.
    """
    known = one.finite
    if len(known.steps) <= 2 * _BUCKETS:
        return None
    edges = np.linspace(known.steps[0], known.steps[-1], number + 1)
    place = np.clip(np.searchsorted(edges, known.steps, side="right") - 1, 0, number - 1)
    _, firsts = np.unique(place, return_index=True)
    values = np.split(known.values, firsts[1:])
    steps = np.array([float(np.median(each)) for each in np.split(known.steps, firsts[1:])])
    low, middle, high = (
        np.array([float(of(each)) for each in values]) for of in (np.min, np.median, np.max)
    )
    ends = np.concatenate([known.steps[:1], steps, known.steps[-1:]])
    medians = np.concatenate([known.values[:1], middle, known.values[-1:]])
    return Series(steps, low), Series(ends, medians), Series(steps, high)


def draw_line(axes: Axes, one: Series, **style: Any) -> Artist:
    """Draws a series over the steps; a short one with a mark at each value."""
    points = thinned(one)
    values = np.where(np.isfinite(points.values), points.values, np.nan)
    few = len(points.steps) <= 40
    marks: dict[str, Any] = {"marker": "o", "markersize": 2.5} if few else {}
    return axes.plot(points.steps, values, **(marks | style))[0]


def step_axis(axes: Axes, found: Iterable[Series] = (), label: bool = True) -> None:
    """Makes the x-axis one of training steps."""
    steps = [one.steps for one in found if len(one.steps)]
    if steps:
        low, high = min(each[0] for each in steps), max(each[-1] for each in steps)
        room = max(0.02 * (high - low), 0.5)
        axes.set_xlim(low - room, high + room)
    most = 5 if axes.get_position().width > 0.3 else 3
    axes.xaxis.set_major_locator(MaxNLocator(most, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if label:
        axes.set_xlabel("step")


def value_axis(
    axes: Axes,
    values: Iterable[Values | Sequence[float]],
    which: Literal["x", "y"] = "y",
    least: float | None = None,
) -> None:
    """Gives an axis the scale on which values can be read.

    Linear where they are within a factor of ten, logarithmic where they are positive, else symlog,
    linear below the smallest magnitude, though over no more than eight decades.

    Args:
        axes: whose axis.
        values: that are drawn.
        which: of its axes.
        least: the smallest magnitude to be told from zero; without one, that of the values.
    """
    axis = axes.yaxis if which == "y" else axes.xaxis
    every = np.array([number for each in values for number in np.ravel(each)], dtype=float)
    finite = every[np.isfinite(every)]
    sizes = np.abs(finite[finite != 0])
    axis.set_major_formatter(FuncFormatter(tick))
    set_limits = axes.set_ylim if which == "y" else axes.set_xlim
    if not len(sizes) or _is_narrow(finite):
        axis.set_major_locator(MaxNLocator(5 if which == "y" else 3))
        if len(sizes) and np.ptp(finite) == 0:  # a constant is not to look like noise
            set_limits(*sorted([0.5 * finite[0], 1.5 * finite[0]]))
        return
    low, high = float(sizes.min()), float(sizes.max())
    if finite.min() > 0:
        axes.set(**{f"{which}scale": "log"})
        room = (high / low) ** 0.04
        set_limits(low / room, high * room)
        axis.set_major_locator(FixedLocator(_log_ticks(low / room, high * room)))
    else:
        smallest = max(low if least is None else least, high * 1e-8)
        below = 10.0 ** math.floor(math.log10(smallest))
        signed_log_axis(axes, which, below, float(finite.min()), float(finite.max()))
        return
    axis.set_major_formatter(FuncFormatter(tick))
    axis.set_minor_locator(FixedLocator([]))


def signed_log_axis(
    axes: Axes,
    which: Literal["x", "y"],
    linear_below: float,
    low: float,
    high: float,
    most: int = 7,
) -> None:
    """Makes an axis symlog from low to high, with a short tick at every power of ten.

    Zero and some of the powers have a label, as many as there is room for.
    """
    set_scale = axes.set_yscale if which == "y" else axes.set_xscale
    set_scale("symlog", linthresh=linear_below)
    axis = axes.yaxis if which == "y" else axes.xaxis
    first = round(math.log10(linear_below))
    lengths = [max(0.0, math.log10(max(abs(end), 1e-300)) - first + 1) for end in (low, high)]
    negative = lengths[0] if low < 0 else 0.0
    positive = lengths[1] if high > 0 else 0.0
    every = max(1, math.ceil((negative + positive) / most))
    ticks = [0.0]
    for sign, length in ((-1, negative), (1, positive)):
        top = math.floor(first - 1 + length)
        # A label beside that of zero would run into it.
        nearest = first - 1 + max(1.0, 0.8 * every)
        powers = [power for power in range(top, first - 1, -every) if power >= nearest]
        ticks += [sign * 10.0**power for power in powers]
        if negative + positive <= _FEW_DECADES:
            ticks += [sign * m * 10.0**power for power in powers for m in (2, 5)]
            ticks += [sign * 0.5 * 10.0**power for power in powers[-1:] if power > first]
    room = 0.04 * (negative + positive)
    ends = [_on_axis(end, linear_below, first) for end in (low, high)]
    limits = (_off_axis(ends[0] - room, first), _off_axis(ends[1] + room, first))
    (axes.set_ylim if which == "y" else axes.set_xlim)(*limits)
    axis.set_major_locator(FixedLocator(sorted(ticks)))
    axis.set_major_formatter(FuncFormatter(tick))
    decades = [
        sign * 10.0**power
        for sign, length in ((-1, negative), (1, positive))
        for power in range(first, math.floor(first - 1 + length) + 1)
    ]
    axis.set_minor_locator(FixedLocator(sorted(set(decades) - set(ticks))))
    axis.set_minor_formatter(NullFormatter())


def tick(value: float, _: Any = None) -> str:
    """Returns the text at a tick: "0.01", "200", "10⁵", "-3·10⁷"."""
    if value == 0:
        return "0"
    size = abs(value)
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    if 0.0099 < size < 9999.5:
        return sign + f"{size:.4g}"
    power = math.floor(math.log10(size) + 1e-9)
    mantissa = f"{size / 10.0**power:.3g}"
    exponent = f"10{str(power).translate(_SUPERSCRIPTS)}"
    return sign + (exponent if mantissa == "1" else f"{mantissa}·{exponent}")


def legend(plate: Plate, entries: Sequence[tuple[Artist, str]], title: str = "") -> None:
    """Puts a legend above all panels, in as many columns as fit."""
    if not entries:
        return
    handles, labels = zip(*entries, strict=True)
    widths = [0.062 * len(label) + 0.6 for label in labels]
    columns = len(labels)
    while columns > 1 and _legend_width(widths, columns) > plate.get_figwidth() - 0.1:
        columns -= 1
    rows = math.ceil(len(labels) / columns)
    plate.set_figheight(plate.get_figheight() + 0.155 * (rows - 1))
    plate.legend(
        handles, labels, loc="outside upper left", ncols=columns, title=title or None,
        title_fontsize=7, alignment="left", columnspacing=1.2,
    )  # fmt: skip


def layer_labels(names: Sequence[str], longest: int) -> dict[str, str]:
    """Returns what layers are called where there is little room: without what all names share."""
    if max(map(len, names), default=0) <= longest or len(names) < 2:
        return {name: shown(layer_in_words(name), longest) for name in names}
    start = _shared(names)
    start = start[: start.rfind(".") + 1]
    end = _shared([name[len(start) :][::-1] for name in names])[::-1]
    end = end[end.find(".") :] if "." in end else ""
    labels = {}
    for name in names:
        middle = name[len(start) : len(name) - len(end)]
        labels[name] = shown(("…" if start else "") + middle + ("…" if end else ""), longest)
    return labels


def layer_in_words(name: str) -> str:
    """Returns what a layer is called: of one without a name of its own, "layer 2"."""
    return f"layer {name}" if name.isdecimal() else name


def _shared(names: Sequence[str]) -> str:
    """Returns the beginning that all names have."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike)


def mark_not_finite(axes: Axes, found: Iterable[Series]) -> None:
    """Marks the first step at which a series is not finite."""
    first = [one.steps[~np.isfinite(one.values)][:1] for one in found]
    steps = np.concatenate(first) if first else np.empty(0)
    if not len(steps):
        return
    ink = matplotlib.rcParams["text.color"]
    axes.axvline(steps.min(), color=ink, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate(
        "not finite", (steps.min(), 0.97), xycoords=("data", "axes fraction"), xytext=(3, 0),
        textcoords="offset points", va="top", fontsize=6.5, annotation_clip=False,
    )  # fmt: skip


def _legend_width(widths: Sequence[float], columns: int) -> float:
    """Returns inches; matplotlib fills a legend column by column, the first ones fuller."""
    return float(sum(max(each) for each in np.array_split(np.asarray(widths), columns)))


def _is_narrow(finite: Values) -> bool:
    low, high = float(finite.min()), float(finite.max())
    return (low > 0 and high <= 10 * low) or (high < 0 and low >= 10 * high)


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first <= 3:
        near = [m * 10.0**p for p in range(first, last + 1) for m in (1, 2, 5)]
        return [each for each in near if low <= each <= high]
    every = math.ceil((last - first) / 7)
    return [10.0**power for power in range(first, last + 1, every)]


def _on_axis(value: float, linear_below: float, first: int) -> float:
    """Returns the place of a value, in decades from zero, the linear part being one."""
    if abs(value) <= linear_below:
        return value / linear_below
    return math.copysign(math.log10(abs(value)) - first + 1, value)


def _off_axis(place: float, first: int) -> float:
    if abs(place) <= 1:
        return place * 10.0**first
    return math.copysign(10.0 ** (abs(place) - 1 + first), place)
