"""The tables of a comparison: one row a group, and what is missing said in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..tables import Cell, Column, Table, number, number_cell
from ..theme import plain
from .members import RUN, Key
from .quantities import LOSS_OF, QUANTITIES, quantity_of
from .statistics import CONFIDENT, Spread

if TYPE_CHECKING:
    from .comparing import Comparison

Maker = Callable[[Key, Key], list[Cell]]

_NAME_LENGTH = 60

RATIO_NOTE = (
    "A ratio is the median of those to the baseline seed by seed, with the "
    f"{CONFIDENT} interval of a percentile bootstrap; with few seeds it is too narrow."
)
_OVER_SEEDS = "Medians over the seeds of the runs that have finished."


def text_of(value: Key) -> str:
    """Returns a value of a key as a reader sees it.

    Example:
        >>> text_of("M1"), text_of(4.0), text_of(None)
        ('M1', '4', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    return plain(str(value), _NAME_LENGTH)


def tables_of(comparison: Comparison) -> tuple[Table, ...]:
    """Returns those tables of a comparison that its runs have numbers for, and that of the runs."""
    known = set(comparison.quantities)
    found = []
    if "error" in known:
        found.append(_errors(comparison))
    if any(key.startswith(LOSS_OF) for key in known) or "loss" in known:
        found.append(_losses(comparison))
    if "sharpness" in known:
        found.append(_sharpness(comparison))
    if known & set(_BETWEEN_TERMS):
        found.append(_between_terms(comparison))
    if "milliseconds" in known:
        found.append(_times(comparison))
    return (*found, _runs(comparison))


def _errors(comparison: Comparison) -> Table:
    sources = _sources(comparison)
    published = [
        Column(f"published [{place}]", source, is_number=True)
        for place, source in enumerate(sources, 1)
    ]

    def cells(row: Key, column: Key) -> list[Cell]:
        return [
            *_spread(comparison, "error", row, column),
            *_against(comparison, "error", row, column),
            number_cell(_known(comparison.ranks("error", column)[row])),
            *(_published(comparison, row, column, source) for source in sources),
        ]

    note = [f"{QUANTITIES['error'].meaning} {_OVER_SEEDS} {RATIO_NOTE}"]
    note += [f"[{place}] {source}." for place, source in enumerate(sources, 1)]
    return _table(
        comparison,
        "Final error",
        [
            *_spread_columns("relative L2 error"),
            *_ratio_columns(comparison),
            Column("rank", "Place by the median in this column of the grid.", is_number=True),
            *published,
        ],
        cells,
        " ".join(note),
    )


def _losses(comparison: Comparison) -> Table:
    keys = [key for key in comparison.quantities if key == "loss" or key.startswith(LOSS_OF)]
    is_ranked = comparison.main_quantity == "loss"

    def cells(row: Key, column: Key) -> list[Cell]:
        found = [_median(comparison, key, row, column) for key in keys]
        if is_ranked:
            found += _against(comparison, "loss", row, column)
            found.append(number_cell(_known(comparison.ranks("loss", column)[row])))
        return found

    heads = [
        Column("sum" if key == "loss" else plain(key.removeprefix(LOSS_OF), _NAME_LENGTH),
               quantity_of(key).meaning, is_number=True)
        for key in keys
    ]  # fmt: skip
    if is_ranked:
        heads += [*_ratio_columns(comparison), Column("rank", is_number=True)]
    note = f"Unweighted losses of the terms over the last tenth of the steps. {_OVER_SEEDS}"
    return _table(comparison, "Final losses", heads, cells, note)


def _sharpness(comparison: Comparison) -> Table:
    keys = ("sharpness_start", "sharpness_max", "sharpness")

    def cells(row: Key, column: Key) -> list[Cell]:
        end = comparison.spread("sharpness", row, column)
        return [
            *(_median(comparison, key, row, column) for key in keys),
            *_quartiles(end),
            *_against(comparison, "sharpness", row, column),
        ]

    doubts = [member.numbers.get("unconverged", 0.0) for member in comparison.members]
    of_the_end = "Quartiles and ratio are those of the end."
    note = f"Of the weighted loss. {_OVER_SEEDS} {of_the_end} {RATIO_NOTE}"
    if any(doubts):
        note += (
            f" In {sum(map(bool, doubts))} runs some eigenvalues did not converge: the true ones "
            "are larger."
        )
    heads = [
        *(Column(name, QUANTITIES[key].meaning, is_number=True)
          for name, key in zip(("start", "maximum", "end"), keys, strict=True)),
        *_QUARTILES,
        *_ratio_columns(comparison),
    ]  # fmt: skip
    return _table(comparison, "Largest Hessian eigenvalue", heads, cells, note)


_BETWEEN_TERMS = {
    "stiffness_ratio": "stiffness ratio",
    "imbalance": "max|g_ref| / mean|g_i|",
    "weighted_imbalance": "the same, weighted",
    "norm_ratio": "ratio of norms",
    "weighted_norm_ratio": "the same, weighted",
}


def _between_terms(comparison: Comparison) -> Table:
    keys = [key for key in _BETWEEN_TERMS if key in comparison.quantities]

    def cells(row: Key, column: Key) -> list[Cell]:
        return [_median(comparison, key, row, column) for key in keys]

    heads = [Column(_BETWEEN_TERMS[key], QUANTITIES[key].meaning, is_number=True) for key in keys]
    note = " ".join([*(QUANTITIES[key].meaning for key in keys), _OVER_SEEDS])
    return _table(comparison, "Stiffness and imbalance between the terms", heads, cells, note)


def _times(comparison: Comparison) -> Table:
    def cells(row: Key, column: Key) -> list[Cell]:
        return [
            *_spread(comparison, "milliseconds", row, column),
            *_against(comparison, "milliseconds", row, column),
            _median(comparison, "measuring", row, column),
        ]

    heads = [
        *_spread_columns("ms per step"),
        *_ratio_columns(comparison),
        Column("measuring (%)", QUANTITIES["measuring"].meaning, is_number=True),
    ]
    note = (
        f"{QUANTITIES['milliseconds'].meaning} {_OVER_SEEDS} Runs that shared a machine slowed "
        "each other down, so that only large ratios mean something."
    )
    return _table(comparison, "Time per step", heads, cells, note)


def _runs(comparison: Comparison) -> Table:
    """Every member, also those that are missing: which run is which, and how it ended."""
    main = comparison.main_quantity
    heads = [Column("run"), *_key_columns(comparison), Column("seed", is_number=True),
             Column("status"), Column("last step", is_number=True)]  # fmt: skip
    if main:
        heads.append(Column(quantity_of(main).label, is_number=True))
    rows = []
    for member in comparison.members:
        seed = member.described.get("seed")
        cells = [
            Cell(plain(member.name), member.name),
            *_key_cells(
                comparison,
                member.described.get(comparison.rows),
                member.described.get(comparison.columns),
            ),
            Cell(text_of(seed), seed),
            Cell(plain(member.label, 200), member.label, "" if member.counts else "fail"),
            Cell("-" if member.last_step is None else f"{member.last_step:,}", member.last_step),
        ]
        if main:
            known = member.numbers.get(main)
            cells.append(number_cell(known) if member.counts else Cell("-"))
        rows.append(tuple(cells))
    left_out = sum(not member.counts for member in comparison.members)
    note = f"{left_out} of them count in no other table." if left_out else "All of them count."
    return Table("Runs", tuple(heads), tuple(rows), " ".join([note, *comparison.notes]))


def _table(
    comparison: Comparison, title: str, heads: Sequence[Column], cells: Maker, note: str
) -> Table:
    rows = []
    for column in comparison.column_values:
        for row in comparison.row_values:
            group = comparison.group(row, column)
            if not group:
                continue
            counting = sum(member.counts for member in group)
            is_whole = counting == len(group)
            count = Cell(
                str(counting) if is_whole else f"{counting} of {len(group)}",
                counting,
                "" if is_whole else "warn" if counting else "fail",
            )
            rows.append((*_key_cells(comparison, row, column), count, *cells(row, column)))
    keys = _key_columns(comparison)
    runs = Column("runs", "That have finished, of those that there should be.", is_number=True)
    return Table(title, (*keys, runs, *heads), tuple(rows), note)


def _key_columns(comparison: Comparison) -> list[Column]:
    found = [] if comparison.rows == RUN else [Column(plain(comparison.row_name))]
    if comparison.columns:
        found.append(Column(plain(comparison.column_name), is_number=True))
    return found


def _key_cells(comparison: Comparison, row: Key, column: Key) -> list[Cell]:
    found = [] if comparison.rows == RUN else [Cell(text_of(row), row)]
    return [*found, Cell(text_of(column), column)] if comparison.columns else found


_QUARTILES = (
    Column("first quartile", is_number=True),
    Column("third quartile", is_number=True),
)


def _spread_columns(name: str) -> list[Column]:
    return [Column(name, "Median over the seeds.", is_number=True), *_QUARTILES]


def _spread(comparison: Comparison, quantity: str, row: Key, column: Key) -> list[Cell]:
    found = comparison.spread(quantity, row, column)
    return [number_cell(_known(found.median)), *_quartiles(found)]


def _quartiles(found: Spread) -> list[Cell]:
    # Of a single run they would be its number twice more.
    if found.count == 1:
        return [Cell("-"), Cell("-")]
    return [number_cell(_known(each)) for each in (found.lower, found.upper)]


def _median(comparison: Comparison, quantity: str, row: Key, column: Key) -> Cell:
    return number_cell(_known(comparison.spread(quantity, row, column).median))


def _ratio_columns(comparison: Comparison) -> list[Column]:
    name = text_of(comparison.baseline)
    return [
        Column(f"times {name}", "Median of the ratios seed by seed.", is_number=True),
        Column("interval", f"{CONFIDENT} bootstrap interval of that median."),
    ]


def _against(comparison: Comparison, quantity: str, row: Key, column: Key) -> list[Cell]:
    if row == comparison.baseline:
        return [Cell("baseline"), Cell("")]
    found = comparison.ratio(quantity, row, column)
    if not found.pairs:
        return [Cell("no pair", None, "missing"), Cell("")]
    if found.pairs == 1:
        return [Cell(number(found.median), found.median), Cell("one pair", None, "missing")]
    interval = f"{number(found.lower)} to {number(found.upper)}"
    return [Cell(number(found.median), found.median), Cell(interval, found.lower)]


def _sources(comparison: Comparison) -> list[str]:
    found = {
        str(each.get("source", "")): None
        for member in comparison.members
        for each in member.published
    }
    return list(found)


def _published(comparison: Comparison, row: Key, column: Key, source: str) -> Cell:
    for each in comparison.published(row, column):
        if str(each.get("source", "")) == source:
            value, deviation = float(str(each["value"])), each.get("deviation")
            scatter = "" if deviation is None else f" ± {number(float(str(deviation)))}"
            return Cell(number(value) + scatter, value)
    return Cell("-")


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
