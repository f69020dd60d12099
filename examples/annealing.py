"""The network of pinn.py with learning-rate annealing (Wang, Teng, Perdikaris): one argument.

`probe.backward` takes the place of `loss.backward()`. It differentiates the terms one by one, so it
has what the rule needs for its weights, and records it.

    python examples/annealing.py [FOLDER]
    gradpath watch FOLDER --once
"""

import sys

import torch
from torch import nn

from gradpath import Probe

STEPS = 600

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
ends = torch.tensor([[0.0], [1.0]])

probe = Probe(net, sys.argv[1] if len(sys.argv) > 1 else "runs/annealing", seed=0)

for _step in range(STEPS):
    x = torch.rand(128, 1, requires_grad=True)
    u = net(x)
    (u_x,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
    residual = (u_xx + 64 * torch.sin(8 * x)).square().mean()
    boundary = (net(ends) - torch.sin(8 * ends)).square().mean()
    optimizer.zero_grad()
    probe.backward({"residual": residual, "boundary": boundary}, weights="siam")
    optimizer.step()

probe.detach()
