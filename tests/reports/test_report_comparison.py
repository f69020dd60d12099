"""`gradpath compare`: runs side by side, also those that failed, in both formats."""

from __future__ import annotations

from pathlib import Path

import pytest

import gradpath
from gradpath import cli
from gradpath.probes import RunWriter, Scalar
from gradpath.reports.comparison import compare_runs
from gradpath.reports.comparison_report import comparison_content


@pytest.fixture(scope="module")
def runs(folder: Path) -> Path:
    for model, error in (("M1", 0.2), ("M4", 0.01)):
        for seed in (0, 1):
            described = {"model": model, "complexity": 4, "seed": seed,
                         "final_error": error * (1 + seed)}  # fmt: skip
            with RunWriter(folder / "grid" / f"{model}-{seed}", metadata=described) as writer:
                writer.record(0, [Scalar("loss", error, "residual"), Scalar("loss", 1.0, "total")])
    failing = {"model": "M4", "complexity": 4, "seed": 2}
    with RunWriter(folder / "grid" / "M4-2", metadata=failing) as writer:
        writer.fail("ValueError: <b>diverged</b>")
    return folder / "grid"


def test_has_words_tables_figures_and_the_failed_run(runs: Path) -> None:
    comparison = compare_runs(runs)
    content = comparison_content(comparison)
    assert content.verdict == comparison.words
    assert content.tables[:-1] == comparison.tables
    assert "compared-error" in [picture.name for picture in content.pictures]
    assert not [gap for section in content.sections for gap in section.gaps if gap.is_error]
    (origin,) = content.provenance
    assert [row[1].text for row in origin.rows if row[0].text.endswith("M4-2")] == [
        "failed: ValueError: <b>diverged</b>"
    ]
    assert {file.file for file in content.downloads} >= {"runs.csv", "groups.csv", "table-1.csv"}


def test_public_name_writes_both_formats(runs: Path, tmp_path: Path) -> None:
    assert b"<b>diverged" not in gradpath.compare(runs, tmp_path / "a.html").read_bytes()
    assert gradpath.compare(runs, tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_command_takes_other_keys(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", str(runs), "--rows", "seed", "--columns", "model"]) == 0
    assert "Runs by seed and model" in Path("grid.html").read_text()
    assert cli.main(["compare", str(runs), "--rows", "nonsense"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_each_run_has_its_gravest_finding_and_its_own_end(tmp_path: Path) -> None:
    for model, pull in (("M1", 1e-3), ("M4", 0.5)):
        described = {"model": model, "complexity": 4, "seed": 0}
        with RunWriter(tmp_path / "runs" / model, metadata=described) as writer:
            for step in range(4):
                writer.record(
                    step,
                    [Scalar(name, value * size, term, layer)
                     for name, layer in (("loss", ""), ("gradient_norm", "all"))
                     for term, size in (("residual", 1.0), ("boundary", pull))
                     for value in (1 + 0.1 * step,)],
                )  # fmt: skip
            if model == "M4":
                writer.fail("ValueError: no more points")
    comparison = compare_runs(tmp_path / "runs")
    table = comparison_content(comparison).tables[-1]
    assert table.title == "What was found in each run"
    assert [column.name for column in table.columns[:3]] == ["model", "complexity", "seed"]
    (balanced,) = [row for row in table.rows if row[0].text == "M4"]
    (drowned,) = [row for row in table.rows if row[0].text == "M1"]
    assert drowned[4].text == "GP101"
    assert "boundary is 1,000 times smaller than that of residual" in drowned[5].text
    assert (balanced[4].text, balanced[5].tone) == ("-", "fail")
    assert balanced[5].text.startswith("failed: ValueError: no more points. ")


def test_a_folder_of_runs_is_told_from_a_run(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", str(runs)]) == 2
    assert f"gradpath compare {runs}" in capsys.readouterr().err.replace("\n", " ")
