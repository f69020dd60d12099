"""Whoever follows a run sees what one who reads all of it sees, and reads what is new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gradpath.diagnostics.histograms import GradientHistogram
from gradpath.probes import Cost, HistogramRecord, Run, RunWriter, Scalar, ScalarTable
from gradpath.probes.following import Followed
from gradpath.probes.live_view import live_view
from gradpath.probes.records import Record
from tests.probes.test_live_view import eigenvalue


@pytest.fixture(autouse=True)
def _no_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    """A diagnosis takes a second and reads all there is."""
    monkeypatch.setattr(Run, "findings", property(Run.recorded_findings))


def records(step: int) -> list[Record]:
    return [
        Scalar("loss", 1.0 / (1 + step), "residual"),
        Scalar("loss", 2.0 / (1 + step), "total"),
        Scalar("learning_rate", 1e-3),
        ScalarTable(("gradient_norm",), np.full((1, 1, 1), float(step)), ("residual",), ("all",)),
        Scalar("stability_limit", 2000.0),
        eigenvalue(10.0 + step),
        Cost("losses", 1e-3),
    ]


def assert_same(followed: Followed) -> None:
    seen, whole = live_view(followed), live_view(Run(followed.folder))
    assert seen.terms == whole.terms
    assert seen.sharpness == whole.sharpness
    assert (seen.step, seen.elapsed, seen.events) == (whole.step, whole.elapsed, whole.events)
    assert seen.probe_share == pytest.approx(whole.probe_share)


def test_a_followed_run_looks_like_the_whole_run_at_any_moment(tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        followed = Followed(Run(tmp_path / "run"))
        assert_same(followed)
        for step in range(6):
            writer.record(step, records(step))
            if step in (1, 5):
                assert_same(followed)
        writer.complete(5, [Scalar("alignment", 0.5, layer="all")])
        assert_same(followed)
    with RunWriter(tmp_path / "run", resume=True) as writer:
        writer.record(2, records(20))
        assert_same(followed)
        writer.rename_part("", "generator")
        assert_same(followed)
        for step in range(3):
            writer.record(step, records(step), part="critic")
        writer.record(3, records(3), part="generator")
        writer.record(3, records(3), part="critic")
        assert_same(followed)
    assert live_view(followed).status == "finished"


@contextmanager
def rows_read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Counts rows of steps that pandas is given."""
    counted: list[int] = []
    original = Run.scalars

    def scalars(self: Run, name: str | None = None, *, since: int | None = None) -> pd.DataFrame:
        frame = original(self, name, since=since)
        counted.append(len(frame))
        return frame

    with monkeypatch.context() as patch:
        patch.setattr(Run, "scalars", scalars)
        yield counted


def test_earlier_steps_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunWriter(tmp_path / "run") as writer:
        for step in range(100):
            writer.record(step, records(step))
        followed = Followed(Run(tmp_path / "run"))
        before = live_view(followed)
        writer.record(100, records(100))
        with rows_read(monkeypatch) as counted:
            after = live_view(followed)
    assert (before.step, after.step) == (99, 100)
    assert 0 < max(counted) <= 4  # two terms at the last step and the new one
    assert_same(followed)


@pytest.mark.parametrize("since", [0, 3, 5, 6])
def test_reading_from_a_step_on_is_the_end_of_reading_all(since: int, tmp_path: Path) -> None:
    with RunWriter(tmp_path / "run") as writer:
        for step in range(6):
            writer.record(step, records(step))
    run = Run(tmp_path / "run")
    for read in (run.scalars, run.eigenvalues, run.cost, run.timeline):
        whole = read()
        expected = whole[whole["step"] >= since].reset_index(drop=True)
        found = read(since=since)
        pd.testing.assert_frame_equal(found, expected, check_dtype=len(found) > 0)
    assert set(run.scalars("loss", since=since)["step"]) == set(range(since, 6))


def test_all_operators_and_all_names_of_histograms_can_be_read(tmp_path: Path) -> None:
    made = GradientHistogram.of(torch.ones(3))
    with RunWriter(tmp_path / "run") as writer:
        writer.record(
            0,
            [
                eigenvalue(1.0),
                eigenvalue(2.0, name="preconditioned_hessian"),
                HistogramRecord(made, "residual", "net.0"),
                HistogramRecord(made, name="activation", layer="net.0"),
            ],
        )
    run = Run(tmp_path / "run")
    assert run.eigenvalues(None)["operator"].tolist() == ["hessian", "preconditioned_hessian"]
    assert len(run.eigenvalues()) == 1
    every = run.histograms(name=None)
    assert every["name"].tolist() == ["gradient", "activation"]
    assert "name" not in run.histograms()
    assert all(histogram == made for histogram in every["histogram"])
    encoded = run.encoded_histograms(name=None)
    assert [GradientHistogram.from_bytes(data) for data in encoded["data"]] == [made, made]
