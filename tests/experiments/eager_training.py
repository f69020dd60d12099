"""Training as a user would write it: nested `torch.autograd.grad` and `torch.optim.Adam`.

It shares the network, the points and the diagnostics' weighting rules with the trainer under test,
and neither its derivatives, its step, nor the order of things within it.
"""

import math

import torch
from torch import Tensor

from gradpath.diagnostics import (
    Observation,
    ParameterLayout,
    TermGradients,
    Weighting,
    term_gradients,
)
from gradpath.experiments.domains import Batch
from gradpath.experiments.networks import MLP


def helmholtz_losses(network: MLP, batch: Batch, a1: int, a2: int) -> dict[str, Tensor]:
    """Residual and boundary term for k = 1."""
    x = batch["interior"][0].clone().requires_grad_()
    u = network(x)[:, 0]
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    u_xx = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)[0][:, 0]
    u_yy = torch.autograd.grad(slope[:, 1].sum(), x, create_graph=True)[0][:, 1]
    at = x.detach()
    exact = torch.sin(a1 * math.pi * at[:, 0]) * torch.sin(a2 * math.pi * at[:, 1])
    source = (1 - (a1 * math.pi) ** 2 - (a2 * math.pi) ** 2) * exact
    edges = [network(edge)[:, 0].square().mean() for edge in batch["boundary"]]
    return {
        "residual": (u_xx + u_yy + u - source).square().mean(),
        "boundary": torch.stack(edges).sum(),
    }


def train_helmholtz(
    network: MLP, batches: list[Batch], balance: Weighting | None, a1: int, a2: int
) -> tuple[Tensor, list[float]]:
    """Takes a step a batch; returns the parameters and the boundary's weight at every step."""
    layout = ParameterLayout.of(network)
    optimizer = torch.optim.Adam(network.parameters(), lr=1.0)
    weight, used = 1.0, []
    for step, batch in enumerate(batches):
        used.append(weight)
        losses = helmholtz_losses(network, batch, a1, a2)
        rows: TermGradients = term_gradients(losses, layout)
        optimizer.zero_grad()
        (losses["residual"] + weight * losses["boundary"]).backward()
        optimizer.param_groups[0]["lr"] = 1e-3 * 0.9 ** (step / 1000)
        optimizer.step()
        if balance is not None and step % 10 == 0:
            values = [float(loss.detach()) for loss in losses.values()]
            weight = balance.update(Observation(step, rows, layout, values))["boundary"]
    return layout.flatten(), used
