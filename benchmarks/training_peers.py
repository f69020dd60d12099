"""The same training step in DeepXDE and in JAX, for `bench_training.py`.

The same problem, network, numbers of points, fixed weights and Adam. Both do less than the trainer:
they take the gradient of the weighted sum alone, and record nothing.
"""

from __future__ import annotations

import math
import os
from itertools import pairwise
from typing import Any

import numpy as np
import torch

A1, A2, K = 1, 4, 1
INSIDE, EDGE = 128, 128  # points, and points on each of the four edges
DEVIATION = 1 / math.sqrt(3)
WIDTHS = (2, 50, 50, 50, 1)


class DeepXDE:
    """DeepXDE with PyTorch: its own model and training step, points drawn anew at every step."""

    def __init__(self, boundary_weight: float) -> None:
        os.environ["DDE_BACKEND"] = "pytorch"
        import deepxde as dde

        # DeepXDE sets PyTorch's number of threads and default device for itself.
        torch.set_num_threads(1)
        # A DirichletBC of the four edges has one mean over all of their points, a quarter of the
        # sum of four means.
        weights = [1.0, 4 * boundary_weight]

        def residual(x: Any, u: Any) -> Any:
            u_xx = dde.grad.hessian(u, x, i=0, j=0)
            u_yy = dde.grad.hessian(u, x, i=1, j=1)
            shape = torch.sin(A1 * math.pi * x[:, 0:1]) * torch.sin(A2 * math.pi * x[:, 1:2])
            source = (K**2 - (A1 * math.pi) ** 2 - (A2 * math.pi) ** 2) * shape
            return u_xx + u_yy + K**2 * u - source

        square = dde.geometry.Rectangle([-1, -1], [1, 1])
        edges = dde.icbc.DirichletBC(square, lambda x: 0, lambda x, on_edge: on_edge)
        self._data = dde.data.PDE(
            square,
            residual,
            edges,
            num_domain=INSIDE,
            num_boundary=4 * EDGE,
            train_distribution="pseudo",
        )
        net = dde.nn.FNN(list(WIDTHS), "tanh", "Glorot normal")
        net.apply_feature_transform(lambda x: x / DEVIATION)
        self._model = dde.Model(self._data, net)
        self._model.compile("adam", lr=1e-3, loss_weights=weights, verbose=0)

    def step(self) -> None:
        """Takes one."""
        self._data.resample_train_points(pde_points=True, bc_points=True)
        inputs, targets, auxiliary = self._data.train_next_batch()
        self._model.train_step(inputs, targets, auxiliary)


class Jax:
    """A jitted step of JAX and optax, the Laplacian by forward over forward derivatives."""

    def __init__(self, boundary_weight: float) -> None:
        import jax
        import jax.numpy as jnp
        import optax

        def network(parameters: Any, x: Any) -> Any:
            hidden = x / DEVIATION
            for weight, bias in parameters[:-1]:
                hidden = jnp.tanh(hidden @ weight + bias)
            weight, bias = parameters[-1]
            return (hidden @ weight + bias)[0]

        def second(function: Any, x: Any, direction: Any) -> Any:
            def slope(at: Any) -> Any:
                return jax.jvp(function, (at,), (direction,))[1]

            return jax.jvp(slope, (x,), (direction,))[1]

        along_x, along_y = jnp.eye(2)

        def residual(parameters: Any, x: Any) -> Any:
            def u(at: Any) -> Any:
                return network(parameters, at)

            shape = jnp.sin(A1 * math.pi * x[0]) * jnp.sin(A2 * math.pi * x[1])
            source = (K**2 - (A1 * math.pi) ** 2 - (A2 * math.pi) ** 2) * shape
            return second(u, x, along_x) + second(u, x, along_y) + K**2 * u(x) - source

        def loss(parameters: Any, inside: Any, edges: Any) -> Any:
            residuals = jax.vmap(residual, (None, 0))(parameters, inside)
            values = jax.vmap(network, (None, 0))(parameters, edges)
            return jnp.mean(residuals**2) + boundary_weight * 4 * jnp.mean(values**2)

        optimizer = optax.adam(optax.exponential_decay(1e-3, 1000, 0.9))

        def sample(key: Any) -> Any:
            first, other = jax.random.split(key)
            inside = jax.random.uniform(first, (INSIDE, 2), minval=-1.0, maxval=1.0)
            along = jax.random.uniform(other, (4, EDGE), minval=-1.0, maxval=1.0)
            one = jnp.ones(EDGE)
            edges = [(-one, along[0]), (one, along[1]), (along[2], -one), (along[3], one)]
            return inside, jnp.concatenate([jnp.stack(pair, axis=-1) for pair in edges])

        @jax.jit
        def step(parameters: Any, state: Any, key: Any) -> Any:
            key, own = jax.random.split(key)
            value, gradient = jax.value_and_grad(loss)(parameters, *sample(own))
            update, state = optimizer.update(gradient, state)
            return optax.apply_updates(parameters, update), state, key, value

        generator = np.random.default_rng(0)
        parameters = [
            (
                jnp.asarray(generator.normal(0, math.sqrt(2 / (a + b)), (a, b)), dtype=jnp.float32),
                jnp.zeros(b, dtype=jnp.float32),
            )
            for a, b in pairwise(WIDTHS)
        ]
        self._step = step
        self._now = (parameters, optimizer.init(parameters), jax.random.PRNGKey(0))

    def step(self) -> None:
        """Takes one, and waits for its loss as the trainer does."""
        *now, value = self._step(*self._now)
        self._now = tuple(now)
        float(value)
