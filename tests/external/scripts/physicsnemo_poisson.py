"""Poisson's equation with PhysicsNeMo, which takes the residual of a symbolic equation."""

import torch
from physicsnemo.sym.eq.pde import PDE
from physicsnemo.sym.eq.phy_informer import PhysicsInformer
from sympy import Function, Symbol, pi, sin
from torch import nn

torch.manual_seed(0)


class Poisson(PDE):
    def __init__(self):
        self.dim = 2
        x, y = Symbol("x"), Symbol("y")
        u = Function("u")(x, y)
        source = 2 * pi**2 * sin(pi * x) * sin(pi * y)
        self.equations = {"poisson": u.diff(x, 2) + u.diff(y, 2) + source}


model = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))
informer = PhysicsInformer(["poisson"], Poisson(), grad_method="autodiff")
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
side = torch.rand(32)
edges = [(side, 0 * side), (side, 0 * side + 1), (0 * side, side), (0 * side + 1, side)]
boundary = torch.cat([torch.stack(each, dim=1) for each in edges])

for _ in range(20):
    coordinates = torch.rand(64, 2, requires_grad=True)
    residuals = informer.forward(
        {
            "coordinates": coordinates,
            "x": coordinates[:, :1],
            "y": coordinates[:, 1:],
            "u": model(coordinates),
        }
    )
    loss_pde = residuals["poisson"].square().mean()
    loss_bc = model(boundary).square().mean()
    optimizer.zero_grad()
    (loss_pde + 10.0 * loss_bc).backward()
    optimizer.step()
torch.save(model.state_dict(), "state.pt")
