"""What is wrong with each run of a comparison: its verdict in one line of a table.

Groups say which model ends better; the diagnosis of a run says why it ended so. It is that of the
run's own report, and also there for runs that have failed, of which it is asked most.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from ...diagnostics.findings import Diagnosis
from ...probes.store import Run, StoreError
from ..tables import Cell, Column, Table, listed
from ..theme import plain
from .comparing import Comparison
from .members import RUN, Member
from .summaries import text_of

# A diagnosis reads the whole run: a fifth of a second for one of 40,000 steps.
MOST_RUNS = 60

_LONGEST = 400
_TONES: tuple[Literal["fail", "warn"], ...] = ("fail", "warn")


def diagnoses_of(comparison: Comparison) -> Table:
    """Returns the table of what was found in each run, the first of which are looked at."""
    keys = [key for key in (comparison.rows, comparison.columns) if key and key != RUN]
    names = {comparison.rows: comparison.row_name, comparison.columns: comparison.column_name}
    columns = (
        *(Column(plain(names[key])) for key in keys),
        Column("seed" if keys else "run"),
        Column("checks", "How many of them fail, warn, or could not be made."),
        Column("finding", "The code of the gravest one, by which the documentation explains it."),
        Column("in words", "The gravest finding."),
    )
    rows = [
        (
            *(Cell(text_of(member.described.get(key)), member.described.get(key)) for key in keys),
            _which(member, bool(keys)),
            *_found(member),
        )
        for member in comparison.members[:MOST_RUNS]
    ]
    note = (
        "`gradpath report RUN` has all findings of a run with their evidence and what to try; "
        "`gradpath reproduce` writes it as report.html into the folder of each run."
    )
    if len(comparison.members) > MOST_RUNS:
        note += f" Of {len(comparison.members):,} runs, the first {MOST_RUNS} are shown."
    return Table("What was found in each run", columns, tuple(rows), note)


def _which(member: Member, has_keys: bool) -> Cell:
    seed = member.described.get("seed")
    if has_keys and seed is not None:
        return Cell(text_of(seed), seed)
    return Cell(plain(member.name, 60), member.name)


def _found(member: Member) -> tuple[Cell, Cell, Cell]:
    nothing = Cell("-")
    if not member.path:
        return nothing, nothing, Cell(member.label, member.label, "missing")
    try:
        diagnosis = Run(member.path).diagnosis()
    except StoreError as error:
        return nothing, nothing, Cell(plain(str(error), _LONGEST), str(error), "fail")
    counts = Counter[str](check.status for check in diagnosis.checks)
    code, words = _gravest(diagnosis)
    if not member.counts:
        words = Cell(f"{plain(member.label, 200)}. {words.text}", words.value, "fail")
    return _checks(counts), code, words


def _checks(counts: Counter[str]) -> Cell:
    words = [f"{counts[status]} {status}" for status in _TONES if counts[status]]
    words = words or ["all ok" if counts["ok"] else "none made"]
    if counts["not measured"] and counts["ok"]:
        words.append(f"{counts['not measured']} not measured")
    tone: Literal["", "fail", "warn"] = next((each for each in _TONES if counts[each]), "")
    return Cell(", ".join(words), 100 * counts["fail"] + counts["warn"], tone)


def _gravest(diagnosis: Diagnosis) -> tuple[Cell, Cell]:
    grave = [each for each in diagnosis.findings if each.severity != "note"]
    if not grave:
        return Cell("-"), Cell(plain(diagnosis.verdict, _LONGEST), diagnosis.verdict)
    others = list(dict.fromkeys(each.code for each in grave if each.code != grave[0].code))
    more = f" Also {listed(others)}." if others else ""
    verdict = grave[0].verdict
    return Cell(grave[0].code, grave[0].code), Cell(plain(verdict, _LONGEST) + more, verdict)
