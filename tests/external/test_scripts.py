"""Scripts of other ecosystems, run unedited: right terms, everything measured, the same bits."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gradpath.probes import Run
from tests.external.cases import CASES, Case, Order
from tests.external.compatibility import Outcome

SCRIPTS = Path(__file__).parent / "scripts"
IMPORTED_AS = {"DeepXDE": "deepxde", "pina-mathlab": "pina", "nvidia-physicsnemo": "physicsnemo"}


def run(command: tuple[str, ...], *arguments: str, folder: Path) -> None:
    folder.mkdir()
    found = subprocess.run(
        [part.format(python=sys.executable) for part in (*command, *arguments)],
        cwd=folder,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": str(folder.parent / "compiled")},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]


def tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    else:
        for each in state.values() if isinstance(state, dict) else state:
            yield from tensors(each)


def same_bits(first: Path, second: Path) -> bool:
    states = [list(tensors(torch.load(each / "state.pt"))) for each in (first, second)]
    return all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def first_weights(run: Run) -> dict[str, float]:
    frame = run.scalars("weight").drop_duplicates("term")
    by_term = dict(zip(frame["term"], frame["value"], strict=True))
    return {term: float(by_term.get(term, math.nan)) for term in run.terms}


def test_every_script_is_a_case() -> None:
    cases = {case.script or name for name, case in CASES.items()}
    assert {each.stem for each in SCRIPTS.glob("*.py")} == cases


def test_no_script_knows_of_gradpath() -> None:
    assert not [each for each in SCRIPTS.glob("*.py") if "gradpath" in each.read_text()]


@pytest.mark.slow
@pytest.mark.frameworks
@pytest.mark.parametrize("name", CASES)
def test_script(name: str, tmp_path: Path, outcomes: Callable[[Outcome], None]) -> None:
    case = CASES[name]
    if importlib.util.find_spec(IMPORTED_AS.get(case.package, case.package)) is None:
        pytest.skip(f"{case.package} is not installed")
    script = (str(SCRIPTS / f"{case.script or name}.py"), *case.arguments)
    # torchrun would take our options for its own.
    gradpath = ("-m", *(("--",) if len(case.command) > 1 else ()), "gradpath")
    plain = partial(run, case.command, *script, folder=tmp_path / "plain")
    probe = (*gradpath, "run", "--run", "run", *script)
    probed = partial(run, case.command, *probe, folder=tmp_path / "probed")
    # Side by side where they may: most of the time is spent on importing torch, twice.
    with ThreadPoolExecutor() as pool:
        first, second = (plain, probed) if case.order is Order.PLAIN_FIRST else (probed, plain)
        begun = pool.submit(first)
        if case.order is not Order.TOGETHER:
            begun.result()
        second()
        begun.result()
    outcomes(outcome_of(name, tmp_path / "plain", tmp_path / "probed"))


def outcome_of(name: str, plain: Path, probed: Path) -> Outcome:
    """Checks what the two runs of a script have left, and returns what they show."""
    case = CASES[name]
    assert same_bits(plain, probed)
    found = Run(probed / "run")
    assert found.status == "finished"
    check_terms(found, case)
    curvature = check_measurements(found, case)
    reasons = reasons_in(found)
    assert case.missing in " ".join(reasons)
    return Outcome(
        case.package,
        case.script or name,
        case.shows,
        first_weights(found),
        len(found.histograms()[["term", "layer"]].drop_duplicates()),
        curvature,
        reasons,
        case.note,
    )


def check_terms(run: Run, case: Case) -> None:
    weights = first_weights(run)
    assert tuple(weights) == tuple(case.weights)
    for term, weight in case.weights.items():
        if weight is not None:
            assert weights[term] == pytest.approx(weight, rel=1e-6)
    losses = run.scalars("loss")
    assert set(case.weights) <= set(losses["term"])  # the value of every term is known
    assert not (run.scalars("self_check")["value"] > case.tolerance).any()


def check_measurements(run: Run, case: Case) -> tuple[str, ...]:
    """Returns the terms of which both ends of the spectrum are known."""
    cells = run.histograms()
    layers = {term: set(own) for term, own in cells.groupby("term")["layer"]}
    parts = cells.groupby("term")["part"].first() if "part" in cells else None
    assert set(layers) >= (set(case.weights) if case.gradients else {"total"})
    for term in case.weights if case.gradients else ("total",):
        own = cells if parts is None else cells[cells["part"] == parts[term]]
        assert layers[term] == set(own["layer"])
    assert set(cells["layer"]) == set(run.layers)
    ends = run.eigenvalues()
    ends = ends[ends["name"] == "hessian"] if "name" in ends else ends
    ends = ends[ends["converged"].astype(bool) == case.converges]
    known_ends = set(zip(ends["term"], ends["end"], strict=True))
    wanted = tuple(case.weights) if case.curvature is None else case.curvature
    both = ("largest", "smallest")
    known = tuple(t for t in case.weights if {(t, end) for end in both} <= known_ends)
    assert known == wanted
    return known


def reasons_in(run: Run) -> tuple[str, ...]:
    events = run.events()
    missing = events[events["kind"].isin(["missing", "instrument_off", "probe_off"])]
    texts = [re.sub(r"\s+", " ", text) for text in missing["text"]]
    return tuple(dict.fromkeys(texts))
