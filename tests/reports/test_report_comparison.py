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
    assert content.tables == comparison.tables
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
