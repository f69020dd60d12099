"""`gradpath reproduce`: one folder of runs and pages, and what may go wrong."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from gradpath import cli
from gradpath.commands.reproduce import numbers
from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import PRESETS, PROBLEMS, Sweep, reproduction, run_sweep
from gradpath.experiments.reproduction import write_page
from gradpath.probes import Run, runs

QUICK = ["reproduce", "poisson", "--models", "M1", "--complexity", "1", "--steps", "4"]


def test_the_paper_preset_of_helmholtz_is_the_papers_study() -> None:
    study = Sweep(
        "helmholtz", models=["M1", "M2", "M3", "M4"], complexities=[4], seeds=5, steps=40_000
    )
    assert reproduction("helmholtz", "paper").declaration == study.declaration


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_problem_has_every_preset(problem: str, preset: str) -> None:
    sweep = reproduction(problem, preset)
    assert {member.problem for member in sweep.members} == {problem}
    assert (sweep.steps, len(sweep.seeds)) == (PRESETS[preset].steps, PRESETS[preset].seeds)
    usual = getattr(PROBLEMS[problem], PROBLEMS[problem].complexity.parameter)
    assert usual in sweep.complexities


def test_what_is_said_replaces_what_the_preset_says() -> None:
    sweep = reproduction(
        "poisson", "paper", models=["M3+ntk"], complexities=[2, 8], seeds=2, steps=7
    )
    assert [(each.model, each.complexity, each.seed) for each in sweep.members] == [
        ("M3+ntk", 2, 0), ("M3+ntk", 8, 0), ("M3+ntk", 2, 1), ("M3+ntk", 8, 1)
    ]  # fmt: skip
    assert sweep.steps == 7
    with pytest.raises(ArgumentError, match="no preset 'fast'; choose one of quick, paper"):
        reproduction("poisson", "fast")


def test_numbers_with_commas() -> None:
    assert [str(value) for value in numbers("1, 4,0.5,1e-3")] == ["1", "4", "0.5", "0.001"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["poison"], "There is no problem 'poison'"),
        (["poisson", "--models", "M9"], "There is no model 'M9'"),
        (["poisson", "--complexity", "1,x"], "'x' is no number"),
        (["poisson", "--seeds", "0"], "`seeds` is 0"),
        (["poisson", "--steps", "0"], "`steps` is 0"),
        (["nowhere.toml"], "The sweep nowhere.toml cannot be read"),
        (["sweep.toml", "--seeds", "2"], "sweep.toml declares the whole sweep; leave out"),
        (["sweep.toml", "--preset", "quick"], "sweep.toml declares the whole sweep; leave out"),
        (["poisson", "--preset", "fast"], "Invalid value for '--preset'"),
        (["poisson", "--workers", "1", "--dask", "tcp://x"], "give one of --workers, --dask"),
    ],
)
def test_wrong_orders_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["reproduce", *arguments, "--out", str(tmp_path / "a")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gradpath: ")
    assert message in line
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_runs_and_pages_are_in_one_folder_and_finished_runs_are_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "all"
    order = [*QUICK, "--out", str(folder)]
    sweep = reproduction("poisson", models=["M1"], complexities=[1], steps=4)
    with ThreadPoolExecutor(1) as executor:
        (trained,) = run_sweep(sweep, folder, executor=executor, progress=lambda _: None).members
    ended = Run(trained.folder).metadata["ended"]
    assert cli.main(order) == 2
    assert "resume it (--resume)" in capfd.readouterr().err
    assert cli.main([*order, "--resume"]) == 0
    assert str(folder / "comparison.html") in capfd.readouterr().out
    assert Run(trained.folder).metadata["ended"] == ended
    for page in (folder / "comparison", trained.folder / "report"):
        assert page.with_suffix(".html").read_text("utf-8").lower().startswith("<!doctype html>")
        assert page.with_suffix(".pdf").read_bytes().startswith(b"%PDF-")
    assert set(runs(folder)["status"]) == {"finished"}


def test_after_an_interruption_the_command_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gradpath.commands.reproduce.reproduce", interrupted)
    assert cli.main([*QUICK, "--out", str(tmp_path / "all")]) == 130
    assert capsys.readouterr().err == (
        "gradpath: interrupted; the same command with --resume goes on from here.\n"
    )


@pytest.mark.slow
def test_figures_of_the_paper_come_from_runs_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradpath.commands import paper

    monkeypatch.setattr(paper, "reproduction", partial(reproduction, steps=3))
    sweep = reproduction("helmholtz", models=["M1"], complexities=[1, 4], steps=3)
    gated = reproduction("helmholtz", models=["M3"], complexities=[4], steps=3)
    with ThreadPoolExecutor(1) as executor:
        for name, each in (("plain", sweep), ("gated", gated)):
            run_sweep(each, tmp_path / name, executor=executor, progress=lambda _: None)
    folder = tmp_path / "figures"
    arguments = ["paper", "eigenvalues", "--out", str(folder), "--runs", str(tmp_path)]
    assert cli.main(arguments) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        f"eigenvalues_{of}.{suffix}"
        for of in ("complexity", "models")
        for suffix in ("pdf", "png", "svg")
    ]


def test_a_page_that_cannot_be_written_costs_no_run(tmp_path: Path) -> None:
    said = write_page("report", tmp_path / "nothing", tmp_path / "report.html")
    assert said is not None
    assert str(tmp_path / "nothing") in said
    assert "\n" not in said
