"""Two tasks, whose weights are trained as the uncertainty of each (Kendall et al., 2018)."""

import sys

import torch
from torch import nn

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
torch.manual_seed(0)
trunk = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
depth_head, normal_head = nn.Linear(16, 1), nn.Linear(16, 3)
log_vars = nn.Parameter(torch.tensor([0.0, 1.0]))
models = nn.ModuleList([trunk, depth_head, normal_head])
optimizer = torch.optim.Adam([*models.parameters(), log_vars], lr=1e-3)
x, depth, normal = torch.randn(64, 4), torch.randn(64, 1), torch.randn(64, 3)

for _ in range(STEPS):
    features = trunk(x)
    depth_loss = nn.functional.mse_loss(depth_head(features), depth)
    normal_loss = nn.functional.l1_loss(normal_head(features), normal)
    loss = (
        torch.exp(-log_vars[0]) * depth_loss
        + torch.exp(-log_vars[1]) * normal_loss
        + log_vars.sum()
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
torch.save([models.state_dict(), log_vars.detach()], "state.pt")
