"""Poisson's equation in one dimension with DeepXDE."""

import os

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde as dde
import numpy as np
import torch

dde.config.set_random_seed(1)


def pde(x, y):
    dy_xx = dde.grad.hessian(y, x)
    return -dy_xx - np.pi**2 * torch.sin(np.pi * x)


geom = dde.geometry.Interval(-1, 1)
bc = dde.icbc.DirichletBC(geom, lambda x: np.sin(np.pi * x), lambda _, on_boundary: on_boundary)
data = dde.data.PDE(geom, pde, bc, 16, 2)
net = dde.nn.FNN([1, 16, 16, 1], "tanh", "Glorot uniform")

model = dde.Model(data, net)
model.compile("adam", lr=0.001, loss_weights=[1, 50])
model.train(iterations=30, display_every=10)
torch.save(net.state_dict(), "state.pt")
