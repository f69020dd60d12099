"""A physics-informed DeepONet: antiderivatives of random functions."""

import sys

import torch
from torch import nn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
torch.manual_seed(0)


class DeepONet(nn.Module):
    def __init__(self, sensors=10, width=16):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(sensors, width), nn.Tanh(), nn.Linear(width, width))
        self.trunk = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, width))
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, v, x):
        return (self.branch(v) * self.trunk(x)).sum(-1, keepdim=True) + self.bias


model = DeepONet()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.99)
sensors = torch.linspace(0, 1, 10)


def loss_operator(model, v):
    return model(v, torch.zeros(len(v), 1)).pow(2).mean()


def loss_physics(model, v, a):
    x = torch.rand(len(v), 1, requires_grad=True)
    s = model(v, x)
    s_x = torch.autograd.grad(s.sum(), x, create_graph=True)[0]
    return (s_x - a * torch.cos(x)).pow(2).mean()


for _ in range(STEPS):
    a = torch.randn(32, 1)
    v = a * torch.cos(sensors)
    loss_bcs = loss_operator(model, v)
    loss_res = loss_physics(model, v, a)
    loss = 20.0 * loss_bcs + loss_res
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()
torch.save(model.state_dict(), "state.pt")
