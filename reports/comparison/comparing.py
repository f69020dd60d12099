"""Grouping runs and comparing the groups: the public function and what it returns.

Two keys of the runs' metadata span a grid, mostly models x complexities. The runs of a cell differ
in their seed. Every group is compared with the baseline's in the same column, seed by seed, since
equal seeds have equal points and much of their luck in common.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from ...diagnostics.errors import ArgumentError
from ...probes.store import Run
from ..tables import Table, listed
from .members import RUN, Key, Member, members_of
from .quantities import LOSS_OF, QUANTITIES
from .statistics import PairedRatio, Spread, paired_ratio, ranks, spread

# What runs of anybody's may lack, without which there is still something to compare.
_USUAL_ROWS, _USUAL_COLUMNS = "model", "complexity"
_USUAL_BASELINE = "M1"

# Differences in these between the runs of a group are not luck.
_SETTINGS = ("problem", "hidden", "steps", "dtype", "points", "parameters", "weighting",
             "complexity", "model")  # fmt: skip


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs in a grid of two keys, seeds within.

    Attributes:
        rows: the key that tells the rows apart.
        columns: the key that tells the columns apart, "" where there is one column.
        row_values: what the rows have of it, in order.
        column_values: likewise; (None,) where there is one column.
        baseline: the row that the others are compared with.
        members: every run, and every one that is missing.
        notes: sentences on what limits the comparison.
    """

    rows: str
    columns: str
    row_values: tuple[Key, ...]
    column_values: tuple[Key, ...]
    baseline: Key
    members: tuple[Member, ...]
    notes: tuple[str, ...] = ()

    def group(self, row: Key, column: Key = None) -> tuple[Member, ...]:
        """Returns the members of a cell of the grid, also those that do not count."""
        return self._cells.get((row, column), ())

    def numbers(self, quantity: str, row: Key, column: Key = None) -> dict[Key, float]:
        """Returns what the members of a cell that count have of a quantity, by seed.

        Where they have no seeds, or one is there twice, they are told apart by their names, and
        have no partner in another cell.
        """
        counting = [
            member
            for member in self.group(row, column)
            if member.counts and quantity in member.numbers
        ]
        seeds = Counter(member.described.get("seed") for member in counting)
        is_single = len(counting) == 1
        return {
            _pair(member, unique=seeds[member.described.get("seed")] == 1, is_single=is_single):
            member.numbers[quantity]
            for member in counting
        }  # fmt: skip

    def spread(self, quantity: str, row: Key, column: Key = None) -> Spread:
        """Returns median and quartiles of a cell."""
        return spread(list(self.numbers(quantity, row, column).values()))

    def ratio(self, quantity: str, row: Key, column: Key = None, *, to: Key = None) -> PairedRatio:
        """Returns by what factor a cell differs from that of another row in the same column.

        Args:
            quantity: a key of `QUANTITIES`.
            row: of the cell.
            column: of both.
            to: the other row; None: the baseline.
        """
        other = self.baseline if to is None else to
        return paired_ratio(
            self.numbers(quantity, row, column), self.numbers(quantity, other, column)
        )

    def ranks(self, quantity: str, column: Key = None) -> dict[Key, float]:
        """Returns the place of each row by its median, the smallest first; NaN without one."""
        medians = [self.spread(quantity, row, column).median for row in self.row_values]
        return dict(zip(self.row_values, ranks(medians), strict=True))

    def published(self, row: Key, column: Key = None) -> tuple[Mapping[str, object], ...]:
        """Returns the published errors that belong to a cell: `value`, `deviation`, `source`."""
        found = {
            tuple(sorted((name, str(value)) for name, value in each.items())): each
            for member in self.group(row, column)
            for each in member.published
        }
        return tuple(found.values())

    @cached_property
    def quantities(self) -> tuple[str, ...]:
        """The keys of what was measured in at least one run that counts."""
        known = {key: None for member in self.members if member.counts for key in member.numbers}
        losses = [key for key in known if key.startswith(LOSS_OF)]
        return (*(key for key in QUANTITIES if key in known), *losses)

    @property
    def main_quantity(self) -> str | None:
        """What rows are ranked by: the error, else the losses; None where neither is known."""
        return next((key for key in ("error", "loss") if key in self.quantities), None)

    @property
    def column_name(self) -> str:
        """What the columns are called: the problem's own parameter, where it is the complexity."""
        return self._name_of(self.columns)

    @property
    def row_name(self) -> str:
        """What the rows are called, likewise."""
        return self._name_of(self.rows)

    @property
    def problem(self) -> str:
        """The name of the problem, "" where the runs have none or several."""
        names = {member.described.get("problem") for member in self.members}
        return str(*names) if len(names) == 1 and names != {None} else ""

    @cached_property
    def groups(self) -> pd.DataFrame:
        """One row a cell and quantity.

        Columns: quantity, row, column, count, median, lower, upper (quartiles), least, most, rank
        (of the row by the median), ratio (to the baseline), ratio_lower, ratio_upper (of its
        bootstrap interval), pairs.
        """
        found = []
        for quantity in self.quantities:
            for column in self.column_values:
                places = self.ranks(quantity, column)
                for row in self.row_values:
                    one, ratio = (
                        self.spread(quantity, row, column),
                        self.ratio(quantity, row, column),
                    )
                    found.append(
                        (quantity, row, column, one.count, one.median, one.lower, one.upper,
                         one.least, one.most, places[row], ratio.median, ratio.lower, ratio.upper,
                         ratio.pairs)
                    )  # fmt: skip
        names = (
            "quantity row column count median lower upper least most rank ratio ratio_lower "
            "ratio_upper pairs"
        )
        return pd.DataFrame(found, columns=names.split())

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a member: name, path, status, reason, row, column, seed, and its numbers."""
        return pd.DataFrame(
            {
                "name": member.name,
                "path": member.path,
                "status": member.status,
                "reason": member.reason,
                "row": member.described.get(self.rows),
                "column": member.described.get(self.columns),
                "seed": member.described.get("seed"),
                "last_step": member.last_step,
                **member.numbers,
            }
            for member in self.members
        )

    @cached_property
    def tables(self) -> tuple[Table, ...]:
        """What a report shows, in its order."""
        from .summaries import tables_of

        return tables_of(self)

    @cached_property
    def words(self) -> str:
        """One paragraph on what the numbers show, and on what they do not."""
        from .words import paragraph

        return paragraph(self)

    def _name_of(self, key: str) -> str:
        parameters = {member.described.get("complexity_parameter") for member in self.members}
        known = parameters - {None}
        return str(*known) if key == _USUAL_COLUMNS and len(known) == 1 else key

    @cached_property
    def _cells(self) -> dict[tuple[Key, Key], tuple[Member, ...]]:
        cells: dict[tuple[Key, Key], list[Member]] = {}
        for member in self.members:
            at = (member.described.get(self.rows), member.described.get(self.columns))
            cells.setdefault(at, []).append(member)
        return {at: tuple(found) for at, found in cells.items()}


def compare_runs(
    folder_or_runs: str | os.PathLike[str] | Iterable[Run | str | os.PathLike[str]],
    *,
    rows: str = _USUAL_ROWS,
    columns: str = _USUAL_COLUMNS,
    baseline: Key = None,
) -> Comparison:
    """Returns runs grouped by two keys of their metadata, with what their numbers show.

    Runs that have not finished, that cannot be read, and members of a sweep that were not begun are
    in it as such, and in none of its numbers.

    Args:
        folder_or_runs: a folder with runs at any depth, or runs, or their folders.
        rows: a key of the runs' metadata or of their problem's parameters; "run" has one row a
            run. Where no run has a `model`, that is what there is.
        columns: likewise. Where no run has a `complexity`, there is one column.
        baseline: the row that the others are compared with; by default M1, or else the first.

    Raises:
        StoreError: there is no such folder.
        ArgumentError: there is no run, no run has such a key, the baseline is no row, or the runs
            belong to several problems that neither key tells apart.

    Example:
        >>> import tempfile
        >>> from gradpath.probes import RunWriter, Scalar
        >>> folder = tempfile.TemporaryDirectory()
        >>> for name, seed, error in (("a", 0, 0.2), ("a", 1, 0.4), ("b", 0, 0.1), ("b", 1, 0.1)):
        ...     described = {"model": name, "seed": seed, "final_error": error}
        ...     RunWriter(f"{folder.name}/{name}{seed}", metadata=described).finish()
        >>> found = compare_runs(folder.name)
        >>> found.row_values, found.baseline, found.spread("error", "a").median
        (('a', 'b'), 'a', 0.30000000000000004)
        >>> found.ratio("error", "b").median  # of 0.1 / 0.2 and 0.1 / 0.4
        0.353553390593
        >>> folder.cleanup()
    """
    return _arranged(members_of(folder_or_runs), rows, columns, baseline)


def placed(
    runs: Iterable[Run], *, rows: str = _USUAL_ROWS, columns: str = _USUAL_COLUMNS
) -> Comparison:
    """Returns runs in the grid of two keys, without reading their numbers.

    Raises:
        ArgumentError: as `compare_runs`.
    """
    return _arranged(members_of(runs, with_numbers=False), rows, columns, None)


def _arranged(members: Sequence[Member], rows: str, columns: str, baseline: Key) -> Comparison:
    if rows == columns:
        raise ArgumentError(f"Rows and columns are both {rows!r}; give two different keys.")
    rows = _known_key(members, rows, usual=_USUAL_ROWS, otherwise=RUN)
    columns = _known_key(members, columns, usual=_USUAL_COLUMNS, otherwise="")
    problems = {str(member.described.get("problem")) for member in members}
    if len(problems) > 1 and "problem" not in (rows, columns):
        raise ArgumentError(
            f"The runs belong to several problems ({', '.join(sorted(problems))}), whose numbers "
            "cannot be compared; give the folder of one, or let rows be problems (--rows problem)."
        )
    members = tuple(sorted(members, key=lambda each: _place(each, rows, columns)))
    row_values = _values(members, rows)
    return Comparison(
        rows,
        columns,
        row_values,
        _values(members, columns),
        _baseline(row_values, baseline),
        members,
        _notes(members, rows, columns),
    )


def _pair(member: Member, *, unique: bool, is_single: bool) -> Key:
    seed = member.described.get("seed")
    # Two groups of one run each are a pair even where nobody gave a seed.
    if unique and (seed is not None or is_single):
        return seed
    return f"run {member.path}"


def _known_key(members: Sequence[Member], key: str, *, usual: str, otherwise: str) -> str:
    # A sweep's problem may have no parameter that makes it harder.
    if any(member.described.get(key) is not None for member in members):
        return key
    if key == usual:
        return otherwise
    known = sorted({name for member in members for name in member.described})
    raise ArgumentError(f"No run has the key {key!r}; they have {', '.join(known)}.")


def _values(members: Sequence[Member], key: str) -> tuple[Key, ...]:
    found = {member.described.get(key): None for member in members}
    return tuple(sorted(found, key=_order))


def _order(value: Key) -> tuple[int, float, list[tuple[int, int, str]]]:
    """Numbers first, then texts with the numbers in them taken as such, then what is missing."""
    if value is None:
        return 2, 0.0, []
    if isinstance(value, str):
        pieces = re.findall(r"\d+|\D+", value)
        return 1, 0.0, [
            (0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces
        ]  # fmt: skip
    return 0, float(value), []


def _place(member: Member, rows: str, columns: str) -> tuple[object, ...]:
    return tuple(_order(member.described.get(key)) for key in (columns, rows, "seed"))


def _baseline(row_values: Sequence[Key], wanted: Key) -> Key:
    if wanted is None:
        return _USUAL_BASELINE if _USUAL_BASELINE in row_values else row_values[0]
    # On a command line a number comes as text.
    for value in row_values:
        if value == wanted or str(value) == str(wanted):
            return value
    raise ArgumentError(
        f"There is no row {wanted!r} to compare with; there are "
        f"{listed([str(value) for value in row_values])}."
    )


def _notes(members: Sequence[Member], rows: str, columns: str) -> tuple[str, ...]:
    cells: dict[tuple[Key, Key], list[Member]] = {}
    for member in members:
        if member.counts:
            at = (member.described.get(rows), member.described.get(columns))
            cells.setdefault(at, []).append(member)
    varying = [
        name
        for name in _SETTINGS
        if name not in (rows, columns)
        and any(len({one.described.get(name) for one in cell}) > 1 for cell in cells.values())
    ]
    found = []
    if varying:
        found.append(
            f"Runs of one group differ in {listed(varying)}, so that their spread is not that of "
            "seeds alone."
        )
    doubled = any(
        seed is not None and count > 1
        for cell in cells.values()
        for seed, count in Counter(one.described.get("seed") for one in cell).items()
    )
    if doubled:
        found.append("A seed is there twice in a group, and is left out of paired differences.")
    return tuple(found)
