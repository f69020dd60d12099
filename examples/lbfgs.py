"""Adam, then L-BFGS, whose line search evaluates the loss several times a step.

A probe measures the first evaluation of each step and only counts the others.

    python examples/lbfgs.py [FOLDER]
    gradpath watch FOLDER --once
"""

import sys

import torch
from torch import Tensor, nn

from gradpath import Probe

STEPS = 300
FINE_STEPS = 20

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1)).double()
x = torch.linspace(0, 1, 100, dtype=torch.float64)[:, None].requires_grad_()
ends = torch.tensor([[0.0], [1.0]], dtype=torch.float64)


def losses() -> tuple[Tensor, Tensor]:
    """The residual of u'' + 16 sin 4x = 0, and the values at the ends."""
    u = net(x)
    (u_x,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
    residual = (u_xx + 16 * torch.sin(4 * x)).square().mean()
    boundary = (net(ends) - torch.sin(4 * ends)).square().mean()
    return residual, boundary


adam = torch.optim.Adam(net.parameters(), lr=1e-3)
lbfgs = torch.optim.LBFGS(net.parameters(), max_iter=10, line_search_fn="strong_wolfe")

probe = Probe(net, sys.argv[1] if len(sys.argv) > 1 else "runs/lbfgs", seed=0).attach()

for _step in range(STEPS):
    adam.zero_grad()
    residual, boundary = losses()
    loss = residual + 100.0 * boundary
    loss.backward()
    adam.step()


def closure() -> Tensor:
    """Evaluates the loss anew, as L-BFGS asks for it."""
    lbfgs.zero_grad()
    residual, boundary = losses()
    loss = residual + 100.0 * boundary
    loss.backward()
    return loss


for _step in range(FINE_STEPS):
    lbfgs.step(closure)

probe.detach()
