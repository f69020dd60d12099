"""Training loops as people write them, each small and the same at every run.

A loop is a function of the number of steps; it makes its own model and data from fixed seeds and
returns what it has trained. None of them knows of a probe.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint


@dataclass
class Trained:
    """What a loop leaves behind.

    Attributes:
        models: by name.
        optimizers: all that stepped.
        calls: of the user's hooks, in their order.
        tensors: others that were trained, or whose gradient matters.
        seen: whatever else the loop observed of itself, such as its losses.
    """

    models: Mapping[str, nn.Module]
    optimizers: Sequence[Optimizer] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    seen: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Expected:
    """What a probe must find in a loop.

    Attributes:
        terms: by part, the names of the terms.
        weights: of terms, at every step.
        steps: how many a run of n steps has; by default n.
        skipped: whether a step is not recorded, because no gradient was computed at it.
        has_histograms, has_curvature: whether they can be measured.
        adds_up: whether the self-check must be down to rounding.
    """

    terms: dict[str, tuple[str, ...]]
    weights: dict[str, float] = field(default_factory=dict)
    steps: Callable[[int], int] = lambda n: n
    skipped: Callable[[int], bool] = lambda step: False
    has_histograms: bool = True
    has_curvature: bool = True
    adds_up: bool = True


def seeded() -> None:
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)


def network(width: int = 8, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1)).to(dtype)


def points(n: int = 16, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, 1, dtype=dtype)


def residual_of(net: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    return (slope - torch.cos(x)).square().mean()


def boundary_of(net: nn.Module) -> Tensor:
    return net(torch.zeros(1, 1)).square().mean()


def plain(steps: int) -> Trained:
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        residual = residual_of(net, points())
        boundary = boundary_of(net)
        loss = residual + 10.0 * boundary
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return Trained({"net": net}, [optimizer], seen=seen)


def set_to_zero(steps: int) -> Trained:
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=False)
        residual, boundary = residual_of(net, points()), boundary_of(net)
        (residual + 2.0 * boundary).backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def accumulation(steps: int) -> Trained:
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(4):
            residual, boundary = residual_of(net, points()), boundary_of(net)
            loss = (residual + 3.0 * boundary) / 4
            loss.backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def one_backward_a_term(steps: int) -> Trained:
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        residual = residual_of(net, points())
        boundary = boundary_of(net)
        residual.backward()
        boundary.backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def gradient_surgery(steps: int) -> Trained:
    """PCGrad, ConFIG and their like: a gradient a term, combined by hand."""
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        losses = {"residual": residual_of(net, points()), "boundary": boundary_of(net)}
        gradients = []
        for loss in losses.values():
            optimizer.zero_grad()
            loss.backward()
            gradients.append([p.grad.clone() if p.grad is not None else None
                              for p in net.parameters()])  # fmt: skip
        for p, first, second in zip(net.parameters(), *gradients, strict=True):
            parts = [g for g in (first, second) if g is not None]
            p.grad = sum(parts[1:], parts[0])
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def gradient_surgery_in_one_line(steps: int) -> Trained:
    """As the README of ConFIG has it: one line of source for all losses; steps are given up."""
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    x = points()
    for step in range(steps):
        gradients = []
        loss_fns: list[Callable[[], Tensor]] = [
            lambda: residual_of(net, x),
            lambda: boundary_of(net),
        ]
        for loss_fn in loss_fns:
            optimizer.zero_grad()
            loss = loss_fn()
            loss.backward()
            gradients.append([
                torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()
            ])  # fmt: skip
        if step % 4 == 2:
            continue
        for p, first, second in zip(net.parameters(), *gradients, strict=True):
            p.grad = first + second
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def lbfgs(steps: int) -> Trained:
    seeded()
    net = network(dtype=torch.float64)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3, line_search_fn="strong_wolfe")
    x = points(16, torch.float64)
    seen = []
    for _ in range(steps):

        def closure() -> Tensor:
            optimizer.zero_grad()
            inner = x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(net(inner).sum(), inner, create_graph=True)
            residual = (slope - torch.cos(inner)).square().mean()
            boundary = net(torch.zeros(1, 1, dtype=torch.float64)).square().mean()
            loss = residual + 5.0 * boundary
            loss.backward()
            seen.append(loss.item())
            return loss

        optimizer.step(closure)
    return Trained({"net": net}, [optimizer], seen=seen)


def sgd_with_closure(steps: int) -> Trained:
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    for _ in range(steps):

        def closure() -> Tensor:
            optimizer.zero_grad()
            residual, boundary = residual_of(net, points()), boundary_of(net)
            loss = residual + boundary
            loss.backward()
            return loss

        optimizer.step(closure=closure)
    return Trained({"net": net}, [optimizer])


def failing_closure(steps: int) -> Trained:
    """A closure that raises now and then, after which the step is taken without one."""
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    seen = []
    for step in range(steps):

        def closure() -> Tensor:
            if step % 4 == 1:  # noqa: B023
                raise ValueError
            optimizer.zero_grad()
            residual, boundary = residual_of(net, points()), boundary_of(net)
            loss = residual + boundary
            loss.backward()
            return loss

        try:
            optimizer.step(closure)
        except ValueError:
            seen.append(step)
            optimizer.zero_grad()
            residual, boundary = residual_of(net, points()), boundary_of(net)
            (residual + boundary).backward()
            optimizer.step()
    return Trained({"net": net}, [optimizer], seen=seen)


def lbfgs_with_micro_batches(steps: int) -> Trained:
    """Several backward passes an evaluation, several evaluations a step."""
    seeded()
    net = network(dtype=torch.float64)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3)
    batches = [points(8, torch.float64) for _ in range(3)]
    for _ in range(steps):

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = torch.zeros((), dtype=torch.float64)
            for x in batches:
                u = net(x)
                data = F.mse_loss(u, torch.sin(x))
                size = u.square().mean()
                loss = (data + 0.1 * size) / len(batches)
                loss.backward()
                total += loss.detach()
            return total

        optimizer.step(closure)
    return Trained({"net": net}, [optimizer])


def closure_that_fails_midway(steps: int) -> Trained:
    """A line search that an error ends after some evaluations; the parameters stay where it was."""
    seeded()
    net = network(dtype=torch.float64)
    optimizer = torch.optim.LBFGS(
        net.parameters(), lr=1e-3, max_iter=4, tolerance_grad=0, tolerance_change=0
    )
    x = points(8, torch.float64)
    seen = []
    for step in range(steps):
        evaluations = 0

        def closure() -> Tensor:
            nonlocal evaluations
            evaluations += 1
            optimizer.zero_grad()
            u = net(x)
            data, size = F.mse_loss(u, torch.sin(x)), u.square().mean()
            loss = data + 0.1 * size
            loss.backward()
            if step % 4 == 1 and evaluations == 2:  # noqa: B023
                raise ValueError
            return loss

        try:
            optimizer.step(closure)
        except ValueError:
            seen.append(step)
    return Trained({"net": net}, [optimizer], seen=seen)


def adam_then_lbfgs(steps: int) -> Trained:
    seeded()
    net = network()
    x = points()
    adam = torch.optim.Adam(net.parameters(), 1e-3)
    lbfgs = torch.optim.LBFGS(net.parameters(), max_iter=2)

    def loss_of() -> Tensor:
        residual, boundary = residual_of(net, x), boundary_of(net)
        return residual + boundary

    for _ in range(steps // 2):
        adam.zero_grad()
        loss = loss_of()
        loss.backward()
        adam.step()

    def closure() -> Tensor:
        lbfgs.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    for _ in range(steps - steps // 2):
        lbfgs.step(closure)
    return Trained({"net": net}, [adam, lbfgs])


def scaled(steps: int) -> Trained:
    """Autocast and a GradScaler, whose scale grows now and then."""
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
    x = points()
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            u = net(x)
            data = F.mse_loss(u, torch.sin(x))
            size = u.abs().mean()
            loss = data + 0.5 * size
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
    return Trained({"net": net}, [optimizer], seen=[scaler.get_scale()])


def overflowing(steps: int) -> Trained:
    """A GradScaler that has to skip steps."""
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=3)
    x = points()
    for step in range(steps):
        optimizer.zero_grad()
        far = float("inf") if step % 7 == 3 else 1.0
        data = F.mse_loss(net(x), far * torch.ones_like(x))
        scaler.scale(data).backward()
        scaler.step(optimizer)
        scaler.update()
    return Trained({"net": net}, [optimizer], seen=[scaler.get_scale()])


def clipped(steps: int) -> Trained:
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        residual, boundary = residual_of(net, points()), boundary_of(net)
        (residual + boundary).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.1)
        optimizer.step()
    return Trained({"net": net}, [optimizer])


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(0.2))
        self.second = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(self.first, x, use_reentrant=self.reentrant))


def _checkpointed(steps: int, reentrant: bool) -> Trained:
    seeded()
    net = Checkpointed(reentrant)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        x = points().requires_grad_(reentrant)
        u = net(x)
        data = F.mse_loss(u, torch.sin(x.detach()))
        size = u.square().mean()
        (data + 0.1 * size).backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def checkpointed(steps: int) -> Trained:
    return _checkpointed(steps, reentrant=False)


def checkpointed_reentrant(steps: int) -> Trained:
    return _checkpointed(steps, reentrant=True)


def noisy_layers(steps: int) -> Trained:
    """Dropout and batch norm, and noise in the data from all three generators."""
    seeded()
    net = nn.Sequential(
        nn.Linear(1, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1)
    )
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        x = points() + random.random() + np.random.rand()
        u = net(x)
        data = F.mse_loss(u, torch.sin(x))
        size = u.abs().mean()
        (data + 0.1 * size).backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


class Odd(nn.Module):
    """Frozen, shared and unused parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(1, 8)
        self.frozen.requires_grad_(False)
        self.shared = nn.Linear(8, 8)
        self.unused = nn.Linear(3, 3)
        self.out = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.shared(torch.tanh(self.shared(self.frozen(x))))))


def odd_parameters(steps: int) -> Trained:
    seeded()
    net = Odd()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        residual, boundary = residual_of(net, points()), boundary_of(net)
        (residual + boundary).backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def late_parameters(steps: int) -> Trained:
    """A layer is unfrozen, and another one added, after half of the steps."""
    seeded()
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    net[0].requires_grad_(False)
    head: nn.Module = nn.Identity()
    optimizer = torch.optim.Adam(net[2].parameters(), 1e-3)
    for step in range(steps):
        if step == steps // 2:
            net[0].requires_grad_(True)
            optimizer.add_param_group({"params": net[0].parameters()})
            head = nn.Linear(1, 1)
            optimizer.add_param_group({"params": head.parameters()})
        optimizer.zero_grad()
        x = points()
        u = head(net(x))
        data = F.mse_loss(u, torch.sin(x))
        size = u.square().mean()
        (data + 0.1 * size).backward()
        optimizer.step()
    return Trained({"net": net, "head": head}, [optimizer])


def several_dtypes(steps: int) -> Trained:
    seeded()
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh()).double()
    head = nn.Linear(8, 1)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        x = points(dtype=torch.float64)
        u = head(net(x).float())
        data = F.mse_loss(u, torch.sin(x).float())
        size = u.square().mean()
        (data + 0.1 * size).backward()
        optimizer.step()
    return Trained({"net": net, "head": head}, [optimizer])


def not_finite(steps: int) -> Trained:
    """A loss that becomes NaN after a third of the steps."""
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        residual = residual_of(net, points())
        boundary = boundary_of(net)
        if step >= steps // 3:
            boundary = boundary * float("nan")
        (residual + boundary).backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def explicit_gradient(steps: int) -> Trained:
    """A loss at points, differentiated with a gradient of its own."""
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        x = points()
        errors = (net(x) - torch.sin(x)).square()
        errors.backward(torch.full_like(errors, 1 / len(errors)))
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def failing(steps: int) -> Trained:
    """An exception now and then, which the loop survives."""
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    seen = []
    for step in range(steps):
        optimizer.zero_grad()
        residual, boundary = residual_of(net, points()), boundary_of(net)
        loss = residual + boundary
        try:
            if step % 5 == 4:
                loss.backward(torch.ones(3))  # of a wrong shape
            loss.backward()
            if step % 3 == 2:
                raise ValueError
        except (RuntimeError, ValueError) as error:
            seen.append(type(error).__name__)
        optimizer.step()
    return Trained({"net": net}, [optimizer], seen=seen)


def hooked(steps: int) -> Trained:
    """Hooks of every kind, which count."""
    seeded()
    net = network()
    calls: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(name)

    first: Any = net[0]
    net[0].register_forward_hook(note("forward"))
    net[2].register_full_backward_hook(note("full backward"))
    first.weight.register_hook(note("leaf"))
    first.weight.register_post_accumulate_grad_hook(note("accumulated"))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    optimizer.register_step_pre_hook(note("before step"))
    optimizer.register_step_post_hook(note("after step"))
    for _ in range(steps):
        optimizer.zero_grad()
        x = points()
        u = net(x)
        u.register_hook(note("inner"))
        u.retain_grad()
        data = F.mse_loss(u, torch.sin(x))
        size = u.square().mean()
        (data + 0.1 * size).backward()
        assert u.grad is not None
        optimizer.step()
    return Trained({"net": net}, [optimizer], calls)


def workers(steps: int) -> Trained:
    """Data from forked workers, started anew in every epoch."""
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    data_set = torch.utils.data.TensorDataset(torch.rand(40, 1))
    loader = torch.utils.data.DataLoader(data_set, 8, shuffle=True, num_workers=1)
    done = 0
    while done < steps:
        for (x,) in loader:
            if done == steps:
                break
            done += 1
            optimizer.zero_grad()
            residual, boundary = residual_of(net, x), boundary_of(net)
            (residual + boundary).backward()
            optimizer.step()
    return Trained({"net": net}, [optimizer])


def default_device(steps: int) -> Trained:
    """Under a default device, which is a mode that makes `backward` come twice."""
    before = torch.get_default_device()
    torch.set_default_device("cpu")
    try:
        return plain(steps)
    finally:
        torch.set_default_device(None)
        assert torch.get_default_device() == before


def device_contexts(steps: int) -> Trained:
    """Modes that are entered and left inside of each step."""
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    seen = []
    for _ in range(steps):
        with torch.device("cpu"):
            optimizer.zero_grad()
            residual, boundary = residual_of(net, points()), boundary_of(net)
            (residual + boundary).backward()
            optimizer.step()
        seen.append(torch._C._len_torch_function_stack())
    return Trained({"net": net}, [optimizer], seen=seen[-1:])


def gan(steps: int) -> Trained:
    seeded()
    generator: nn.Module = network()
    discriminator: nn.Module = network()
    optimizer_g = torch.optim.Adam(generator.parameters(), 1e-3)
    optimizer_d = torch.optim.Adam(discriminator.parameters(), 1e-3)
    for _ in range(steps):
        optimizer_d.zero_grad()
        fake = generator(points())
        loss_real = F.softplus(-discriminator(points())).mean()
        loss_fake = F.softplus(discriminator(fake.detach())).mean()
        (loss_real + loss_fake).backward()
        optimizer_d.step()
        optimizer_g.zero_grad()
        loss_generator = F.softplus(-discriminator(generator(points()))).mean()
        loss_generator.backward()
        optimizer_g.step()
    return Trained(
        {"generator": generator, "discriminator": discriminator}, [optimizer_g, optimizer_d]
    )


def two_optimizers(steps: int) -> Trained:
    """One loss, whose parameters two optimizers share."""
    seeded()
    encoder: nn.Module = network()
    decoder: nn.Module = network()
    first = torch.optim.Adam(encoder.parameters(), 1e-3)
    second = torch.optim.SGD(decoder.parameters(), 1e-2)
    for _ in range(steps):
        first.zero_grad()
        second.zero_grad()
        x = points()
        code = encoder(x)
        data = F.mse_loss(decoder(code), x)
        size = code.square().mean()
        (data + 0.1 * size).backward()
        first.step()
        second.step()
    return Trained({"encoder": encoder, "decoder": decoder}, [first, second])


def one_after_the_other(steps: int) -> Trained:
    """Two models, each with an optimizer of its own, as in a loop over seeds."""
    seeded()
    models, optimizers = {}, []
    for number in range(2):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        for _ in range(steps // 2):
            optimizer.zero_grad()
            residual, boundary = residual_of(model, points()), boundary_of(model)
            (residual + boundary).backward()
            optimizer.step()
        models[f"model{number}"] = model
        optimizers.append(optimizer)
    return Trained(models, optimizers)


def by_hand(steps: int) -> Trained:
    """No optimizer: parameters of a module, moved by hand."""
    seeded()
    net = network()
    for _ in range(steps):
        net.zero_grad()
        residual, boundary = residual_of(net, points()), boundary_of(net)
        (residual + 4.0 * boundary).backward()
        with torch.no_grad():
            for p in net.parameters():
                assert p.grad is not None
                p.sub_(1e-2 * p.grad)
    return Trained({"net": net})


def inverse_problem(steps: int) -> Trained:
    """An unknown coefficient that is no nn.Parameter, and fixed points that are leaves as well."""
    seeded()
    net = network()
    nu = torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.Adam([*net.parameters(), nu], 1e-3)
    x = points().requires_grad_()
    for _ in range(steps):
        optimizer.zero_grad()
        u = net(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        residual = (slope - nu * u).square().mean()
        data = (u - torch.exp(x.detach())).square().mean()
        (residual + data).backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer], tensors={"nu": nu})


def learned_weights(steps: int) -> Trained:
    """Weights from learnable uncertainties (Kendall, Gal and Cipolla, CVPR 2018)."""
    seeded()
    net = network()
    log_variances = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*net.parameters(), log_variances], 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        residual, boundary = residual_of(net, points()), boundary_of(net)
        loss = torch.exp(-log_variances[0]) * residual + torch.exp(-log_variances[1]) * boundary
        loss = loss + log_variances.sum()
        loss.backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer], tensors={"log_variances": log_variances})


class FirstOrder(torch.autograd.Function):
    """A function of the user's whose gradient has no graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0].cos()


def own_function(steps: int) -> Trained:
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        u: Tensor = FirstOrder.apply(net(points()))  # type: ignore[no-untyped-call]
        data = (u - 0.5).square().mean()
        size = u.square().mean()
        (data + 0.1 * size).backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def gradient_penalty(steps: int) -> Trained:
    """A critic whose loss has the gradient of its own output in it."""
    seeded()
    critic = network()
    optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        x = points().requires_grad_()
        score = critic(x)
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        distance = score.mean()
        penalty = (slope.norm(dim=1) - 1).square().mean()
        (distance + 10 * penalty).backward()
        optimizer.step()
    return Trained({"critic": critic}, [optimizer])


def term_taken_again(steps: int) -> Trained:
    """A term that is differentiated in the sum and once more alone."""
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        residual, boundary = residual_of(net, points()), boundary_of(net)
        loss = residual + boundary
        loss.backward(retain_graph=True)
        boundary.backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def steps_in_hooks(steps: int) -> Trained:
    """An optimizer a parameter, which steps as soon as its gradient is there."""
    seeded()
    net = network()
    optimizers: dict[Tensor, torch.optim.SGD] = {
        p: torch.optim.SGD([p], 1e-2) for p in net.parameters()
    }

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(step)
    for _ in range(steps):
        residual, boundary = residual_of(net, points()), boundary_of(net)
        (residual + boundary).backward()
    return Trained({"net": net}, list(optimizers.values()))


def moving_average(steps: int) -> Trained:
    """A copy of the model that follows it, and a scheduler."""
    seeded()
    net = network()
    slow = copy.deepcopy(net)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        residual, boundary = residual_of(net, points()), boundary_of(net)
        (residual + boundary).backward()
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            for p, q in zip(net.parameters(), slow.parameters(), strict=True):
                q.lerp_(p, 0.1)
    return Trained({"net": net, "slow": slow}, [optimizer])


def compiled_module(steps: int) -> Trained:
    seeded()
    net = network()
    fast = torch.compile(net)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        x = points()
        u = fast(x)
        data = F.mse_loss(u, torch.sin(x))
        size = u.square().mean()
        (data + 0.1 * size).backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def compiled_loss(steps: int) -> Trained:
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    @torch.compile
    def loss_of(x: Tensor) -> Tensor:
        u = net(x)
        return F.mse_loss(u, torch.sin(x)) + 0.1 * u.square().mean()

    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(points())
        loss.backward()
        optimizer.step()
    return Trained({"net": net}, [optimizer])


def compiled_without_donated_buffers(steps: int) -> Trained:
    """Compiled code whose backward pass may run more than once."""
    config: Any = torch._functorch.config
    with config.patch(donated_buffer=False):
        return compiled_module(steps)


Terms = dict[str, tuple[str, ...]]

PAIR: Terms = {"": ("residual", "boundary")}
FIT: Terms = {"": ("data", "size")}

LOOPS: dict[str, tuple[Callable[[int], Trained], Expected]] = {
    "plain": (plain, Expected(PAIR, {"residual": 1.0, "boundary": 10.0})),
    "set to zero": (set_to_zero, Expected(PAIR, {"residual": 1.0, "boundary": 2.0})),
    "accumulation": (accumulation, Expected(PAIR, {"residual": 1.0, "boundary": 3.0})),
    "one backward a term": (one_backward_a_term, Expected(PAIR, {"residual": 1, "boundary": 1})),
    "gradient surgery": (gradient_surgery, Expected(PAIR, {"residual": 1, "boundary": 1})),
    "gradient surgery in one line": (
        gradient_surgery_in_one_line,
        Expected({"": ("loss", "loss#2")}, steps=lambda n: n - len(range(2, n, 4))),
    ),
    "L-BFGS": (lbfgs, Expected(PAIR, {"residual": 1.0, "boundary": 5.0})),
    "SGD with a closure": (sgd_with_closure, Expected(PAIR)),
    "closure that fails": (failing_closure, Expected(PAIR)),
    "L-BFGS with micro-batches": (
        lbfgs_with_micro_batches,
        Expected(FIT, {"data": 1.0, "size": 0.1}),
    ),
    "closure that fails midway": (
        closure_that_fails_midway,
        Expected(FIT, steps=lambda n: n - len(range(1, n, 4))),
    ),
    "a term taken again": (
        term_taken_again,
        Expected({"": ("residual", "boundary", "boundary#2")}),
    ),
    "steps in hooks": (steps_in_hooks, Expected(PAIR, adds_up=False)),
    "own function": (own_function, Expected(FIT, has_curvature=False)),
    "gradient penalty": (gradient_penalty, Expected({"": ("distance", "penalty")})),
    "Adam, then L-BFGS": (adam_then_lbfgs, Expected(PAIR)),
    "GradScaler": (scaled, Expected(FIT, {"data": 1.0, "size": 0.5}, adds_up=False)),
    "skipped steps": (
        overflowing,
        Expected({"": ("data",)}, steps=lambda n: n - len(range(3, n, 7)), adds_up=False),
    ),
    "clipping": (clipped, Expected(PAIR)),
    "checkpointing": (checkpointed, Expected(FIT, {"data": 1.0, "size": 0.1})),
    "reentrant checkpointing": (
        checkpointed_reentrant,
        Expected(FIT, has_curvature=False, adds_up=False),
    ),
    "dropout and batch norm": (noisy_layers, Expected(FIT)),
    "frozen, shared, unused": (odd_parameters, Expected(PAIR)),
    "late parameters": (late_parameters, Expected(FIT)),
    "several dtypes": (several_dtypes, Expected(FIT)),
    "not finite": (not_finite, Expected(PAIR, adds_up=False)),
    "explicit gradient": (explicit_gradient, Expected({"": ("errors",)})),
    "exceptions": (failing, Expected(PAIR, skipped=lambda step: step % 5 == 4)),
    "hooks": (hooked, Expected(FIT)),
    "forked workers": (workers, Expected(PAIR)),
    "default device": (default_device, Expected(PAIR)),
    "device contexts": (device_contexts, Expected(PAIR)),
    "GAN": (
        gan,
        Expected(
            {
                "discriminator": ("loss_real", "loss_fake"),
                "generator": ("loss_generator",),
            }
        ),
    ),
    "two optimizers": (two_optimizers, Expected(FIT)),
    "one model after the other": (
        one_after_the_other,
        Expected(
            {"model0": ("residual", "boundary"), "model": ("residual", "boundary")},
            steps=lambda n: n // 2,
        ),
    ),
    "by hand": (by_hand, Expected(PAIR, {"residual": 1.0, "boundary": 4.0})),
    "inverse problem": (inverse_problem, Expected({"": ("residual", "data")})),
    "learned weights": (
        learned_weights,
        Expected({"": ("residual", "boundary", "log_variances.sum()")}),
    ),
    "moving average": (moving_average, Expected(PAIR)),
}

# torch.compile takes seconds, and needs a C++ compiler.
COMPILED: dict[str, tuple[Callable[[int], Trained], Expected]] = {
    "compiled module": (compiled_module, Expected(FIT, has_curvature=False, adds_up=False)),
    "compiled without donated buffers": (
        compiled_without_donated_buffers,
        Expected(FIT, {"data": 1.0, "size": 0.1}, has_curvature=False),
    ),
    "compiled loss": (
        compiled_loss,
        Expected({"": ("loss",)}, has_curvature=False, adds_up=False),
    ),
}
