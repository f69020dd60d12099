"""A model that is compiled; with --retainable, so that its backward pass can run twice."""

import sys

import torch
import torch._functorch.config
from torch import nn

torch._functorch.config.donated_buffer = "--retainable" not in sys.argv

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
fast = torch.compile(model)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
x, y = torch.randn(32, 4), torch.randn(32, 2)

for _ in range(20):
    output = fast(x)
    mse = (output - y).pow(2).mean()
    size = output.pow(2).mean()
    loss = mse + 0.1 * size
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save(model.state_dict(), "state.pt")
