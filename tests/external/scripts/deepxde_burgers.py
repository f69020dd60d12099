"""Burgers' equation with DeepXDE: Adam first, then L-BFGS."""

import os
import sys

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde as dde
import numpy as np
import torch

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
dde.config.set_random_seed(1)


def pde(x, y):
    dy_x = dde.grad.jacobian(y, x, i=0, j=0)
    dy_t = dde.grad.jacobian(y, x, i=0, j=1)
    dy_xx = dde.grad.hessian(y, x, i=0, j=0)
    return dy_t + y * dy_x - 0.01 / np.pi * dy_xx


geom = dde.geometry.Interval(-1, 1)
timedomain = dde.geometry.TimeDomain(0, 0.99)
geomtime = dde.geometry.GeometryXTime(geom, timedomain)
bc = dde.icbc.DirichletBC(geomtime, lambda x: 0, lambda _, on_boundary: on_boundary)
ic = dde.icbc.IC(geomtime, lambda x: -np.sin(np.pi * x[:, 0:1]), lambda _, on_initial: on_initial)
data = dde.data.TimePDE(geomtime, pde, [bc, ic], num_domain=50, num_boundary=10, num_initial=10)
net = dde.nn.FNN([2, 12, 12, 1], "tanh", "Glorot normal")
model = dde.Model(data, net)

model.compile("adam", lr=1e-3, loss_weights=[1, 10, 100])
model.train(iterations=ITERATIONS)
dde.optimizers.set_LBFGS_options(maxiter=ITERATIONS)
dde.optimizers.config.LBFGS_options["iter_per_step"] = 10
model.compile("L-BFGS", loss_weights=[1, 10, 100])
model.train()
torch.save(net.state_dict(), "state.pt")
