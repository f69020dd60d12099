"""`gradpath runs`, `watch` and `export`: what is printed, for people and for pipes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

from gradpath import cli
from gradpath.commands.watch import sparkline
from gradpath.diagnostics.lanczos import Eigenvalue
from gradpath.probes import Cost, EigenvalueRecord, Event, Finding, Run, RunWriter, Scalar

GRADPATH = str(Path(sysconfig.get_path("scripts"), "gradpath"))

# What a name may hold that means something to rich, to a terminal, or to a table.
NAME = "boundary [bold]x[/bold] [red] :smile: \x1b[2J\x07\n\u202e" + "very long " * 30

SHOWN_NAME = r"boundary [bold]x[/bold] [red] :smile: \x1b[2J\x07\n\u202every long very long"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs of every fate, in the working folder."""
    monkeypatch.chdir(tmp_path)
    metadata = {"model": "M1", "complexity": 4}
    for seed, loss in ((0, 12345.678), (1, float("nan"))):
        with RunWriter(f"runs/sweep/seed {seed}", metadata=metadata | {"seed": seed}) as writer:
            writer.record(0, [Scalar("loss", 2.5, "total")])
            writer.record(30, [Scalar("loss", loss, "total"), Scalar("loss", 1.0, "residual")])
    with RunWriter("runs/failed", metadata=metadata | {"seed": 2}) as writer:
        writer.fail(f"ValueError: {NAME}")
    with RunWriter("runs/running", metadata=metadata | {"seed": 3}) as writer:
        writer.record(7, [])
        shutil.copytree("runs/running", "runs/lost")
    Path("runs/broken").mkdir()
    Path("runs/broken/run.json").write_text("{")
    return tmp_path / "runs"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow terminal without colours."""
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)


class TestRuns:
    def test_pipes_get_whole_lines(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["runs"]) == 0
        header, *lines = capsys.readouterr().out.splitlines()
        assert re.split("  +", header) == [
            *("path", "status", "complexity", "model", "seed", "steps", "last step", "loss"),
            *("started", "duration", "error"),
        ]
        found = {re.split("  +", line)[0]: re.split("  +", line)[1:] for line in lines}
        assert found["runs/sweep/seed 0"][:7] == ["finished", "4", "M1", "0", "2", "30", "12346"]
        assert found["runs/sweep/seed 1"][6] == "nan"
        assert found["runs/failed"][0] == "failed"
        assert found["runs/failed"][-1].startswith(f"ValueError: {SHOWN_NAME}")
        assert found["runs/lost"][:6] == ["lost", "4", "M1", "3", "1", "7"]
        assert found["runs/broken"][0] == "broken"
        assert "run.json is damaged" in found["runs/broken"][-1]
        assert all(line == line.rstrip() and line.isprintable() for line in lines)

    @pytest.mark.usefixtures("terminal")
    def test_a_terminal_gets_what_fits(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["runs"]) == 0
        shown = capsys.readouterr().out
        assert "\x1b[2J" not in shown
        lines = re.sub("\x1b[^m]*m", "", shown).splitlines()
        assert max(map(len, lines)) <= 80
        assert re.split("  +", lines[0].strip())[:4] == ["path", "status", "seed", "last step"]
        assert "In all of them: complexity 4, model M1" in lines
        assert "No room for: steps" in lines
        assert any(line.startswith("runs/failed: ValueError: boundary [bold]x") for line in lines)

    def test_machines_get_json(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["runs", "runs/sweep", "--json"]) == 0
        first, second = json.loads(capsys.readouterr().out)
        assert first["path"] == "runs/sweep/seed 0"
        assert (first["last_step"], first["loss"], first["seed"]) == (30, 12345.678, 0)
        assert first["started"].endswith("+00:00")
        assert first["seconds"] >= 0
        assert (second["loss"], second["error"]) == (None, None)

    def test_a_running_run_has_taken_some_time(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with RunWriter("runs/running", resume=True):
            assert cli.main(["runs", "--json"]) == 0
        by_path = {row["path"]: row for row in json.loads(capsys.readouterr().out)}
        assert by_path["runs/running"]["status"] == "running"
        assert by_path["runs/running"]["seconds"] >= 0
        assert by_path["runs/lost"]["seconds"] >= 0

    def test_a_folder_without_runs(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["runs", str(tmp_path)]) == 0
        assert capsys.readouterr().out == f"There are no runs in {tmp_path}.\n"
        assert cli.main(["runs", str(tmp_path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == []

    def test_no_such_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["runs", str(tmp_path / "nowhere")]) == 2
        assert capsys.readouterr().err.startswith("gradpath: There is no folder")


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A run with something for every part of the view."""
    with RunWriter(tmp_path / "full") as writer:
        for step in range(40):
            writer.record(
                step,
                [
                    Scalar("loss", 100 / (1 + step), "residual"),
                    Scalar("loss", float("inf"), NAME),
                    Scalar("loss", 100 / (1 + step), "total"),
                    Scalar("weight", 0.5, NAME),
                    Scalar("gradient_norm", 0.125, "residual", "all"),
                    Scalar("max_to_mean", 123.4, NAME, "all"),
                    Scalar("alignment", -0.5, layer="all"),
                    Scalar("learning_rate", 0.001),
                    Scalar("stability_limit", 2000.0),
                    EigenvalueRecord(
                        Eigenvalue(4100.0, 4000.0, 4200.0, 1.0, True, "Converged.", 9), "largest"
                    ),
                    Cost("stiffness", 1e-5),
                    Event("told", f"event {step}: {NAME[:24]}", "store"),
                    Finding(f"GP{step}", "warning", f"finding: {NAME[:24]}"),
                ],
            )
    return tmp_path / "full"


class TestWatch:
    def test_a_frame_of_everything(
        self, full: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "120")
        assert cli.main(["watch", str(full), "--once"]) == 0
        shown = capsys.readouterr().out
        words = " ".join(shown.split())
        for text in (
            "finished step 39",
            "% of the time learning rate 0.001 alignment of the gradients -0.50",
            "largest eigenvalue 4100 in [4000, 4200] at step 39, above the limit of 2000 (2 times",
            "38 earlier GP38 warning finding: boundary [bold]x[/bold]",
            "GP403 fail At step 0, first, the loss of boundary [bold]x[/bold] [red]",
            "35 earlier step 35 event 35: boundary [bold]x[/bold] (store)",
        ):
            assert text in words
        assert re.search(r"residual +- +2\.5 +█[▁-█]+▁ +0\.125 +-\n", shown)
        assert re.search(r"boundary \[bold\]x\[/bold\] .*… +0\.5 +inf +!+ +- +123\n", shown)

    @pytest.mark.parametrize("width", [60, 80, 120])
    def test_a_frame_fits_the_terminal(
        self,
        width: int,
        full: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("COLUMNS", str(width))
        assert cli.main(["watch", str(full), "--once"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= width
        assert all(line.isprintable() for line in lines)
        assert any(re.match(r"residual .* 2\.5 .* 0\.125 ", line) for line in lines)

    def test_nothing_measured(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        RunWriter(tmp_path / "run").finish()
        assert cli.main(["watch", str(tmp_path / "run")]) == 0
        sections = capsys.readouterr().out.split("\n\n")
        assert "no step yet" in sections[0]
        assert "probe's share not measured" in sections[0]
        for section, title in zip(sections[1:3], ("Terms", "Sharpness"), strict=True):
            assert section.startswith(title)
            assert section.endswith("not measured")

    def test_an_encoding_without_bars(self, full: Path) -> None:
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        command = [GRADPATH, "watch", str(full), "--once"]
        result = subprocess.run(command, env=environment, capture_output=True, check=True)
        assert re.search(rb"residual +- +2\.5 +#[-#%*+=._]+_ ", result.stdout)
        assert result.stdout.isascii()

    @pytest.mark.parametrize("is_terminal", [False, True])
    def test_it_follows_a_run_until_its_end(self, is_terminal: bool, tmp_path: Path) -> None:
        environment = os.environ | ({"FORCE_COLOR": "1"} if is_terminal else {})
        writer = RunWriter(tmp_path / "run")
        writer.record(0, [])
        command = [GRADPATH, "watch", str(tmp_path / "run"), "--every", "0.1"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            shown = b""
            while b"step 0" not in shown:
                shown += os.read(process.stdout.fileno(), 10_000)
            writer.record(5, [Event("told", "something")])
            while b"something" not in shown:
                shown += os.read(process.stdout.fileno(), 10_000)
            writer.finish()
            shown += process.stdout.read()
        assert process.returncode == 0
        last = shown[shown.rindex(str(tmp_path).encode()) :]
        assert b"finished" in last
        assert b"step 5" in last

    def test_it_can_be_left(self, tmp_path: Path) -> None:
        with RunWriter(tmp_path / "run"):
            process = subprocess.Popen(
                [GRADPATH, "watch", str(tmp_path / "run")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdout is not None
            os.read(process.stdout.fileno(), 1)
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        assert (process.returncode, errors) == (130, b"")

    def test_no_such_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["watch", str(tmp_path)]) == 2
        assert "is no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "width", "shown"),
    [
        ([], 5, ""),
        ([3.0], 5, "▁"),
        ([0.0, 0.0], 5, "▁▁"),
        ([-1.0, 0.0, 6.0], 5, "▁▂█"),
        ([1.0, 10.0, 100.0], 5, "▁▅█"),
        ([float("inf"), 1.0, float("nan"), 8.0], 5, "!▁!█"),
        ([float("nan")] * 9, 3, "!!!"),
        (list(range(1000, 9000)), 8, "▁▂▃▄▅▆▇█"),
    ],
)
def test_a_sparkline_shows_the_course(values: list[float], width: int, shown: str) -> None:
    assert sparkline(values, width) == shown


class TestExport:
    def test_says_where_it_is(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = Run("runs/sweep/seed 0").folder
        assert cli.main(["export", str(run), "--to", "csv"]) == 0
        assert capsys.readouterr().out == f"{run} is in {folder.parent / 'seed 0-csv'}.\n"
        assert Path("seed 0-csv/scalars.csv").exists()
        assert cli.main(["export", str(run), "--to", "parquet", "-o", "a/b"]) == 0
        assert Path("a/b/scalars.parquet").exists()

    def test_a_mistake_is_one_line(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in (
            ["runs/failed", "--to", "csv", "-o", "runs"],
            ["runs/broken", "--to", "csv"],
            ["runs/failed", "--to", "xlsx"],
            ["runs/failed"],
        ):
            assert cli.main(["export", *arguments]) == 2
            error = capsys.readouterr().err
            assert error.startswith("gradpath: ")
            assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["runs", "."], ["watch", "full", "--once"], ["export", "full", "--to", "csv", "-o", "out"]],
)
def test_looking_at_runs_loads_no_pytorch(arguments: list[str], full: Path) -> None:
    program = (
        f"from gradpath.cli import main; assert main({arguments}) == 0; "
        "import sys; print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, cwd=full.parent, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"
