"""Two losses whose gradients TorchJD combines without a conflict."""

import torch
from torch import nn
from torchjd.aggregation import UPGrad
from torchjd.autojac import backward, jac_to_grad

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
aggregator = UPGrad()
x = torch.randn(32, 2)

for _ in range(20):
    output = net(x)
    first = (output[:, 0] - x[:, 0]).pow(2).mean()
    second = (output[:, 1] + x[:, 0]).pow(2).mean()
    optimizer.zero_grad()
    backward([first, second])
    jac_to_grad(net.parameters(), aggregator)
    optimizer.step()
torch.save(net.state_dict(), "state.pt")
