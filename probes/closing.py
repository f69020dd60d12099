"""What is measured when a step is over, and how the records of its passes become one set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .bench import Bench, wants
from .instruments.base import reads
from .open_step import OpenStep
from .records import (
    TRAINING_BATCH,
    Cost,
    EigenvalueRecord,
    Event,
    Finding,
    Record,
    Scalar,
    ScalarTable,
)
from .snapshot import TOTAL, Snapshot

FIRST_MICRO_BATCH = "first micro-batch"


def close_step(step: OpenStep, snapshot: Snapshot, bench: Bench) -> list[Record]:
    """Returns all records of a step that is over.

    Args:
        step: with what was measured while graphs were alive.
        snapshot: of all its passes.
        bench: the instruments.
    """
    records = list(step.records)
    if step.micro_batches:
        # A graph lives for one backward pass, so curvature is that of the first one's points.
        records = [_relabelled(record) for record in records]
    if len(step.passes) > 1:
        records = _of_several_passes(records, bench, snapshot.part)
    after = None
    if wants(step.due, "update"):
        after = step.layout.flatten()
    for instrument in wants(step.due, "losses", "gradients", "update"):
        chosen = snapshot
        if instrument in step.on_fixed and step.fixed is not None:
            chosen = step.fixed
        chosen.parameters_before, chosen.parameters_after = step.parameters_before, after
        records += bench.measure(instrument, chosen)
        if reads(instrument) == "losses" and step.fixed is not None:
            records += bench.measure(instrument, step.fixed)
    if step.self_check is not None:
        records.append(Scalar("self_check", step.self_check))
    records.append(Cost("probe", step.seconds))
    bench.charge(snapshot.part, step.due, step.seconds)
    return _once(records)


def changes_of(
    before: Mapping[str, float | None], after: Mapping[str, float | None], batch: str
) -> list[Record]:
    """Returns by how much each term has changed."""
    return [
        Scalar("actual_change", value - known, term, batch=batch)
        for term, value in after.items()
        if value is not None and (known := before.get(term)) is not None
    ]


def note_step_inside_of_a_pass(step: OpenStep, bench: Bench) -> None:
    """Says why nothing is known of a step that a hook has the optimizer take."""
    reason = (
        "The optimizer steps in a hook, before the backward pass is over: what step it takes is "
        "not known in advance."
    )
    for instrument in wants(step.due, "step"):
        step.records += bench.missing(step.part.name, instrument.name, reason)


def _relabelled(record: Record) -> Record:
    if isinstance(record, Cost | Event | Finding) or record.batch != TRAINING_BATCH:
        return record
    return replace(record, batch=FIRST_MICRO_BATCH)


def _of_several_passes(records: Sequence[Record], bench: Bench, part: str) -> list[Record]:
    """Drops what each pass took for the total: the graphs of the terms are not alive together."""
    kept: list[Record] = []
    for record in records:
        if isinstance(record, EigenvalueRecord) and (record.term, record.batch) == (
            TOTAL,
            TRAINING_BATCH,
        ):
            kept += bench.missing(
                part,
                "probe",
                "The terms are differentiated one by one, so the curvature of their sum cannot be "
                "taken from the graph: give their losses on a fixed batch with probe.on_batch.",
            )
        else:
            kept.append(record)
    return kept


def _once(records: Iterable[Record]) -> list[Record]:
    """Adds up costs of one instrument, and keeps the first of records of one name."""
    kept: dict[object, Record] = {}
    for number, record in enumerate(records):
        if isinstance(record, Cost):
            known = kept.get(("cost", record.instrument))
            seconds = record.seconds + (known.seconds if isinstance(known, Cost) else 0.0)
            kept["cost", record.instrument] = Cost(record.instrument, seconds)
        elif isinstance(record, Event | Finding):
            kept[number] = record
        elif isinstance(record, ScalarTable):
            kept.setdefault((record.names, record.terms, record.layers, record.batch), record)
        else:
            end = record.end if isinstance(record, EigenvalueRecord) else ""
            key = (type(record), record.name, record.term, record.layer, record.batch, end)
            kept.setdefault(key, record)
    return list(kept.values())
