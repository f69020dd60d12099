"""A gradient reaches `.grad` as a backward pass would bring it there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from gradpath.diagnostics import ParameterLayout, term_gradients
from gradpath.diagnostics.leaf_gradients import accumulate
from tests.diagnostics.diagnosed import linear, network


def grad_of(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def loss_of(net: nn.Module) -> Tensor:
    return (
        net(torch.linspace(-1, 1, 8).reshape(4, 2).to(next(net.parameters()).dtype)).square().mean()
    )


def bits(net: nn.Module) -> list[bytes | None]:
    return [None if p.grad is None else p.grad.numpy().tobytes() for p in net.parameters()]


CALLS: list[tuple[str, Tensor]] = []


def hook(gradient: Tensor) -> Tensor:
    CALLS.append(("tensor", gradient.clone()))
    return 2 * gradient


def after(parameter: Tensor) -> None:
    assert parameter.grad is not None
    CALLS.append(("after", parameter.grad.clone()))


def at_node(_: object, gradients: tuple[Tensor, ...]) -> None:
    CALLS.append(("node", gradients[0].clone()))


KEPT: list[object] = []  # a node of a leaf lives as long as somebody holds it


def hooked_node(net: nn.Sequential) -> None:
    node = get_gradient_edge(linear(net, 0).weight).node
    node.register_hook(at_node)
    KEPT.append(node)


LISTENERS: dict[str, Callable[[nn.Sequential], object]] = {
    "nobody": lambda net: None,
    "hook": lambda net: linear(net, 0).weight.register_hook(hook),
    "hook after accumulation": lambda net: linear(net, 2).bias.register_post_accumulate_grad_hook(
        after
    ),
    "hook of the leaf's node": hooked_node,
    "frozen later": lambda net: linear(net, 0).bias.requires_grad_(False),
}


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("listener", list(LISTENERS))
def test_grad_and_hooks_are_those_of_a_backward_pass(listener: str, passes: int) -> None:
    left = []
    for ours in (False, True):
        net = network(2, 5, 1)
        CALLS.clear()
        if listener != "frozen later":
            KEPT.append(LISTENERS[listener](net))
        else:
            LISTENERS[listener](net)
        layout = ParameterLayout.of(net)
        for _ in range(passes):
            loss = loss_of(net)
            if ours:
                rows = term_gradients({"loss": loss}, layout)
                accumulate(layout, rows.as_subclass(Tensor)[0])
            else:
                loss.backward()
        left.append((bits(net), [(kind, seen.numpy().tobytes()) for kind, seen in CALLS]))
    KEPT.clear()
    assert left[0] == left[1]
    assert bool(left[0][1]) == ("hook" in listener)


def test_each_grad_owns_its_memory() -> None:
    net = network(2, 5, 1)
    layout = ParameterLayout.of(net)
    gradient = term_gradients({"loss": loss_of(net)}, layout).as_subclass(Tensor)[0]
    accumulate(layout, gradient)
    gradient.zero_()
    for parameter in net.parameters():
        assert not grad_of(parameter)._is_view()
        assert grad_of(parameter).any()


def test_a_memory_format_of_the_parameter_is_kept() -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3)
    net.weight = nn.Parameter(net.weight.detach().to(memory_format=torch.channels_last))
    layout = ParameterLayout.of(net)
    loss = net(torch.randn(1, 3, 5, 5)).square().mean()
    accumulate(layout, term_gradients({"loss": loss}, layout).as_subclass(Tensor)[0])
    assert not net.weight.is_contiguous()
    assert grad_of(net.weight).stride() == net.weight.stride()


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph")
def test_a_grad_with_a_graph_of_its_own_is_added_to() -> None:
    net = network(2, 5, 1)
    layout = ParameterLayout.of(net)
    loss_of(net).backward(create_graph=True)
    once = [grad_of(parameter).detach().clone() for parameter in net.parameters()]
    accumulate(layout, layout.flatten(once))
    for parameter, gradient in zip(net.parameters(), once, strict=True):
        torch.testing.assert_close(grad_of(parameter).detach(), 2 * gradient)
        parameter.grad = None  # which refers to the parameter


class Seen(TorchFunctionMode):
    """Counts what it is asked for."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_mode_of_the_user_sees_no_more_of_it_than_of_a_backward_pass() -> None:
    net = network(2, 5, 1)
    layout = ParameterLayout.of(net)
    gradient = term_gradients({"loss": loss_of(net)}, layout).as_subclass(Tensor)[0]
    with Seen() as mode:
        accumulate(layout, gradient)
    # Where hooks of other tests are alive, the backward pass of the leaves itself.
    assert mode.count <= 1
    assert torch.equal(layout.flatten([p.grad for p in layout.parameters]), gradient)
