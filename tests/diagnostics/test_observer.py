"""An observer changes nothing: the state of a training is the same, bit by bit, after each call."""

from __future__ import annotations

import dataclasses
import inspect
import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import Tensor

import gradpath.diagnostics as diagnostics
from gradpath.diagnostics import (
    PRESETS,
    ForwardRecording,
    GaussNewton,
    GradientHistogram,
    Hessian,
    MatrixOperator,
    Measurements,
    MissingPackageError,
    Observation,
    ParameterLayout,
    Preconditioned,
    SymmetricOperator,
    TangentKernelOperator,
    TermGradients,
    adam_limit,
    alignment,
    cancellation,
    conflict,
    cosine_matrix,
    diagnose,
    distances_by_layer,
    extreme_eigenvalues,
    find_terms,
    gradient_mismatch,
    gradient_statistics,
    histograms_by_layer,
    imbalance,
    magnitude_distance,
    momentum_limit,
    optimizer_stability,
    power_iteration,
    predicted_change,
    signed_log_edges,
    spectral_density,
    tangent_kernel,
    term_gradients,
    trace,
    weighting,
)

from .hooked_training import Network, Training, hooked_training, losses, points
from .state_digest import Digest, Watched, bits, changes

Measurement = Callable[[Training], object]


def products(operator: SymmetricOperator) -> None:
    """Multiplies in every way that an operator has."""
    operator.matvec(torch.ones(operator.size))
    operator.matmat(torch.ones(operator.size, 2))
    operator.to_scipy().matvec(np.ones(operator.size, dtype=np.float32))
    if isinstance(operator, Hessian):
        block = operator.block(operator.layout.layers[0])
        block.matvec(torch.ones(block.size))


def loss_of(net: Any) -> Tensor:
    _, residual, boundary = losses(net, points())
    return residual.square().mean() + 10.0 * boundary


def loss_by_name(parameters: dict[str, Tensor]) -> Tensor:
    """A loss of random inputs, as a function of the parameters alone."""
    noise = torch.rand(4, 2)
    hidden = torch.tanh(noise @ parameters["first.weight"].T + parameters["first.bias"])
    return hidden.square().mean()


def parameters(t: Training) -> dict[str, Tensor]:
    return dict(t.net.named_parameters())


def hessian(t: Training) -> Hessian:
    return Hessian.of_loss(t.loss, t.layout)


def gradients(t: Training) -> TermGradients:
    return term_gradients(t.terms, t.layout)


def term_hessians(t: Training) -> list[Hessian]:
    return [Hessian.of_loss(term, t.layout) for term in t.terms]


def weights_of_every_preset(t: Training) -> None:
    grads = gradients(t)
    traces = dict.fromkeys(grads.terms, 1.0)
    seen = Observation(0, grads, t.layout, losses=[1.0, 1.0], traces=traces)
    for name, preset in PRESETS.items():
        has_reference = "reference" in preset.rule.__dataclass_fields__
        settings = {"reference": grads.terms[0]} if has_reference else {}
        # Those of packages that are not installed cannot disturb anything.
        with suppress(MissingPackageError):
            weighting(name, **settings).update(seen)


MEASUREMENTS: dict[str, Measurement] = {
    "ForwardRecording": lambda t: ForwardRecording().value(t.terms.root),
    "GaussNewton": lambda t: products(GaussNewton(t.loss, [t.residual], t.layout)),
    "GradientHistogram.of": lambda t: GradientHistogram.of(t.net.first.weight).to_bytes(),
    "Hessian.by_differences": lambda t: products(Hessian.by_differences(loss_of, t.net)),
    "Hessian.of_function": lambda t: products(Hessian.of_function(loss_by_name, parameters(t))),
    "Hessian.of_loss": lambda t: products(hessian(t)),
    "Hessian.of_loss of a term": lambda t: list(map(products, term_hessians(t))),
    "Hessian.of_loss of all terms": lambda t: products(Hessian.of_loss(t.terms, t.layout)),
    "MatrixOperator": lambda t: MatrixOperator(torch.eye(2)).matvec(torch.ones(2)),
    "ParameterLayout": lambda t: t.layout.unflatten(ParameterLayout.of(t.net).flatten()),
    "Preconditioned": lambda t: Preconditioned(
        hessian(t), torch.full((t.layout.size,), 2.0)
    ).matvec(torch.ones(t.layout.size)),
    "TangentKernelOperator": lambda t: TangentKernelOperator([t.residual], t.layout).matvec(
        torch.ones(10)
    ),
    "TermGradients": lambda t: TermGradients.of(torch.ones(1, 2), ("a",)),
    "Weighting of weighting": weights_of_every_preset,
    "adam_limit": lambda t: adam_limit(1e-3),
    "alignment": lambda t: alignment(gradients(t)),
    "cancellation": lambda t: cancellation(gradients(t), [1.0, 10.0]),
    "conflict": lambda t: conflict(gradients(t)),
    "cosine_matrix": lambda t: cosine_matrix(gradients(t)),
    "diagnose": lambda t: diagnose(Measurements(t.terms.names)),
    "extreme_eigenvalues": lambda t: extreme_eigenvalues(hessian(t), vectors=True, max_products=8),
    "find_terms": lambda t: find_terms(t.loss),
    "gradient_mismatch": lambda t: gradient_mismatch(t.terms, gradients(t), t.layout),
    "gradient_statistics": lambda t: gradient_statistics(gradients(t), t.layout),
    "distances_by_layer": lambda t: distances_by_layer(
        histograms_by_layer(gradients(t), t.layout), reference=t.terms[0].name
    ),
    "magnitude_distance": lambda t: magnitude_distance(
        *(GradientHistogram.of(p) for p in list(t.net.parameters())[:2])
    ),
    "histograms_by_layer": lambda t: histograms_by_layer(gradients(t), t.layout),
    "imbalance": lambda t: imbalance(gradients(t), t.layout, reference=0),
    "momentum_limit": lambda t: momentum_limit(1e-3),
    "optimizer_stability": lambda t: optimizer_stability(t.optimizer, t.layout),
    "OptimizerStability.operator": lambda t: (
        optimizer_stability(t.optimizer, t.layout).operator(hessian(t)) if t.steps else None
    ),
    "power_iteration": lambda t: power_iteration(hessian(t), max_products=5),
    "predicted_change": lambda t: predicted_change(
        gradients(t), torch.ones(t.layout.size), term_hessians(t)
    ),
    "signed_log_edges": lambda t: signed_log_edges(linear_below=1e-6, limit=1.0),
    "spectral_density": lambda t: spectral_density(hessian(t), probes=1, steps=5),
    "tangent_kernel": lambda t: tangent_kernel({"residual": t.residual}, t.layout),
    "tangent_kernel estimated": lambda t: tangent_kernel(
        {"residual": t.residual}, t.layout, exact_points=2, products=4
    ),
    "term_gradients": lambda t: gradients(t),
    "term_gradients of losses": lambda t: term_gradients({"a": t.residual}, t.layout),
    "to_scipy": lambda t: eigsh(hessian(t).to_scipy(), k=1, ncv=6, tol=0.1),
    "trace": lambda t: trace(hessian(t), products=6),
    "weighting": lambda t: weighting("siam"),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_nothing_is_changed_by(name: str) -> None:
    with hooked_training() as training:
        before = training.watched.digest()
        MEASUREMENTS[name](training)
        assert changes(before, training.watched.digest()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # PyTorch's own use of torch.jit
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_nothing_is_changed_by_compiling_a_function() -> None:
    def loss(parameters: dict[str, Tensor]) -> Tensor:
        hidden = torch.tanh(parameters["first.weight"] + parameters["first.bias"][:, None])
        return hidden.square().mean()

    with hooked_training() as training:
        before = training.watched.digest()
        products(Hessian.of_function(loss, parameters(training), compiled=True))
        assert changes(before, training.watched.digest()) == []


def test_every_public_name_that_does_something_is_measured_here() -> None:
    measured = {name.replace(".", " ").split()[0] for name in MEASUREMENTS}
    assert {
        name
        for name in set(dir(diagnostics)) - measured
        if does_something(getattr(diagnostics, name))
    } == set()


def does_something(public: object) -> bool:
    """Whether it is more than a name for a result, an error or a kind of things."""
    if inspect.isclass(public):
        is_kind = inspect.isabstract(public) or dataclasses.is_dataclass(public)
        return not is_kind and not issubclass(public, Exception)
    return callable(public)


def test_the_digest_notices_what_a_naive_observer_changes() -> None:
    """Without silence, the same derivatives run hooks and write to retained gradients."""
    with hooked_training() as training:
        before = training.watched.digest()
        torch.autograd.grad(training.loss, list(training.net.parameters()), retain_graph=True)
        changed = changes(before, training.watched.digest())
    assert {"calls of hooks", "u: gradient bits", "loss: gradient bits"} <= set(changed)
    with hooked_training() as training:
        before = training.watched.digest()
        training.net.eval()
        training.net(training.x)
        torch.randn(1)
        changed = changes(before, training.watched.digest())
    assert {"net.norm: training", "calls of hooks", "random numbers of torch"} <= set(changed)


def test_the_backward_pass_of_the_user_runs_each_hook_as_if_never_measured() -> None:
    with hooked_training() as alone:
        alone.loss.backward()
        calls, gradients_alone = alone.watched.calls, gradient_bits(alone)
    with hooked_training() as observed:
        for measure in MEASUREMENTS.values():
            measure(observed)
        observed.loss.backward()
        assert observed.watched.calls == calls
        assert gradient_bits(observed) == gradients_alone


def gradient_bits(training: Training) -> list[bytes]:
    return [bits(p.grad) for p in training.net.parameters() if p.grad is not None]


@pytest.mark.slow
def test_training_with_all_measurements_at_every_step_ends_in_the_same_bits() -> None:
    alone, observed = trained(observe=False), trained(observe=True)
    assert alone["calls of hooks"]
    assert len(alone) > 50
    assert changes(alone, observed) == []


def trained(observe: bool, steps: int = 20) -> Digest:
    """Trains the network of `hooked_training` with hooks made anew at every step."""
    torch.manual_seed(5)
    np.random.seed(5)
    net = Network()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    watched = Watched({"net": net}, {"adam": optimizer})
    net.middle.register_full_backward_hook(watched.counting("middle"))
    for _ in range(steps):
        # Random points, from two of the global generators.
        x = (torch.rand(10, 2) + float(np.random.rand())).requires_grad_()
        with ForwardRecording() if observe else nullcontext():
            u, residual, boundary = losses(net, x)
            handle = residual.register_hook(watched.counting("residual"))
            u.retain_grad()
            loss = residual.square().mean() + 10.0 * boundary
        if observe:
            training = Training(net, optimizer, x, u, residual, boundary, loss, watched)
            for measure in MEASUREMENTS.values():
                measure(training)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        handle.remove()
    # The bits, not the objects, are those of another training.
    kept = (
        "bits",
        "version",
        "calls of hooks",
        "random numbers of torch",
        "random numbers of numpy",
    )
    return {name: value for name, value in watched.digest().items() if name.endswith(kept)}
