"""A physics-informed network whose gradients ConFIG combines."""

import torch
from conflictfree.grad_operator import ConFIG_update_double
from conflictfree.utils import apply_gradient_vector, get_gradient_vector
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)


def residual():
    x = torch.rand(32, 1, requires_grad=True)
    u = net(x)
    u_x = torch.autograd.grad(u.sum(), x, create_graph=True)[0]
    return (u_x - torch.cos(x)).pow(2).mean()


def boundary():
    return net(torch.zeros(1, 1)).pow(2).mean()


for _ in range(20):
    loss_r = residual()
    optimizer.zero_grad()
    loss_r.backward()
    grad_r = get_gradient_vector(net, none_grad_mode="zero")

    loss_b = boundary()
    optimizer.zero_grad()
    loss_b.backward()
    grad_b = get_gradient_vector(net, none_grad_mode="zero")

    apply_gradient_vector(net, ConFIG_update_double(grad_r, grad_b))
    optimizer.step()
torch.save(net.state_dict(), "state.pt")
