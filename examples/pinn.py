"""A physics-informed network in a plain PyTorch loop, with a probe on it.

u'' + 64 sin 8x = 0 on [0, 1] with u given at both ends. Run it, then look at what was recorded:

    python examples/pinn.py [FOLDER]
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

probe = Probe(net, sys.argv[1] if len(sys.argv) > 1 else "runs/pinn", seed=0).attach()

for _step in range(STEPS):
    x = torch.rand(128, 1, requires_grad=True)
    u = net(x)
    (u_x,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (u_xx,) = torch.autograd.grad(u_x.sum(), x, create_graph=True)
    residual = (u_xx + 64 * torch.sin(8 * x)).square().mean()
    boundary = (net(ends) - torch.sin(8 * ends)).square().mean()
    loss = residual + 10.0 * boundary
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

probe.detach()
