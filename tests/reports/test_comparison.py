"""Comparisons of runs whose numbers are known: groups, pairs, tables, what is missing, words."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from gradpath import Run
from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import problem, train
from gradpath.probes import RunWriter, StoreError
from gradpath.reports.comparison import Comparison, Member, compare_runs
from gradpath.reports.tables import Table
from tests.reports.sweep_runs import declare, write_member

ERRORS = {"M1": (0.2, 0.4, 0.3), "M2": (0.02, 0.08, 0.03), "M4": (0.2, 0.3, 0.6)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models at one complexity with three seeds each."""
    found = tmp_path_factory.mktemp("sweep")
    for model, errors in ERRORS.items():
        for seed, error in enumerate(errors):
            write_member(
                found / f"{model}_{seed}", model=model, seed=seed, error=error, hidden=[5, 5],
                weight=10.0 if model == "M2" else 1.0,
                published=[{"value": 0.25, "deviation": 0.05, "source": "A paper, table 3"}]
                if model == "M1" else [],
            )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return compare_runs(folder)


def table(comparison: Comparison, title: str) -> Table:
    return next(each for each in comparison.tables if each.title == title)


def texts(one: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in one.rows]


def made(
    numbers: dict[str, list[float]], quantity: str = "error", columns: tuple[float, ...] = (4,)
) -> Comparison:
    """A comparison without files."""
    members = tuple(
        Member(
            f"{model} {column} {seed}", "", "finished", "",
            {"model": model, "complexity": column, "seed": seed, "problem": "p"}, {quantity: value},
        )
        for model, values in numbers.items()
        for column in columns
        for seed, value in enumerate(values)
    )  # fmt: skip
    return Comparison("model", "complexity", tuple(numbers), columns, next(iter(numbers)), members)


def test_runs_are_grouped_by_two_keys_and_seeds_within(comparison: Comparison) -> None:
    assert (comparison.row_values, comparison.column_values) == (("M1", "M2", "M4"), (4,))
    assert (comparison.row_name, comparison.column_name) == ("model", "a2")
    assert comparison.baseline == "M1"
    assert comparison.numbers("error", "M2", 4) == {0: 0.02, 1: 0.08, 2: 0.03}
    spread = comparison.spread("error", "M1", 4)
    assert (spread.count, spread.median) == (3, 0.3)
    assert (spread.lower, spread.upper) == pytest.approx((0.25, 0.35))


def test_differences_are_paired_by_seed(comparison: Comparison) -> None:
    ratio = comparison.ratio("error", "M4", 4)  # 1, 0.75 and 2
    assert (ratio.pairs, ratio.median, ratio.lower, ratio.upper) == (3, 1.0, 0.75, 2.0)
    ratio = comparison.ratio("error", "M2", 4, to="M4")  # 0.1, 0.267 and 0.05
    assert ratio.median == pytest.approx(0.1)
    assert comparison.ranks("error", 4) == {"M1": 2.5, "M2": 1.0, "M4": 2.5}


def test_what_is_read_of_a_run_is_what_was_written(comparison: Comparison) -> None:
    numbers = comparison.group("M2", 4)[0].numbers
    assert numbers["sharpness_start"] == 50.5
    assert numbers["sharpness"] == numbers["sharpness_max"] == 101.0
    assert numbers["stiffness_ratio"] == 10.0
    assert (numbers["imbalance"], numbers["weighted_imbalance"]) == (100.0, 10.0)
    assert (numbers["norm_ratio"], numbers["weighted_norm_ratio"]) == (10.0, 1.0)
    assert (numbers["reference_gradient"], numbers["reference_gradient_start"]) == (1.0, 0.5)
    assert numbers["loss of boundary"] == 2.0
    assert numbers["loss"] == 3.0


def test_any_two_keys_can_span_the_grid(folder: Path) -> None:
    found = compare_runs(folder, rows="seed", columns="hidden")
    assert (found.row_values, found.column_values) == ((0, 1, 2), ("5x5",))
    assert [len(found.group(row, "5x5")) for row in found.row_values] == [3, 3, 3]
    assert any("differ in" in note and "model" in note for note in found.notes)
    assert compare_runs(folder, rows="run").baseline == "M1_0"
    assert compare_runs([Run(folder / "M1_0"), folder / "M2_0"]).row_values == ("M1", "M2")


def test_runs_of_anybody_are_compared_run_by_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        RunWriter(tmp_path / name).finish()
    found = compare_runs(tmp_path)
    assert (found.rows, found.row_values, found.column_values) == ("run", ("a", "b"), (None,))
    assert [each.title for each in found.tables] == ["Runs"]
    assert "2 runs" in found.words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": "width"}, r"No run has the key 'width'; they have .*complexity"),
        ({"rows": "seed", "columns": "seed"}, "two different keys"),
        ({"baseline": "M9"}, "no row 'M9' to compare with; there are M1, M2 and M4"),
    ],
)
def test_a_wrong_key_is_named_with_the_choices(
    folder: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        compare_runs([folder / f"{model}_0" for model in ERRORS], **options)


def test_no_runs_and_several_problems_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no run"):
        compare_runs(tmp_path)
    with pytest.raises(StoreError, match="no folder"):
        compare_runs(tmp_path / "nowhere")
    write_member(tmp_path / "a")
    write_member(tmp_path / "b", problem="poisson")
    with pytest.raises(ArgumentError, match=r"several problems \(helmholtz, poisson\)"):
        compare_runs(tmp_path)
    assert compare_runs(tmp_path, rows="problem").row_values == ("helmholtz", "poisson")


def test_missing_and_failed_members_are_shown_and_count_in_no_number(tmp_path: Path) -> None:
    declare(tmp_path, models=["M1", "M2"], complexities=[4], seeds=[0, 1])
    write_member(tmp_path / "M1_0", seed=0, error=0.2)
    write_member(tmp_path / "M1_1", seed=1, error=0.9, failed="RuntimeError: out of memory.")
    broken = write_member(tmp_path / "helmholtz_a2=4_M2_steps=100_seed=0", model="M2", seed=0)
    (broken / "run.json").write_text("{")
    found = compare_runs(tmp_path)
    statuses = {(each.described["model"], each.described["seed"]): each.status
                for each in found.members}  # fmt: skip
    assert statuses == {
        ("M1", 0): "finished", ("M1", 1): "failed", ("M2", 0): "broken", ("M2", 1): "not begun"
    }  # fmt: skip
    assert found.numbers("error", "M1", 4) == {0: 0.2}
    rows = texts(table(found, "Final error"))
    assert [row[2] for row in rows] == ["1 of 2", "0 of 2"]
    assert rows[1][3] == "not measured"
    assert "3 of them, 1 failed, 1 broken and 1 not begun" in found.words
    assert "out of memory" in found.words
    tones = [row[4].tone for row in table(found, "Runs").rows if row[4].value != "finished"]
    assert tones == ["", "fail", "fail", "fail"][-len(tones) :]


def test_a_run_that_is_written_is_shown_as_such(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "a", metadata={"model": "M1", "final_error": None}):
        found = compare_runs(tmp_path)
        assert found.members[0].status == "running"
        assert "No run has finished" in found.words


def test_the_tables_have_the_numbers_and_the_published_ones_beside_them(
    comparison: Comparison,
) -> None:
    errors = table(comparison, "Final error")
    assert [column.name for column in errors.columns] == [
        "model", "a2", "runs", "relative L2 error", "first quartile", "third quartile",
        "times M1", "interval", "rank", "published [1]",
    ]  # fmt: skip
    assert texts(errors) == [
        ["M1", "4", "3", "0.3", "0.25", "0.35", "baseline", "", "2.5", "0.25 ± 0.05"],
        ["M2", "4", "3", "0.03", "0.025", "0.055", "0.1", "0.1 to 0.2", "1", "-"],
        ["M4", "4", "3", "0.3", "0.25", "0.45", "1", "0.75 to 2", "2.5", "-"],
    ]
    assert "[1] A paper, table 3." in errors.note
    assert errors.frame()["relative L2 error"].tolist() == [0.3, 0.03, 0.3]
    assert texts(table(comparison, "Stiffness and imbalance between the terms"))[1][3:] == [
        "10", "100", "10", "10", "1"
    ]  # fmt: skip
    assert {"Largest Hessian eigenvalue", "Final losses", "Time per step", "Runs"} <= {
        each.title for each in comparison.tables
    }


def test_a_trained_run_brings_what_was_published_for_it(tmp_path: Path) -> None:
    train(
        problem("poisson", C=8), "M1", tmp_path / "run", steps=1, compile=False, points=2,
        instruments=[],
    )  # fmt: skip
    found = compare_runs(tmp_path)
    (errors,) = table(found, "Final error").rows
    assert (errors[1].text, errors[-1].text) == ("8", "0.013")
    assert "SIAM" in table(found, "Final error").note
    assert found.column_name == "C"
    assert "(published 0.013)" in found.words


def test_without_an_error_rows_are_ranked_by_their_losses(tmp_path: Path) -> None:
    for model in ("M1", "M2"):
        write_member(tmp_path / model, model=model, error=None)
    found = compare_runs(tmp_path)
    assert found.main_quantity == "loss"
    assert [column.name for column in table(found, "Final losses").columns][-3:] == [
        "times M1", "interval", "rank"
    ]  # fmt: skip


def test_a_seed_that_is_there_twice_is_no_pair(tmp_path: Path) -> None:
    for name, model, seed in (("a", "M1", 0), ("b", "M1", 0), ("c", "M1", 1), ("d", "M2", 0),
                              ("e", "M2", 1)):  # fmt: skip
        write_member(tmp_path / name, model=model, seed=seed)
    found = compare_runs(tmp_path)
    assert found.ratio("error", "M2", 4).pairs == 1
    assert any("twice" in note for note in found.notes)


def test_hostile_names_come_out_as_text(tmp_path: Path) -> None:
    hostile = "</style>\u202e\ud800$x_" + 2000 * "y"
    for place, model in enumerate((hostile, "M1")):
        write_member(tmp_path / str(place), model=model, failed=None if place else hostile)
    found = compare_runs(tmp_path)
    every = " ".join([found.words, *(cell for each in found.tables for row in texts(each)
                                     for cell in row)])  # fmt: skip
    assert "\u202e" not in every
    every.encode()
    assert max(map(len, every.split())) < 300


def test_words_say_what_the_numbers_show(comparison: Comparison) -> None:
    words = comparison.words
    assert "9 runs of helmholtz: M1, M2 and M4 at a2 = 4, with 3 seeds" in words
    assert "Seed by seed the relative L2 error is lower than that of M1 for M2 (0.1 times" in words
    assert "No clear difference from M1 in the relative L2 error is shown for M4" in words
    assert "Within two published standard deviations is that of M1." in words
    assert "with only 3 seeds they are too narrow" in words
    assert "25 % of cases" in words  # 2 / 2^3


def test_one_seed_is_said_to_show_no_order() -> None:
    words = made({"M1": [1.0], "M2": [0.1]}).words
    assert "relative L2 error is: M2 0.1 and M1 1." in words
    assert "lower than" not in words
    assert "One seed says nothing" in words


@pytest.mark.parametrize(("steps", "judged"), [(40_000, True), (2_000, False)])
def test_errors_after_other_numbers_of_steps_do_not_judge_each_other(
    steps: int, judged: bool
) -> None:
    published = ({"value": 0.1, "deviation": 0.01, "source": "A paper", "steps": 40_000},)
    found = made({"M1": [0.1, 0.1], "M2": [0.2, 0.3]})
    members = tuple(replace(each, published=published, last_step=steps) for each in found.members)
    words = replace(found, members=members).words
    assert ("trained for 40,000 steps, ours for 2,000" in words) is not judged
    assert ("Within two published standard deviations is that of M1." in words) is judged
    assert ("Outside of them is that of M2." in words) is judged


def test_words_know_how_things_grow() -> None:
    columns = (1.0, 2.0, 4.0)
    numbers = {"M1": [1.0]}
    found = made(numbers, "sharpness", columns)
    members = tuple(
        Member(each.name, "", "finished", "", each.described,
               {"sharpness": float(str(each.described["complexity"])) ** 4})
        for each in found.members
    )  # fmt: skip
    words = Comparison("model", "complexity", ("M1",), columns, "M1", members).words
    assert "of M1 grows like complexity^4 (fit to 3 runs, 95 % interval 4 to 4)" in words
    assert "No power of complexity is shown" in found.words


numbers_of_groups = st.dictionaries(
    st.sampled_from(["M1", "M2", "M3", "M4", "M5"]),
    st.lists(st.floats(1e-3, 1e3) | st.just(1.0), min_size=1, max_size=7),
    min_size=1,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(numbers_of_groups)
def test_words_never_claim_an_order_that_the_table_contradicts(
    numbers: dict[str, list[float]],
) -> None:
    found = made(numbers)
    errors = table(found, "Final error")
    names = [column.name for column in errors.columns]
    medians = dict(zip(errors.frame()["model"], errors.frame()["relative L2 error"], strict=True))
    intervals = {row[0].text: row[names.index("interval")].text for row in errors.rows}
    for kind, other, row in claims(found.words):
        assert (medians[row] < medians[other]) == (kind == "lower")
        lower, upper = map(float, intervals[row].split(" to "))
        assert upper <= 1 if kind == "lower" else lower >= 1
        assert len(numbers[row]) > 1
    for smallest, largest in re.findall(
        r"smallest for (\w+) \(.*?\) and largest for (\w+) ", found.words
    ):
        assert medians[smallest] == min(medians.values())
        assert medians[largest] == max(medians.values())


def claims(words: str) -> Iterator[tuple[str, str, str]]:
    """Yields (lower or higher, than which row, which row)."""
    for kind, other, rows in re.findall(
        r"is (lower|higher) than that of (\w+) for (.*?)\.(?: |$)(?=[A-Z]|$)", words
    ):
        for row in re.findall(r"(\w+) \([^)]* times", rows):
            yield kind, other, row
