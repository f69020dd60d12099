"""`gradpath report`: a run of anybody's loop, in whatever state, makes a whole report."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import torch

import gradpath
from gradpath import Run, cli
from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.probes import HistogramRecord, RunWriter, Scalar
from gradpath.reports.content import Content
from gradpath.reports.html import render_html
from gradpath.reports.pdf import render_pdf
from gradpath.reports.run_report import run_content
from tests.probes import recorded
from tests.reports.contents import HOSTILE, write_histograms


def nothing(folder: Path) -> None:
    RunWriter(folder).finish()


def one_term(folder: Path) -> None:
    with RunWriter(folder) as writer:
        writer.record(0, [Scalar("loss", 1.0, "total")])


def still_running(folder: Path) -> None:
    writer = RunWriter(folder / "live")
    writer.record(0, [Scalar("loss", 1.0, "residual"), Scalar("self_check", 3e-7)])
    shutil.copytree(folder / "live", folder, dirs_exist_ok=True)
    writer.finish()


def failed(folder: Path) -> None:
    with RunWriter(folder) as writer:
        writer.record(0, [Scalar("loss", float("nan"), "residual")])
        writer.fail("ValueError: the loss is NaN")


def two_parts(folder: Path) -> None:
    with RunWriter(folder) as writer:
        for part in ("generator", "critic"):
            for step in (0, 5):
                entries = GradientHistogram.of(torch.randn(50))
                writer.record(
                    step,
                    [Scalar("loss", 1.0, "total"), Scalar("weight", 1.0, f"{part} loss"),
                     HistogramRecord(entries, f"{part} loss", "0")],
                    part=part,
                )  # fmt: skip


def many_layers(folder: Path) -> None:
    write_histograms(folder, ("a", "b", "c"), tuple(f"blocks.{n}" for n in range(200)), (0,))


def hostile(folder: Path) -> None:
    names = tuple(HOSTILE.values())
    write_histograms(folder, tuple(n.replace("\ud800", "") for n in names[:4]),
                     tuple(n.replace("\ud800", "") for n in names[4:]), (0, 10))  # fmt: skip


RUNS: dict[str, Callable[[Path], None]] = {
    "every kind of record": recorded.write,
    "nothing recorded": nothing,
    "one term": one_term,
    "lost": still_running,
    "failed": failed,
    "two parts": two_parts,
    "200 layers, one snapshot": many_layers,
    "hostile names": hostile,
}


class Links(HTMLParser):
    """What a page links to, and what can be linked to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.links: set[str] = set()
        self.files: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.targets.append(str(found["id"]))
        href = found.get("href") or ""
        if href.startswith("#"):
            self.links.add(href[1:])
        if tag == "a" and found.get("download"):
            self.files[str(found["download"])] = href


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_in_any_state_makes_a_whole_report(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    RUNS[kind](folder)
    content = run_content(Run(folder))
    broken = [gap for section in content.sections for gap in section.gaps if gap.is_error]
    assert broken == []
    page = Links(render_html(content).decode())
    assert page.links <= set(page.targets)
    assert len(page.targets) == len(set(page.targets))
    with warnings.catch_warnings(action="ignore"):  # of glyphs, tested elsewhere
        assert render_pdf(content).startswith(b"%PDF")


def written(folder: Path) -> Content:
    return run_content(Run(folder))


def test_verdict_comes_before_the_evidence_and_leads_to_it(tmp_path: Path) -> None:
    recorded.write(tmp_path / "run")
    page = render_html(written(tmp_path / "run")).decode()
    places = [
        page.index(f'id="{name}"') for name in ("verdict", "findings", "losses", "provenance")
    ]
    assert places == sorted(places)
    assert re.search(r'<a href="#figure-losses">Figure \d', page)


def test_provenance_has_what_it_takes_to_measure_again(tmp_path: Path) -> None:
    still_running(tmp_path / "run")
    (table, *_) = written(tmp_path / "run").provenance
    rows = {row[0].text: row[1].text for row in table.rows}
    assert rows["status"].startswith("lost: its process was killed")
    assert rows["self-check"].startswith("at most 3e-7 over 1 steps")
    assert "torch" in rows["versions"]


def test_downloads_are_the_numbers_of_the_run(tmp_path: Path) -> None:
    recorded.write(tmp_path / "run")
    files = Links(render_html(written(tmp_path / "run")).decode()).files
    data = base64.b64decode(files["losses.csv"].partition("base64,")[2])
    frame = pd.read_csv(io.BytesIO(data))
    assert frame["step"].tolist() == list(recorded.STEPS)
    assert frame["loss:residual"].tolist() == [recorded.loss(s, "residual") for s in recorded.STEPS]


def test_command_writes_next_to_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    one_term(tmp_path / "runs" / "a")
    assert cli.main(["report", "runs/a"]) == 0
    assert Path("a.html").read_bytes().startswith(b"<!DOCTYPE html>")
    assert "a.html" in capsys.readouterr().out
    assert cli.main(["report", "runs/a", "-o", "b.pdf"]) == 0
    assert Path("b.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    "arguments", [["nowhere"], ["run", "-o", "a.doc"], ["run", "-o", "x/a.pdf"]]
)
def test_command_says_what_is_wrong_in_one_line(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    one_term(tmp_path / "run")
    assert cli.main(["report", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_public_name_takes_a_folder_or_a_run(tmp_path: Path) -> None:
    one_term(tmp_path / "run")
    first = gradpath.report(tmp_path / "run", tmp_path / "a.html").read_bytes()
    assert gradpath.report(Run(tmp_path / "run"), tmp_path / "b.html").read_bytes() == first


def test_a_run_without_its_end_says_so_first(tmp_path: Path) -> None:
    still_running(tmp_path / "lost")
    failed(tmp_path / "failed")
    assert run_content(Run(tmp_path / "lost")).verdict.startswith("The run has no end: ")
    verdict = run_content(Run(tmp_path / "failed")).verdict
    assert verdict.startswith("The run ended with an error (ValueError: the loss is NaN); ")


def test_a_report_loads_no_torch(tmp_path: Path) -> None:
    write_histograms(tmp_path / "run", ("residual", "boundary"), ("0", "2"), (0, 10))
    program = (
        "import sys; from gradpath.reports import report; "
        f"report({str(tmp_path / 'run')!r}, {str(tmp_path / 'run.html')!r}); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert b"share per decade" in (tmp_path / "run.html").read_bytes()
