"""L-BFGS with a closure and a line search."""

import torch
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)).double()
optimizer = torch.optim.LBFGS(net.parameters(), lr=1.0, max_iter=5, line_search_fn="strong_wolfe")
x = torch.linspace(0, 1, 40, dtype=torch.float64)[:, None].requires_grad_()
start = torch.zeros(1, 1, dtype=torch.float64)


def closure():
    optimizer.zero_grad()
    u = net(x)
    u_x = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    loss_r = torch.mean((u_x + u) ** 2)
    loss_0 = torch.mean((net(start) - 1) ** 2)
    loss = loss_r + 5 * loss_0
    loss.backward()
    return loss


for _ in range(12):
    optimizer.step(closure)
torch.save(net.state_dict(), "state.pt")
