"""An inverse problem with DeepXDE: the decay rate of an equation is trained with the network."""

import os
import sys

os.environ["DDE_BACKEND"] = "pytorch"

import deepxde as dde
import numpy as np
import torch

ITERATIONS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
dde.config.set_random_seed(1)
rate = dde.Variable(1.0)


def decay(x, y):
    return dde.grad.jacobian(y, x, i=0) + rate * y


geom = dde.geometry.TimeDomain(0, 1)
ic = dde.icbc.IC(geom, lambda x: 1, lambda _, on_initial: on_initial)
observed = np.linspace(0, 1, 10)[:, None]
observe = dde.icbc.PointSetBC(observed, np.exp(-3 * observed), component=0)
data = dde.data.PDE(geom, decay, [ic, observe], 20, 2, anchors=observed)
net = dde.nn.FNN([1, 16, 16, 1], "tanh", "Glorot uniform")

model = dde.Model(data, net)
model.compile("adam", lr=0.01, external_trainable_variables=rate, loss_weights=[1, 1, 20])
model.train(iterations=ITERATIONS)
torch.save({**net.state_dict(), "rate": rate.detach()}, "state.pt")
