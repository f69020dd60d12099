"""A SIREN that is fitted to the values and the gradients of an image."""

import math
import sys

import torch
from torch import nn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
torch.manual_seed(0)


class Sine(nn.Module):
    def __init__(self, inputs, outputs, is_first=False, omega=30.0):
        super().__init__()
        self.omega, self.linear = omega, nn.Linear(inputs, outputs)
        bound = 1 / inputs if is_first else math.sqrt(6 / inputs) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x):
        return torch.sin(self.omega * self.linear(x))


siren = nn.Sequential(Sine(2, 16, is_first=True), Sine(16, 16), nn.Linear(16, 1))
optim = torch.optim.Adam(lr=1e-4, params=siren.parameters())
side = torch.linspace(-1, 1, 12)
coords = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
image = torch.exp(-4 * coords.pow(2).sum(-1, keepdim=True))
image_gradients = -8 * coords * image

for _ in range(STEPS):
    x = coords.clone().requires_grad_()
    y = siren(x)
    y_grad = torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)[0]
    value_loss = ((y - image) ** 2).mean()
    gradient_loss = ((y_grad - image_gradients) ** 2).sum(-1).mean()
    loss = value_loss + 1e-2 * gradient_loss
    optim.zero_grad()
    loss.backward()
    optim.step()
torch.save(siren.state_dict(), "state.pt")
