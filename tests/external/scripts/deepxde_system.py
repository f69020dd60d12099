"""A system of two ordinary differential equations with DeepXDE."""

import os

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde as dde
import numpy as np
import torch

dde.config.set_random_seed(1)


def ode_system(x, y):
    y1, y2 = y[:, 0:1], y[:, 1:]
    dy1_x = dde.grad.jacobian(y, x, i=0)
    dy2_x = dde.grad.jacobian(y, x, i=1)
    return [dy1_x - y2, dy2_x + y1]


geom = dde.geometry.TimeDomain(0, 10)


def at_start(x, on_initial):
    return on_initial


ic1 = dde.icbc.IC(geom, lambda x: 0, at_start, component=0)
ic2 = dde.icbc.IC(geom, lambda x: 1, at_start, component=1)
data = dde.data.PDE(
    geom,
    ode_system,
    [ic1, ic2],
    35,
    2,
    solution=lambda x: np.hstack((np.sin(x), np.cos(x))),
    num_test=20,
)
net = dde.nn.FNN([1, 16, 16, 2], "tanh", "Glorot uniform")

model = dde.Model(data, net)
model.compile("adam", lr=0.001, metrics=["l2 relative error"])
model.train(iterations=30)
torch.save(net.state_dict(), "state.pt")
