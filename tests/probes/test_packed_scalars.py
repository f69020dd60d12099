"""Scalars of a table are read as if each had been recorded for itself; parts get other names."""

import math
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from gradpath.diagnostics.errors import ArgumentError
from gradpath.probes import (
    Cost,
    Event,
    Finding,
    HistogramRecord,
    Run,
    RunWriter,
    Scalar,
    ScalarTable,
    StoreError,
    run_writer,
    runs,
)
from gradpath.probes.records import Record
from tests.package import ROOT
from tests.probes import recorded

STORED = ROOT / "tests" / "probes" / "data"


def table(*values: float, name: str = "norm", terms: tuple[str, ...] = ("a",)) -> ScalarTable:
    """One name of some terms, in as many layers as it takes."""
    numbers = np.array(values, dtype=np.float64).reshape(1, len(terms), -1)
    return ScalarTable(
        (name,), numbers, terms, tuple(f"layer {k}" for k in range(numbers.shape[2]))
    )


def one_by_one(records: Iterable[Record]) -> Iterator[Record]:
    for record in records:
        if isinstance(record, ScalarTable):
            yield from record.scalars()
        else:
            yield record


def assert_same_frames(first: Run, second: Run) -> None:
    names = set(second.scalars()["name"]) | {"no such name"}
    for name in (None, *sorted(names)):
        frame = first.scalars(name)
        pd.testing.assert_frame_equal(frame, second.scalars(name))
    assert (first.terms, first.layers, first.steps) == (second.terms, second.layers, second.steps)


def tables_in(folder: Path) -> dict[str, int]:
    """The number of rows of each table."""
    with sqlite3.connect(f"file:{folder / 'run.db'}?mode=ro", uri=True) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        counts = {
            name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]
            for (name,) in names
        }
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return counts


NAMES = st.lists(st.sampled_from(["loss", "norm", "mean"]), min_size=1, max_size=3, unique=True)
TERMS = st.lists(st.sampled_from(["", "a", "b", "total"]), min_size=1, max_size=3, unique=True)
LAYERS = st.lists(st.sampled_from(["", "0", "2", "all"]), min_size=1, max_size=3, unique=True)
NUMBER = st.floats(width=32)


@st.composite
def steps(draw: st.DrawFn) -> list[tuple[int, str, list[Record]]]:
    """Draws steps in any order, of one or two parts, each scalar once, packed or not."""
    found = []
    for step in draw(st.lists(st.integers(0, 100), min_size=1, max_size=6, unique=True)):
        records: list[Record] = []
        taken: set[tuple[str, ...]] = set()
        for _ in range(draw(st.integers(0, 4))):
            names, terms, layers = draw(NAMES), draw(TERMS), draw(LAYERS)
            batch = draw(st.sampled_from(["training", "grid"]))
            keys = {(n, t, la, batch) for n in names for t in terms for la in layers}
            if keys & taken:
                continue
            taken |= keys
            shape = (len(names), len(terms), len(layers))
            numbers = draw(st.lists(NUMBER, min_size=math.prod(shape), max_size=math.prod(shape)))
            values = np.array(numbers, dtype=draw(st.sampled_from(["f4", "f8"]))).reshape(shape)
            made = ScalarTable(tuple(names), values, tuple(terms), tuple(layers), batch)
            records += [made] if draw(st.booleans()) else made.scalars()
        found.append((step, draw(st.sampled_from(["", "critic"])), records))
    return found


@given(given_steps=steps())
def test_tables_are_read_like_single_scalars(
    tmp_path_factory: pytest.TempPathFactory, given_steps: list[tuple[int, str, list[Record]]]
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_writer, "environment", dict)  # asking git takes longer than all else
        packed, plain = RunWriter(folder / "packed"), RunWriter(folder / "plain")
    with packed, plain:
        for step, part, records in given_steps:
            packed.record(step, records, part=part)
            plain.record(step, one_by_one(records), part=part)
    assert_same_frames(Run(folder / "packed"), Run(folder / "plain"))
    assert_same_frames(Run(folder / "plain"), Run(folder / "packed"))
    shutil.rmtree(folder)


def test_all_tables_of_a_step_are_one_row_whose_columns_are_stored_once(tmp_path: Path) -> None:
    records: list[Record] = [
        Scalar("learning_rate", 0.1),
        ScalarTable(
            ("norm", "mean"), np.arange(12.0).reshape(2, 2, 3), ("a", "b"), ("0", "2", "all")
        ),
        ScalarTable(("alignment",), np.ones((1, 1, 3)), layers=("0", "2", "all")),
    ]
    with RunWriter(tmp_path) as writer:
        for step in range(5):
            writer.record(step, records)
    with RunWriter(tmp_path, resume=True) as writer:
        for step in range(5, 9):
            writer.record(step, records)
        writer.record(9, records[1:])
        writer.record(10, [*records[1:], ScalarTable(("x",), np.ones((1, 1, 1), dtype=np.float32))])
        writer.record(11, [ScalarTable((), np.ones((0, 1, 1))), Scalar("learning_rate", 0.1)])
    counts = tables_in(tmp_path)
    assert counts["packed_scalars"] == 9 + 1 + 2
    assert counts["packings"] == 2
    assert counts["packed_columns"] == 15 + 1
    assert counts["scalars"] == 10
    frame = Run(tmp_path).scalars("mean")
    assert frame[frame["step"] == 7][["term", "layer", "value"]].to_numpy().tolist() == [
        *(["a", layer, value] for layer, value in (("0", 6.0), ("2", 7.0), ("all", 8.0))),
        *(["b", layer, value] for layer, value in (("0", 9.0), ("2", 10.0), ("all", 11.0))),
    ]


def test_numbers_keep_every_bit_and_float32_takes_half_the_room(tmp_path: Path) -> None:
    numbers = [0.0, -0.0, 5e-324, 1.7e308, math.inf, -math.inf, math.nan, 1 / 3]
    long, short = table(*numbers), np.array(numbers[:2] + numbers[4:], dtype=np.float32)
    narrow = ScalarTable(("short",), short.reshape(1, 1, -1), layers=tuple("abcdef"))
    whole = ScalarTable(("whole",), np.arange(2).reshape(1, 2, 1), ("a", "b"))
    with RunWriter(tmp_path) as writer:
        writer.record(0, [long, narrow, whole])
    run = Run(tmp_path)
    assert run.scalars("norm")["value"].to_numpy().tobytes() == np.array(numbers).tobytes()
    np.testing.assert_array_equal(run.scalars("short")["value"], short.astype(np.float64))
    assert run.scalars("whole")["value"].tolist() == [0.0, 1.0]
    with sqlite3.connect(tmp_path / "run.db") as connection:
        found = connection.execute("SELECT length(data) FROM packed_scalars ORDER BY packing")
        assert found.fetchall() == [(8 * 10,), (4 * 6,)]
    connection.close()


def test_a_table_of_another_shape_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"shape \(2, 1\) was given for 2 names, 1 terms"):
        ScalarTable(("a", "b"), np.ones((2, 1)))


def test_what_changes_later_does_not_change_what_was_recorded(tmp_path: Path) -> None:
    values = np.ones((1, 1, 1))
    with RunWriter(tmp_path) as writer:
        writer.record(0, [ScalarTable(("x",), values)])
        values[:] = 2
        writer.record(1, [ScalarTable(("x",), values)])
    assert Run(tmp_path).scalars("x")["value"].tolist() == [1.0, 2.0]


TWICE: dict[str, list[Record]] = {
    "in two tables": [table(1, 2), table(3, 4)],
    "in tables of two dtypes": [
        table(1, 2),
        ScalarTable(("norm",), np.ones((1, 1, 1), dtype=np.float32), ("a",), ("layer 0",)),
    ],
    "in one table": [ScalarTable(("norm",), np.ones((1, 2, 1)), ("a", "a"), ("layer 0",))],
    "in a table and alone": [table(1, 2), Scalar("norm", 1.0, "a", "layer 0")],
    "alone and in a table": [Scalar("norm", 1.0, "a", "layer 0"), table(1, 2)],
}


@pytest.mark.parametrize("case", TWICE)
def test_a_measurement_that_is_there_twice_is_refused_whole(tmp_path: Path, case: str) -> None:
    with RunWriter(tmp_path) as writer:
        for known in (0, 1):  # with names that are new, and that are not
            with pytest.raises(
                StoreError, match="two scalars named 'norm' of term 'a' in layer 'layer 0'"
            ):
                writer.record(5, TWICE[case])
            writer.record(known, [table(1, 2)])
        assert Run(tmp_path).steps == (0, 1)
    assert len(Run(tmp_path).scalars()) == 4


def test_what_is_added_to_a_step_may_not_be_there_already(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.record(0, [table(1, 2), Scalar("loss", 1.0)])
        writer.record(0, [table(1, 2), Scalar("loss", 1.0)], part="critic")
        writer.complete(0, [table(3, 4, name="mean"), Scalar("gain", 2.0)])
        for again, name in (
            ([table(3, 4)], "norm"),
            ([Scalar("norm", 1.0, "a", "layer 1")], "norm"),
            ([Scalar("x", 1.0), Scalar("loss", 1.0)], "loss"),
            ([ScalarTable(("x", "gain"), np.ones((2, 1, 1)))], "gain"),
            ([table(1, name="mean")], "mean"),
        ):
            with pytest.raises(StoreError, match=f"two scalars named '{name}'"):
                writer.complete(0, again)
        histogram = HistogramRecord(recorded.histogram(0, "a", "0"), "a", "0")
        writer.complete(0, [histogram])
        other = HistogramRecord(recorded.histogram(0, "a", "0"), "b", "0")
        with pytest.raises(StoreError, match="two histograms named 'gradient' of term 'a'"):
            writer.complete(0, [other, histogram])
        writer.complete(0, [other])
        with pytest.raises(StoreError, match="Step 7 is not in run"):
            writer.complete(7, [])
    run = Run(tmp_path)
    assert len(run.scalars()) == 2 * 3 + 3
    assert len(run.histograms()) == 2


def test_a_resumed_training_replaces_packed_steps_of_its_part(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        for step in range(0, 100, 10):
            writer.record(step, [table(1, 1)])
            writer.record(step, [table(1, 1)], part="critic")
    with RunWriter(tmp_path, resume=True) as writer:
        writer.record(65, [table(2, 2)])
        writer.record(55, [table(2, 2)])
    frame = Run(tmp_path).scalars("norm")
    own = frame[frame["part"] == ""]
    steps = [step for step in (0, 10, 20, 30, 40, 50, 55, 65) for _ in range(2)]
    assert own["step"].tolist() == steps
    assert own["value"].tolist() == [1.0] * 12 + [2.0] * 4
    assert len(frame[frame["part"] == "critic"]) == 20
    assert tables_in(tmp_path)["packings"] == 2


def test_the_total_loss_of_a_run_is_the_last_one_packed_or_not(tmp_path: Path) -> None:
    def total(value: float) -> ScalarTable:
        return ScalarTable(("weight", "loss"), np.full((2, 2, 1), value), ("a", "total"))

    cases: dict[str, list[list[Record]]] = {
        "packed": [[total(3.0)], [total(2.0)]],
        "plain last": [[total(3.0)], [Scalar("loss", 2.0, "total")]],
        "packed last": [[Scalar("loss", 3.0, "total")], [total(2.0)]],
        "other packings": [[total(3.0), table(1)], [total(2.0)]],
        "not a number": [[total(3.0)], [total(math.nan)]],
    }
    for name, each in cases.items():
        with RunWriter(tmp_path / name) as writer:
            for step, records in enumerate(each):
                writer.record(step, records)
    found = runs(tmp_path)
    losses = dict(zip(found["path"].map(lambda path: Path(path).name), found["loss"], strict=True))
    assert math.isnan(losses.pop("not a number"))
    assert losses == dict.fromkeys(losses, 2.0)


def test_a_run_of_the_first_version_goes_on_with_tables(tmp_path: Path) -> None:
    shutil.copytree(STORED / "run_v1", tmp_path / "run")
    before = Run(tmp_path / "run").scalars()
    with RunWriter(tmp_path / "run", resume=True) as writer:
        terms = (*recorded.TERMS, "total")
        writer.record(30, [ScalarTable(("loss",), np.arange(3.0).reshape(1, 3, 1), terms)])
    after = Run(tmp_path / "run").scalars()
    pd.testing.assert_frame_equal(after[:-3], before)
    assert after[-3:][["step", "name", "term", "value"]].to_numpy().tolist() == [
        [30, "loss", "residual", 0.0],
        [30, "loss", "boundary", 1.0],
        [30, "loss", "total", 2.0],
    ]
    # The terms are series that the first version has stored.
    assert tables_in(tmp_path / "run")["series"] == tables_in(STORED / "run_v1")["series"]


# Parts get names.


def everything(step: int) -> list[Record]:
    finding = Finding("GP101", "warning", f"Of step {step}.")
    return [*recorded.records(step), Cost("all", 1.0), Event("told", "Something."), finding]


def test_a_part_gets_another_name_with_all_that_it_has(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "renamed") as writer:
        writer.record(0, everything(0))
        writer.note(Event("told", "Outside of steps."))
        writer.rename_part("", "generator")
        assert writer.last_step("generator") == 0
        assert writer.last_step("") is None
        writer.record(0, everything(0), part="critic")
        writer.record(10, everything(10), part="generator")
    with RunWriter(tmp_path / "named") as writer:
        writer.record(0, everything(0), part="generator")
        writer.note(Event("told", "Outside of steps."), part="generator")
        writer.record(0, everything(0), part="critic")
        writer.record(10, everything(10), part="generator")
    renamed, named = Run(tmp_path / "renamed"), Run(tmp_path / "named")
    assert sorted(renamed.parts) == ["critic", "generator"]
    assert_same_frames(renamed, named)
    frames: list[Callable[[Run], pd.DataFrame]] = [
        lambda run: run.events().drop(columns="time"),
        lambda run: run.timeline()[["step", "part"]],
        Run.cost,
        Run.eigenvalues,
        Run.histograms,
        lambda run: run.fields().drop(columns=["values", "grid"]),
    ]
    for frame in frames:
        pd.testing.assert_frame_equal(frame(renamed), frame(named))
    assert renamed.findings == named.findings
    assert tables_in(tmp_path / "renamed") == tables_in(tmp_path / "named")


def test_a_name_that_has_steps_is_not_given_again(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        writer.record(0, [table(1)])
        writer.record(0, [table(2)], part="critic")
        with pytest.raises(StoreError, match="has steps of a part 'critic' already"):
            writer.rename_part("", "critic")
        writer.rename_part("", "")
        writer.rename_part("nobody", "somebody")
        assert sorted(Run(tmp_path).parts) == ["", "critic"]
        writer.record(1, [table(3)])
    assert Run(tmp_path).scalars("norm")["part"].tolist() == ["", "critic", ""]


def test_after_a_resume_a_renamed_part_still_replaces_its_steps(tmp_path: Path) -> None:
    with RunWriter(tmp_path) as writer:
        for step in range(4):
            writer.record(step, [table(1), Scalar("loss", 1.0)])
    with RunWriter(tmp_path, resume=True) as writer:
        writer.rename_part("", "generator")
        assert Run(tmp_path).parts == ("generator",)
        writer.record(2, [table(2), Scalar("loss", 2.0)], part="generator")
    run = Run(tmp_path)
    assert run.scalars("norm")["value"].tolist() == [1.0, 1.0, 2.0]
    assert run.steps == (0, 1, 2)
    with RunWriter(tmp_path, resume=True) as writer:
        writer.record(1, [table(3), Scalar("loss", 3.0)], part="generator")
        # What this session has recorded is not replaced any more, whatever it is called.
        writer.rename_part("generator", "")
        writer.record(3, [table(4), Scalar("loss", 4.0)])
        with pytest.raises(StoreError, match="recorded already"):
            writer.record(1, [])
    run = Run(tmp_path)
    assert run.scalars("norm")["value"].tolist() == [1.0, 3.0, 4.0]
    assert run.scalars("loss")["value"].tolist() == [1.0, 3.0, 4.0]
    assert run.events()["text"].tolist() == [
        "Resumed at step 1, which replaced 2 steps recorded from there on."
    ]


def test_reading_many_steps_loops_over_no_number(tmp_path: Path) -> None:
    """4,000 steps of 400 scalars: a loop over all of a name would take seconds."""
    names, layers = tuple(f"name {k}" for k in range(20)), tuple(map(str, range(20)))
    values = np.random.default_rng(0).random((4000, 20, 1, 20))
    with RunWriter(tmp_path) as writer:
        for step, each in enumerate(values):
            writer.record(step, [ScalarTable(names, each, layers=layers)])
    frame = Run(tmp_path).scalars("name 7")
    np.testing.assert_array_equal(frame["value"], values[:, 7].reshape(-1))
    np.testing.assert_array_equal(frame["step"], np.repeat(np.arange(4000), 20))
    assert frame["layer"][:20].tolist() == list(layers)
