"""`gradpath watch`: a run as it goes on, in a terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from itertools import islice

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..probes.following import Followed
from ..probes.live_view import LiveView, SharpnessView, live_view
from ..probes.store import Run
from .terminal import cell, console, duration, number, plain

_SECONDS_ON_A_TERMINAL = 1.0
_SECONDS_ELSEWHERE = 10.0

# A long run takes seconds to read. Reading may take this share of the time, and is done less often
# than was asked for where that would be more.
_READING_SHARE = 0.2

_SHOWN_FINDINGS = 3
_SHOWN_EVENTS = 5

_BARS, _ASCII_BARS = "▁▂▃▄▅▆▇█", "_.-=+*%#"
_NOT_FINITE = "!"

# What the table of terms needs beside the names and the course of the loss.
_WIDTH_OF_NUMBERS = 44

_STYLES = {
    **dict.fromkeys(("running", "below"), "green"),
    **dict.fromkeys(("lost", "around"), "yellow"),
    **dict.fromkeys(("failed", "above"), "bold red"),
}
_SEVERITIES = {"error": "bold red", "warning": "yellow"}
_OPERATORS = {"hessian": "Hessian", "preconditioned_hessian": "preconditioned Hessian"}
_NOT_MEASURED = Text("not measured", "dim")


def watch_run(folder: str, every: float | None, once: bool) -> None:
    """Shows a run until it has ended; on a terminal in place, elsewhere frame after frame.

    Args:
        folder: of the run.
        every: seconds between two frames; None for what suits the output.
        once: whether one frame is all.

    Raises:
        StoreError: there is no run, or it has become unreadable.
    """
    run, shown = Run(folder), console()
    if every is None:
        every = _SECONDS_ON_A_TERMINAL if shown.is_terminal else _SECONDS_ELSEWHERE
    views = _views(run, every)
    if once or not shown.is_terminal:
        for view in islice(views, 1) if once else views:
            shown.print(frame(view, shown))
    else:
        with Live(console=shown, auto_refresh=False) as live:
            for view in views:
                live.update(frame(view, shown), refresh=True)


def _views(run: Run, every: float) -> Iterator[LiveView]:
    """Yields what the run looks like, again and again, the last time when it has ended."""
    followed = Followed(run)
    while True:
        begun = time.monotonic()
        view = live_view(followed)
        taken = time.monotonic() - begun
        yield view
        if view.status != "running":
            return
        time.sleep(max(every, taken / _READING_SHARE - taken))


def frame(view: LiveView, shown: Console) -> RenderableType:
    """Returns what is to be seen of a run."""
    return Group(
        *_header(view),
        *_section("Terms", _terms(view, shown)),
        *_section("Sharpness", _sharpness(view)),
        *_section("Findings", _findings(view)),
        *_section("Events", _events(view)),
        "",
    )


def sparkline(values: Sequence[float], width: int, bars: str = _BARS) -> str:
    """Returns the course of some numbers, at most `width` characters long.

    The scale is logarithmic for positive numbers that span more than a factor of ten. What is not
    finite is marked, and so is a stretch that has such a number in it.

    Example:
        >>> sparkline([1.0, 10.0, 100.0, 1000.0, float("nan")], 5)
        '▁▃▆█!'
    """
    width = min(width, len(values))
    stretches = [
        values[len(values) * k // width : len(values) * (k + 1) // width] for k in range(width)
    ]
    means = [sum(stretch) / len(stretch) for stretch in stretches]
    finite = [mean for mean in means if math.isfinite(mean)]
    if not finite:
        return _NOT_FINITE * width
    if min(finite) > 0 and max(finite) > 10 * min(finite):
        means = [math.log(mean) if mean > 0 else mean for mean in means]
        finite = [mean for mean in means if math.isfinite(mean)]
    low, span = min(finite), max(finite) - min(finite)
    top = len(bars) - 1
    return "".join(
        bars[round((mean - low) / span * top) if span > 0 else 0]
        if math.isfinite(mean)
        else _NOT_FINITE
        for mean in means
    )


def _header(view: LiveView) -> list[RenderableType]:
    progress: list[str | Text] = [
        Text(view.status, _STYLES.get(view.status, "")),
        "no step yet" if view.step is None else f"step {view.step}",
        duration(view.elapsed),
        f"{number(view.steps_per_second)} steps/s" if view.steps_per_second else "",
        "probe's share not measured"
        if view.probe_share is None
        else f"probe {view.probe_share:.1%} of the time",
    ]
    settings = [
        f"learning rate {f'of {plain(part)} ' if part else ''}{number(rate)}"
        for part, rate in view.learning_rates.items()
    ]
    if view.alignment is not None:
        settings.append(f"alignment of the gradients {view.alignment:.2f}")
    lines = [cell(view.folder, "bold"), _joined(progress), _joined(settings)]
    if view.error:
        lines.append(cell(view.error, "red"))
    return [line for line in lines if line]


def _joined(facts: Sequence[str | Text]) -> Text:
    return Text("   ").join(Text.assemble(fact) for fact in facts if fact)


def _section(title: str, content: RenderableType) -> tuple[RenderableType, ...]:
    return "", Rule(Text(title, "bold"), align="left", style="dim"), content


def _terms(view: LiveView, shown: Console) -> RenderableType:
    if not view.terms:
        return _NOT_MEASURED
    is_ascii = shown.options.ascii_only
    bars = _ASCII_BARS if is_ascii else _BARS
    width = max(12, (shown.width - _WIDTH_OF_NUMBERS) // 2)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(
        "term", no_wrap=True, overflow="crop" if is_ascii else "ellipsis", max_width=width
    )
    for name in ("weight", "loss"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("its course", no_wrap=True)
    for name in ("|gradient|", "max/mean"):
        table.add_column(name, justify="right", no_wrap=True)
    for term in view.terms:
        name = f"{term.part}: {term.term}" if term.part else term.term
        table.add_row(
            cell(name or "(unnamed)", "bold" if term.term == "total" else ""),
            number(term.weight) or "-",
            number(term.losses[-1] if term.losses else None) or "-",
            sparkline(term.losses, width, bars),
            number(term.gradient_norm) or "-",
            number(term.max_to_mean) or "-",
        )
    return table


def _sharpness(view: LiveView) -> RenderableType:
    if not view.sharpness:
        return _NOT_MEASURED
    return Group(*(_sharpness_line(found) for found in view.sharpness))


def _sharpness_line(found: SharpnessView) -> Text:
    name = _OPERATORS[found.operator] + (f" of {plain(found.part)}" if found.part else "")
    # Digits enough to tell the ends of an interval apart.
    value, lower, upper = (number(each, 5) for each in (found.value, found.lower, found.upper))
    text = f"{name}: largest eigenvalue {value} in [{lower}, {upper}] at step {found.step}, "
    if not found.standing:
        return Text(text + "limit not measured")
    assert found.limit is not None
    share = found.value / found.limit if found.limit > 0 else math.nan
    beside = f" ({share:.0%} of it)" if share < 1 else f" ({share:.2g} times it)"
    limit = f" the limit of {number(found.limit)}{beside if math.isfinite(share) else ''}"
    return Text.assemble(text, (found.standing, _STYLES[found.standing]), limit)


def _findings(view: LiveView) -> RenderableType:
    if not view.findings:
        return Text("none", "dim")
    lines = [
        Text.assemble(
            (plain(f"{finding.code} {finding.severity}"), _SEVERITIES.get(finding.severity, "")),
            plain(f"  {finding.verdict}"),
        )
        for finding in view.findings[-_SHOWN_FINDINGS:]
    ]
    return Group(*_earlier(len(view.findings) - len(lines)), *lines)


def _events(view: LiveView) -> RenderableType:
    if not view.events:
        return Text("none", "dim")
    lines = [
        Text.assemble(
            ("" if event.step is None else f"step {event.step}  ", "dim"),
            plain(event.text),
            (plain(f"  ({event.source})") if event.source else "", "dim"),
        )
        for event in view.events[-_SHOWN_EVENTS:]
    ]
    return Group(*_earlier(len(view.events) - len(lines)), *lines)


def _earlier(hidden: int) -> list[Text]:
    return [Text(f"{hidden} earlier", "dim")] if hidden else []
