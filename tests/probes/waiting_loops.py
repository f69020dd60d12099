"""Loops of which every step is recorded, a step at a time."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from gradpath.probes import Probe, Run
from gradpath.probes.instruments import GradientHistograms
from gradpath.probes.instruments.base import Instrument
from gradpath.probes.schedules import Schedule, every
from tests.probes.loops import boundary_of, network, points, residual_of, seeded

EACH = every(1)

WATCHING: list[Instrument | str] = ["light", GradientHistograms()]


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame of records, sorted by what they are found by."""
    names = [name for name in ("step", "name", "term", "layer", "part") if name in frame]
    return frame.sort_values(names).reset_index(drop=True)


def assert_same_records(found: Run, expected: Run) -> None:
    """Compares two runs in all but times."""
    pd.testing.assert_frame_equal(in_order(found.scalars()), in_order(expected.scalars()))
    found_bins, expected_bins = in_order(found.histograms()), in_order(expected.histograms())
    pd.testing.assert_frame_equal(
        found_bins.drop(columns="histogram"), expected_bins.drop(columns="histogram")
    )
    assert (found_bins["histogram"] == expected_bins["histogram"]).all()
    assert found.steps == expected.steps
    pd.testing.assert_frame_equal(found.histogram_steps(), expected.histogram_steps())
    verdicts = [[each.verdict for each in run.recorded_findings()] for run in (found, expected)]
    assert verdicts[0] == verdicts[1]
    assert found.events()["text"].tolist() == expected.events()["text"].tolist()


class Training:
    """A loop, a step at a time, that hands its terms to a probe."""

    dtype = torch.float32

    def __init__(self, folder: Path, schedule: Schedule | None = EACH, **arguments: object) -> None:
        seeded()
        self.net = network(dtype=self.dtype)
        self.optimizer = torch.optim.Adam(self.net.parameters(), 1e-3)
        given = {"instruments": ["light", GradientHistograms()], "strict": True} | arguments
        self.probe = Probe(self.net, folder, schedule=schedule, **given)  # type: ignore[arg-type]

    def terms(self) -> dict[str, Tensor]:
        return {
            "residual": residual_of(self.net, points(dtype=self.dtype)),
            "boundary": self.net(torch.zeros(1, 1, dtype=self.dtype)).square().mean(),
        }

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.probe.backward(self.terms(), {"boundary": 10.0})
        self.optimizer.step()

    def steps(self, number: int) -> None:
        for _ in range(number):
            self.step()


class ThreeTerms(Training):
    def terms(self) -> dict[str, Tensor]:
        size = sum(parameter.square().sum() for parameter in self.net.parameters())
        assert isinstance(size, Tensor)
        return super().terms() | {"decay": size}


class OneTerm(Training):
    def terms(self) -> dict[str, Tensor]:
        return {"boundary": boundary_of(self.net)}


class ZeroChange(Training):
    """Nothing but a backward pass, which the probe sees."""

    def step(self) -> None:
        self.probe.attach()
        self.optimizer.zero_grad()
        residual, boundary = self.terms().values()
        (residual + 10.0 * boundary).backward()
        self.optimizer.step()


class NotFiniteOnce(Training):
    """At step 40 a term is NaN, for its value alone."""

    def terms(self) -> dict[str, Tensor]:
        found = super().terms()
        if self.probe.step == 40:
            found["boundary"] = found["boundary"] + float("nan")
        return found


class Annealed(Training):
    def step(self) -> None:
        self.optimizer.zero_grad()
        self.probe.backward(self.terms(), "siam")
        self.optimizer.step()


class Double(Training):
    dtype = torch.float64


class Bfloat(Training):
    """Of which numpy knows nothing."""

    dtype = torch.bfloat16


class AtPoints(Training):
    """Values at points, of which there is a spread as well."""

    def terms(self) -> dict[str, Tensor]:
        x = points()
        return super().terms() | {"fit": (self.net(x) - x).square()}
