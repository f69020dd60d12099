"""What PyTorch cannot differentiate is told in one sentence, and the mend that it names works."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from gradpath.diagnostics import (
    GaussNewton,
    GraphError,
    Hessian,
    NotTwiceDifferentiableError,
    ParameterLayout,
    term_gradients,
)
from gradpath.diagnostics.graph_errors import explain
from gradpath.diagnostics.live_graph import differentiate

from .dense_hessian import dense, dense_hessian_of_model
from .once_differentiable_losses import ONCE, Net, SineOnce, checkpointed, plain, points
from .state_digest import Watched, changes

needs_compiler = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler"),
    # PyTorch's own use of torch.jit.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


@pytest.mark.parametrize("name", ONCE)
class TestNotTwiceDifferentiable:
    def test_is_told_in_one_sentence(self, name: str) -> None:
        case, net = ONCE[name], Net()
        layout = ParameterLayout.of(net)
        with pytest.raises(NotTwiceDifferentiableError) as caught:
            Hessian.of_loss(case.loss(net), layout).matvec(torch.ones(layout.size))
        sentence = str(caught.value)
        assert case.cause in sentence
        assert case.mend in sentence
        assert "Hessian.by_differences" in sentence
        assert sentence.endswith(".")
        assert "\n" not in sentence

    def test_the_mend_works(self, name: str) -> None:
        case, net = ONCE[name], Net()
        H = Hessian.of_loss(case.mended(net), ParameterLayout.of(net))
        truth = dense_hessian_of_model(case.mended, net)
        torch.testing.assert_close(dense(H), truth, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(case.loss(net), case.mended(net))

    def test_finite_differences_work(self, name: str) -> None:
        case, net = ONCE[name], Net()
        H = Hessian.by_differences(case.loss, net)
        truth = dense_hessian_of_model(case.mended, net)
        torch.testing.assert_close(dense(H), truth, rtol=1e-5, atol=1e-6)
        assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("inner_alone", [False, True])
def test_no_gradient_silently_lacks_the_parameters_of_a_reentrant_checkpoint(
    inner_alone: bool,
) -> None:
    net = Net()
    loss = checkpointed(True, inner_alone)(net)
    with pytest.raises(NotTwiceDifferentiableError, match="use_reentrant=False"):
        term_gradients({"loss": loss}, ParameterLayout.of(net))
    loss.backward()
    assert net.second.bias.grad is not None


def test_differences_through_a_reentrant_checkpoint_leave_other_tensors_alone() -> None:
    net, coefficient = Net(), torch.ones((), dtype=torch.float64, requires_grad=True)
    calls: list[str] = []
    coefficient.register_hook(lambda _: calls.append("hook"))
    coefficient.register_post_accumulate_grad_hook(lambda _: calls.append("accumulated"))
    H = Hessian.by_differences(lambda m: checkpointed(True)(m) * coefficient, net)
    H.matvec(torch.ones(H.size))
    assert (coefficient.grad, calls) == (None, [])


class TestFreedAndChanged:
    def test_freed(self) -> None:
        net = Net()
        layout = ParameterLayout.of(net)
        loss = plain(net)
        H = Hessian.of_loss(loss, layout)
        loss.backward(retain_graph=True)
        H.matvec(torch.ones(H.size))
        loss.backward()
        for measure in (
            lambda: H.matvec(torch.ones(H.size)),
            lambda: Hessian.of_loss(loss, layout),
            lambda: term_gradients({"loss": loss}, layout),
        ):
            with pytest.raises(GraphError, match=r"freed: measure before .* retain_graph=True\."):
                measure()

    def test_changed_by_the_optimizer(self) -> None:
        net = Net()
        layout = ParameterLayout.of(net)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        loss = plain(net)
        H = Hessian.of_loss(loss, layout)
        loss.backward(retain_graph=True)
        H.matvec(torch.ones(H.size))
        optimizer.step()
        for measure in (
            lambda: H.matvec(torch.ones(H.size)),
            lambda: Hessian.of_loss(loss, layout),
        ):
            with pytest.raises(GraphError, match="measure between the forward pass and the step"):
                measure()

    def test_frozen_since_the_layout_was_made(self) -> None:
        net = Net()
        layout = ParameterLayout.of(net)
        net.first.bias.requires_grad_(False)
        with pytest.raises(GraphError, match="make a new ParameterLayout"):
            Hessian.of_loss(plain(net), layout)
        again = ParameterLayout.of(net)
        assert Hessian.of_loss(plain(net), again).size == layout.size - 3


class TestCompiled:
    pytestmark = needs_compiler

    @pytest.fixture(autouse=True)
    def fresh(self) -> Iterator[None]:
        torch.compiler.reset()
        yield
        torch.compiler.reset()

    def test_a_compiled_module(self) -> None:
        net = Net()
        compiled: Any = torch.compile(net)
        layout = ParameterLayout.of(net)
        truth = dense_hessian_of_model(plain, net)
        with pytest.raises(NotTwiceDifferentiableError, match=r"_orig_mod.*by_differences"):
            Hessian.of_loss(plain(compiled), layout).matvec(torch.ones(layout.size))
        mended = Hessian.of_loss(plain(compiled._orig_mod), layout)
        torch.testing.assert_close(dense(mended), truth)
        differences = Hessian.by_differences(plain, compiled)
        torch.testing.assert_close(dense(differences), truth, rtol=1e-5, atol=1e-7)

    def test_a_compiled_function_that_can_run_backward_once(self) -> None:
        net = Net()
        layout = ParameterLayout.of(net)
        loss_of = torch.compile(lambda: plain(net))
        loss_of().backward()  # now its backward pass is compiled to give its buffers away
        with pytest.raises(GraphError, match="donated_buffer = False"):
            term_gradients({"loss": loss_of()}, layout)
        loss_of().backward()

    def test_code_from_the_cache_that_would_overwrite_what_it_has_saved(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With donated buffers off, PyTorch runs it twice without a word, and wrongly."""
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        layout = ParameterLayout.of(net)
        x = torch.linspace(0, 1, 16)[:, None]

        def losses() -> dict[str, Tensor]:
            torch.compiler.reset()
            u = torch.compile(net)(x)
            return {"data": (u - x).square().mean(), "size": u.square().mean()}

        def gradient(terms: dict[str, Tensor]) -> Tensor:
            net.zero_grad()
            (terms["data"] + terms["size"]).backward()
            return layout.flatten([parameter.grad for parameter in net.parameters()])

        expected = gradient(losses())
        with functorch_config.patch(donated_buffer=False):
            live = losses()
            first, second = (
                layout.flatten(
                    torch.autograd.grad(live["data"], [*net.parameters()], retain_graph=True)
                )
                for _ in range(2)
            )
            if torch.allclose(first, second):
                pytest.skip("This PyTorch has no such code.")
            live = losses()
            found = term_gradients(live, layout)
            torch.testing.assert_close(found.sum(dim=0).as_subclass(Tensor), expected)
            assert torch.equal(gradient(live), expected)

    def test_donated_buffers_switched_off(self) -> None:
        net = Net()
        layout = ParameterLayout.of(net)
        with torch._functorch.config.patch(donated_buffer=False):
            loss_of = torch.compile(lambda: plain(net))
            loss_of().backward()
            gradients = term_gradients({"loss": loss_of()}, layout)
        expected = term_gradients({"loss": plain(net)}, layout)
        torch.testing.assert_close(torch.Tensor(gradients), torch.Tensor(expected))

    def test_differences_of_a_compiled_loss(self) -> None:
        """Each gradient runs its backward pass once, so buffers may be given away."""
        net = Net()
        H = Hessian.by_differences(torch.compile(plain), net)
        truth = dense_hessian_of_model(plain, net)
        torch.testing.assert_close(dense(H), truth, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "message",
    [
        "the derivative for '_cudnn_rnn_backward' is not implemented. Double backwards is not "
        "supported for CuDNN RNNs due to limitations in the CuDNN API. To run double backwards, "
        "please disable the CuDNN backend temporarily while running the forward pass of your RNN.",
        "derivative for aten::_cudnn_rnn_backward is not implemented",
    ],
)
def test_a_recurrent_layer_of_cudnn(message: str) -> None:
    explained = explain(NotImplementedError(message))
    assert isinstance(explained, NotTwiceDifferentiableError)
    assert "torch.backends.cudnn.flags(enabled=False)" in str(explained)


def test_a_checkpoint_of_older_versions() -> None:
    message = "Checkpointing is not compatible with .grad() or when an `inputs` parameter is passed"
    assert "use_reentrant=False" in str(explain(RuntimeError(message)))


class Failing(Function):
    message = ""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise NotImplementedError(Failing.message)


@pytest.mark.parametrize(
    "message", ["the case of odd sizes is not implemented", "scaled_dot_product wants three heads"]
)
def test_errors_of_the_users_own_pass_unchanged(
    message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Failing, "message", message)
    x = torch.ones(1, requires_grad=True)
    loss: Tensor = Failing.apply(x)  # type: ignore[no-untyped-call]
    with pytest.raises(NotImplementedError, match=message):
        differentiate([loss], [x])


@contextmanager
def mode(name: str) -> Iterator[None]:
    """A mode that the caller may be under."""
    modes: dict[str, Callable[[], Any]] = {
        "no_grad": torch.no_grad,
        "inference_mode": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "anomaly detection": torch.autograd.detect_anomaly,
    }
    with modes[name]():
        yield


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", ["no_grad", "inference_mode", "autocast", "anomaly detection"])
def test_the_callers_modes_have_no_part_in_it(name: str) -> None:
    net = Net().float()
    layout = ParameterLayout.of(net)
    loss = net(points().float()).square().mean()
    vector = torch.linspace(-1, 1, layout.size)
    expected = Hessian.of_loss(loss, layout).matvec(vector)
    gradients = term_gradients({"loss": loss}, layout)
    with mode(name):
        H = Hessian.of_loss(loss, layout)
        inside = H.matvec(vector.clone())
        again = term_gradients({"loss": loss}, layout)
    assert torch.equal(inside, expected)
    assert torch.equal(H.matvec(vector), expected)
    assert torch.equal(torch.Tensor(again), torch.Tensor(gradients))
    assert not torch.is_anomaly_enabled()


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_product_that_is_not_finite_is_no_error_under_anomaly_detection() -> None:
    x = torch.zeros(2, requires_grad=True)
    with torch.autograd.detect_anomaly():
        H = Hessian.of_loss((x**1.5).sum(), ParameterLayout.of(x))
        assert not H.matvec(torch.ones(2)).isfinite().any()
        assert torch.is_anomaly_enabled()


class Noisy(Function):
    """A backward pass that draws random numbers, as stochastic rounding does."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * torch.rand_like(gradient)


def test_random_numbers_of_a_backward_pass_are_put_back() -> None:
    x = torch.ones(3, requires_grad=True)
    loss: Tensor = Noisy.apply(x).sum()  # type: ignore[no-untyped-call]
    state = torch.get_rng_state()
    first, second = differentiate([loss], [x]), differentiate([loss], [x])
    assert torch.equal(torch.get_rng_state(), state)
    assert first[0] is not None
    assert second[0] is not None
    assert torch.equal(first[0], second[0])


def test_what_a_checkpoint_computes_again_leaves_no_trace() -> None:
    """Batch norm would count its batch again, and dropout draw another mask."""
    layer = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
    layer[0].register_forward_hook(lambda *arguments: 2 * arguments[-1])  # part of the function
    x = torch.rand(5, 2)
    torch.manual_seed(1)
    plain_loss = layer(x).square().mean()
    torch.manual_seed(1)
    loss = checkpoint(layer, x, use_reentrant=False).square().mean()
    watched = Watched({"layer": layer})
    layout = ParameterLayout.of(layer)
    before = watched.digest()
    H = Hessian.of_loss(loss, layout)
    product = H.matvec(torch.ones(H.size))
    assert changes(before, watched.digest()) == []
    expected = Hessian.of_loss(plain_loss, layout).matvec(torch.ones(H.size))
    torch.testing.assert_close(product, expected)


def test_what_is_not_reached_is_none() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    gradient = differentiate([x.sum()], [x, y])
    assert gradient[1] is None


def test_several_vectors_at_once() -> None:
    x = torch.linspace(0, 1, 4, requires_grad=True)
    output = x.sin() * x.sum()
    rows = torch.eye(4)
    (batched,) = differentiate([output], [x], [rows], batched=True)
    assert batched is not None
    for row, together in zip(rows, batched, strict=True):
        (alone,) = differentiate([output], [x], [row])
        assert alone is not None
        torch.testing.assert_close(together, alone)


def test_a_custom_loss_that_can_be_differentiated_once_has_no_gauss_newton_matrix() -> None:
    net = Net()
    y = net(points())
    loss: Tensor = SineOnce.apply(y).square().sum()  # type: ignore[no-untyped-call]
    with pytest.raises(NotTwiceDifferentiableError, match="@once_differentiable"):
        GaussNewton(loss, y, ParameterLayout.of(net)).matvec(torch.ones(21))
