"""One paragraph on what a comparison shows, made from its numbers and hedged as they are.

Two rows are put in an order only where their medians are, and where the bootstrap interval of the
paired ratio does not include 1. How much that is worth with so many seeds is said as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..tables import listed, number
from ..theme import plain
from .members import RUN, Key
from .quantities import quantity_of
from .scaling import growth
from .statistics import CONFIDENT, ENOUGH_PAIRS, PairedRatio
from .summaries import text_of

if TYPE_CHECKING:
    from .comparing import Comparison

# What rows are compared by, in this order, as far as it was measured.
_COMPARED = ("sharpness", "weighted_imbalance", "stiffness_ratio")
_GROWING = ("error", "sharpness", "imbalance", "stiffness_ratio")

_SHOWN_COLUMNS = 3
_SHOWN_LEFT_OUT = 3
_SHOWN_NAMES = 8


def paragraph(comparison: Comparison) -> str:
    """Returns what a comparison shows."""
    sentences = [*_scope(comparison)]
    main = comparison.main_quantity
    quantities = [each for each in (main, *_COMPARED) if each in comparison.quantities]
    for quantity in filter(None, quantities):
        columns = [
            column
            for column in comparison.column_values
            if len(_medians(comparison, quantity, column)) > 1
        ]
        # Of many columns, the ends and the middle, and of what is not the main thing the one with
        # most seeds: all are in the tables.
        if len(columns) > _SHOWN_COLUMNS:
            columns = [columns[0], columns[len(columns) // 2], columns[-1]]
        if quantity != main:
            columns = sorted(columns, key=lambda each: _most_pairs(comparison, quantity, each))[-1:]
        for column in columns:
            if _pairs(comparison) == {1}:
                sentences += _listed(comparison, quantity, column)
                continue
            if quantity == main:
                sentences += _order(comparison, quantity, column)
            sentences += _against(comparison, quantity, column)
    sentences += _published(comparison)
    for quantity in _GROWING:
        sentences += _growth(comparison, quantity)
    return " ".join([*sentences, *_hedges(comparison, bool(quantities))])


def _scope(comparison: Comparison) -> list[str]:
    members = comparison.members
    of = f" of {plain(comparison.problem)}" if comparison.problem else ""
    seeds = {member.described.get("seed") for member in members} - {None}
    runs = "run" if len(members) == 1 else "runs"
    where = ""
    if comparison.columns:
        where = f" at {plain(comparison.column_name)} = {_names(comparison.column_values)}"
    rows = "" if comparison.rows == RUN else f": {_names(comparison.row_values)}{where}"
    counts = {
        len({member.described.get("seed") for member in comparison.group(row, column)})
        for row in comparison.row_values
        for column in comparison.column_values
    }
    up_to = "" if len(counts) == 1 else "up to "
    of_seeds = f", with {up_to}{len(seeds)} seeds" if len(seeds) > 1 else ""
    found = [f"The comparison is of {len(members)} {runs}{of}{rows}{of_seeds}."]
    left_out = [member for member in members if not member.counts]
    if left_out:
        by_status = Counter(member.status for member in left_out)
        statuses = listed([f"{count} {status}" for status, count in by_status.items()])
        found.append(
            f"{len(left_out)} of them, {statuses}, are in none of the numbers, which may "
            "make a group look better than it is."
        )
        failed = [member for member in left_out if member.status in ("failed", "broken")]
        for member in failed[:_SHOWN_LEFT_OUT]:
            reason = plain(member.reason, 160).rstrip(".")
            why = f": {reason}" if member.reason else ""
            found.append(f"Run {plain(member.name)}, {member.status}{why}.")
        if len(failed) > _SHOWN_LEFT_OUT:
            found.append(f"Why {len(failed) - _SHOWN_LEFT_OUT} others are is in the table of runs.")
    if not any(member.counts for member in members):
        found.append("No run has finished, so that there is nothing to compare yet.")
    return found + list(comparison.notes)


def _listed(comparison: Comparison, quantity: str, column: Key) -> list[str]:
    """The numbers alone, where single seeds tell nothing of an order."""
    medians = _medians(comparison, quantity, column)
    ranked = sorted(medians, key=lambda row: medians[row])
    numbers = _some([f"{text_of(row)} {number(medians[row])}" for row in ranked])
    return [f"{_at(comparison, column, 'The')} {quantity_of(quantity).name} is: {numbers}."]


def _order(comparison: Comparison, quantity: str, column: Key) -> list[str]:
    """Which row has the smallest median, and whether the next one is really behind it."""
    medians = _medians(comparison, quantity, column)
    first, second, *_ = sorted(medians, key=lambda row: medians[row])
    name = quantity_of(quantity).name
    if medians[first] == medians[second]:
        return [f"{_at(comparison, column, 'Several')} rows share the smallest median {name}."]
    last = max(medians, key=lambda row: medians[row])
    smallest = (
        f"{_at(comparison, column, 'The')} median {name} is smallest for {text_of(first)} "
        f"({number(medians[first])}) and largest for {text_of(last)} ({number(medians[last])})"
    )
    # What the baseline has to do with it is said in the next sentence.
    if comparison.baseline in (first, second) or len(medians) == 2:
        return [f"{smallest}."]
    ratio = comparison.ratio(quantity, first, column, to=second)
    if ratio.direction < 0:
        return [
            f"{smallest}; {text_of(second)} comes next, and seed by seed {text_of(first)} has less "
            f"({_ratio(comparison, ratio)})."
        ]
    unclear = "a single seed tells nothing of the order" if ratio.pairs == 1 else "nothing is shown"
    return [
        f"{smallest}; between {text_of(first)} and {text_of(second)}, which comes next, "
        f"{unclear if ratio.pairs else 'no seed is in common'}"
        f"{f' ({_ratio(comparison, ratio)})' if ratio.pairs else ''}."
    ]


def _against(comparison: Comparison, quantity: str, column: Key) -> list[str]:
    """How every row compares with the baseline, seed by seed."""
    medians, baseline = _medians(comparison, quantity, column), comparison.baseline
    if baseline not in medians:
        return []
    groups: dict[str, list[str]] = {"lower": [], "higher": [], "unclear": [], "single": []}
    for row, median in medians.items():
        ratio = comparison.ratio(quantity, row, column)
        if row == baseline or not ratio.pairs:
            continue
        agree = ratio.direction * (median - medians[baseline]) > 0
        kind = {-1: "lower", 1: "higher"}[ratio.direction] if agree else "unclear"
        kind = "single" if ratio.pairs == 1 else kind
        groups[kind].append(f"{text_of(row)} ({_ratio(comparison, ratio)})")
    name, reference = quantity_of(quantity).name, text_of(baseline)
    found = [
        f"{_at(comparison, column, 'Seed')} by seed the {name} is {kind} than that of {reference} "
        f"for {_some(groups[kind])}."
        for kind in ("lower", "higher")
        if groups[kind]
    ]
    if groups["unclear"]:
        found.append(
            f"{_at(comparison, column, 'No')} clear difference from {reference} in the {name} is "
            f"shown for {_some(groups['unclear'])}."
        )
    if groups["single"]:
        found.append(
            f"{_at(comparison, column, 'With')} one seed in common with {reference}, the {name} is "
            f"as follows, without a spread to judge it by: {_some(groups['single'])}."
        )
    return found


def _published(comparison: Comparison) -> list[str]:
    """Our medians beside the published errors, of those sources first that know their scatter."""
    beside: list[str] = []
    within: list[str] = []
    outside: list[str] = []
    lengths: set[tuple[int, int]] = set()
    for column in comparison.column_values:
        for row in comparison.row_values:
            known = sorted(
                comparison.published(row, column), key=lambda each: each.get("deviation") is None
            )
            ours = comparison.spread("error", row, column)
            if not known or not ours.count:
                continue
            value, deviation = float(str(known[0]["value"])), known[0].get("deviation")
            where = text_of(row)
            if len(comparison.column_values) > 1:
                where += f" at {plain(comparison.column_name)} = {text_of(column)}"
            scatter = "" if deviation is None else f" ± {number(float(str(deviation)))}"
            beside.append(f"{where} {number(ours.median)} (published {number(value)}{scatter})")
            theirs, steps = known[0].get("steps"), _steps(comparison, row, column)
            if isinstance(theirs, int) and steps not in (None, theirs):
                lengths.add((theirs, int(str(steps))))
            elif deviation is not None:
                near = abs(ours.median - value) <= 2 * float(str(deviation))
                (within if near else outside).append(where)
    if not beside:
        return []
    found = [f"Beside what was published, our median error is: {_some(beside)}."]
    for theirs, steps in sorted(lengths):
        found.append(
            f"The published ones were trained for {theirs:,} steps, ours for {steps:,}: they do "
            "not judge each other."
        )
    if within:
        found.append(f"Within two published standard deviations is that of {_some(within)}.")
    if outside:
        found.append(f"Outside of them is that of {_some(outside)}.")
    return found


def _steps(comparison: Comparison, row: Key, column: Key) -> int | None:
    """Returns how long the runs of a cell were trained, None where they differ."""
    counting = [member for member in comparison.group(row, column) if member.counts]
    found = {member.last_step for member in counting}
    return found.pop() if len(found) == 1 else None


def _growth(comparison: Comparison, quantity: str) -> list[str]:
    """How a quantity of the baseline changes over the columns, where these are numbers."""
    law = growth(comparison, quantity, comparison.baseline)
    if law is None:
        return []
    axis, name = plain(comparison.column_name), quantity_of(quantity).name
    of = f"the {name} of {text_of(comparison.baseline)}"
    first, last = text_of(comparison.column_values[0]), text_of(comparison.column_values[-1])
    interval = f"{number(law.lower)} to {number(law.upper)}"
    if law.is_shown:
        verb = "grows" if law.exponent > 0 else "falls"
        return [
            f"Between {axis} = {first} and {last}, {of} {verb} like {axis}^{number(law.exponent)} "
            f"(fit to {law.count} runs, {CONFIDENT} interval {interval})."
        ]
    return [
        f"No power of {axis} is shown for {of} (fitted exponent {number(law.exponent)}, "
        f"{CONFIDENT} interval {interval}, {law.count} runs)."
    ]


def _most_pairs(comparison: Comparison, quantity: str, column: Key) -> int:
    others = [row for row in comparison.row_values if row != comparison.baseline]
    return max((comparison.ratio(quantity, row, column).pairs for row in others), default=0)


def _hedges(comparison: Comparison, compared: bool) -> list[str]:
    pairs = _pairs(comparison)
    if not compared or not pairs:
        return []
    fewest = min(pairs)
    if fewest == 1:
        return [
            "One seed says nothing of the spread over seeds: repeat with more before relying on an "
            "order."
        ]
    over = f" over {fewest} seeds" if len(pairs) == 1 else ""
    found = f"Intervals are {CONFIDENT} bootstrap intervals of the median ratio{over}"
    if fewest < ENOUGH_PAIRS:
        chance = 100 * 2.0 ** (1 - fewest)
        return [
            f"{found}; with only {fewest} seeds they are too narrow, and all seeds fall on the "
            f"same side by chance in {number(chance, 2)} % of cases."
        ]
    return [f"{found}, each of one comparison: among many, some exclude 1 by chance."]


def _medians(comparison: Comparison, quantity: str, column: Key) -> Mapping[Key, float]:
    found = {row: comparison.spread(quantity, row, column) for row in comparison.row_values}
    return {row: each.median for row, each in found.items() if each.count}


def _ratio(comparison: Comparison, ratio: PairedRatio) -> str:
    times = f"{number(ratio.median)} times"
    if ratio.pairs == 1:
        return times
    # Where it is the same for all, it is said once, in the end.
    over = "" if len(_pairs(comparison)) == 1 else f" over {ratio.pairs} seeds"
    return f"{times}, {number(ratio.lower)} to {number(ratio.upper)}{over}"


def _pairs(comparison: Comparison) -> set[int]:
    """Returns with how many pairs rows are compared with the baseline."""
    frame = comparison.groups
    others = frame[(frame["row"] != comparison.baseline) & (frame["pairs"] > 0)]
    return set(others["pairs"].astype(int))


def _at(comparison: Comparison, column: Key, word: str) -> str:
    """Returns the beginning of a sentence, with the column where there are several."""
    if len(comparison.column_values) == 1:
        return word
    return f"At {plain(comparison.column_name)} = {text_of(column)}, {word[0].lower()}{word[1:]}"


def _names(values: Sequence[Key]) -> str:
    return _some([text_of(value) for value in values])


def _some(words: Sequence[str]) -> str:
    if len(words) <= _SHOWN_NAMES:
        return listed(words)
    return f"{', '.join(words[:_SHOWN_NAMES])} and {len(words) - _SHOWN_NAMES} more"
