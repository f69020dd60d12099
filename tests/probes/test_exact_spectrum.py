"""All eigenvalues of the Hessian are those of the dense matrix, found in another way."""

from pathlib import Path

import numpy as np
import torch

from gradpath import Probe, Run
from gradpath.probes.instruments import ExactSpectrum
from gradpath.probes.schedules import at


def train(folder: Path, instrument: ExactSpectrum) -> tuple[Run, dict[str, np.ndarray]]:
    """Takes one step on two terms; returns the run and the spectra before it."""
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    net = net.double()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    x = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]
    parameters = dict(net.named_parameters())
    shapes = {name: value.shape for name, value in parameters.items()}

    def terms(flat: torch.Tensor) -> dict[str, torch.Tensor]:
        pieces = torch.split(flat, [shape.numel() for shape in shapes.values()])
        given = {n: p.view(s) for (n, s), p in zip(shapes.items(), pieces, strict=True)}
        u = torch.func.functional_call(net, given, (x,))
        return {"residual": (u - x.sin()).square().mean(), "boundary": u[0].square().sum()}

    start = torch.cat([value.detach().reshape(-1) for value in parameters.values()])
    weights = {"residual": 1.0, "boundary": 3.0}
    expected = {}
    for name in (*weights, "total"):
        wanted = weights if name == "total" else {name: 1.0}
        hessian = torch.autograd.functional.hessian(
            lambda flat, wanted=wanted: sum(w * terms(flat)[n] for n, w in wanted.items()), start
        )
        expected[name] = torch.linalg.eigvalsh(hessian).numpy()
    with Probe(net, folder, optimizer=optimizer, instruments=[instrument]):
        optimizer.zero_grad()
        u = net(x)
        residual = (u - x.sin()).square().mean()
        boundary = u[0].square().sum()
        (residual + 3 * boundary).backward()
        optimizer.step()
    return Run(folder), expected


def test_every_term_and_the_total_have_their_spectrum(tmp_path: Path) -> None:
    run, expected = train(tmp_path / "run", ExactSpectrum(at(0)))
    rows = run.fields("hessian_eigenvalues")
    found = dict(zip(rows["term"], rows["values"], strict=True))
    assert found.keys() == expected.keys()
    for term, values in expected.items():
        np.testing.assert_allclose(found[term], values, atol=1e-12)


def test_a_large_model_is_refused_with_the_reason(tmp_path: Path) -> None:
    run, _ = train(tmp_path / "run", ExactSpectrum(at(0), most=12))
    assert run.fields("hessian_eigenvalues").empty
    assert "13 parameters" in run.events()["text"].iloc[-1]
