"""Hooks of every kind, registered at odd moments, are silent and afterwards what they were."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils.hooks import RemovableHandle

from gradpath.diagnostics import Hessian, ParameterLayout, hooks
from gradpath.diagnostics.hooks import quiet
from gradpath.diagnostics.live_graph import differentiate

from .hooked_graphs import KINDS, Doubled, Graph, doubled_by_hand, graph
from .state_digest import bits


def measure(g: Graph) -> list[Tensor]:
    """Takes a gradient, and products with the Hessian."""
    H = Hessian.of_loss(g.loss, ParameterLayout.of(*g.leaves))
    gradient = differentiate([g.loss], g.leaves)
    edges = [get_gradient_edge(leaf) for leaf in g.leaves]
    return [
        *(t for t in (*gradient, *differentiate([g.loss], edges)) if t is not None),
        H.matvec(torch.ones(H.size)),
    ]


@pytest.fixture
def first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forgets what gradpath knows of the hooks in this process."""
    monkeypatch.setattr(hooks, "_census", hooks._Census())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("already_used", [False, True])
def test_silent_and_afterwards_what_it_was(
    kind: str, already_used: bool, request: pytest.FixtureRequest
) -> None:
    if not already_used:
        request.getfixturevalue("first_use")
    untouched, g = KINDS[kind](), KINDS[kind]()
    untouched.loss.backward()
    before = len(g.calls)
    measure(g)
    assert g.calls[before:] == []
    g.loss.backward()
    assert g.calls == untouched.calls
    for ours, theirs in zip(g.leaves, untouched.leaves, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_the_derivatives_are_those_without_hooks() -> None:
    plain = measure(graph())
    for kind in ("leaf", "inner_tensor", "one_that_changes_the_gradient", "node"):
        for ours, theirs in zip(measure(KINDS[kind]()), plain, strict=True):
            assert torch.equal(ours, theirs)


class TestMoments:
    """When a hook is registered makes no difference."""

    def test_between_two_calls(self) -> None:
        g = graph()
        for round_ in range(3):
            measure(g)
            g.inner.register_hook(g.counting(f"hook {round_}"))
        measure(g)
        assert g.calls == []
        g.loss.backward()
        assert g.calls == ["hook 0", "hook 1", "hook 2"]

    def test_on_a_graph_that_was_not_the_one_measured(self) -> None:
        old, other = graph(), graph()
        old.inner.register_hook(old.counting("old"))
        for _ in range(3):
            measure(graph())
        measure(old)
        other.inner.register_hook(other.counting("other"))
        measure(graph())
        measure(other)
        assert old.calls == other.calls == []
        old.loss.backward()
        other.loss.backward()
        assert (old.calls, other.calls) == (["old"], ["other"])

    def test_on_a_leaf_that_was_in_no_graph_measured_before(self) -> None:
        g = graph()
        g.leaves[0].register_hook(g.counting("leaf"))
        measure(graph())
        differentiate([g.loss], [get_gradient_edge(leaf) for leaf in g.leaves])
        assert g.calls == []

    def test_on_a_leaf_measured_as_a_tensor_first_and_as_an_edge_later(
        self, first_use: None
    ) -> None:
        g = graph()
        g.leaves[0].register_hook(g.counting("leaf"))
        differentiate([g.loss], g.leaves)
        again = g.leaves[0].square().sum()
        differentiate([again], [get_gradient_edge(g.leaves[0])])
        assert g.calls == []

    def test_inside_another_hook(self) -> None:
        g = graph()

        def register(_: Tensor) -> None:
            g.inner.register_hook(g.counting("registered by a hook"))

        handle = g.inner.register_hook(register)
        g.loss.backward(retain_graph=True)
        handle.remove()
        measure(g)
        assert g.calls == []
        g.loss.backward()
        assert g.calls == ["registered by a hook"]

    def test_by_code_that_runs_inside_our_backward_pass(self, monkeypatch: Any) -> None:
        g = graph()
        kept = g.inner.register_hook(g.counting("kept"))
        removed = g.inner.register_hook(g.counting("removed meanwhile"))
        g.loss = g.loss + doubled_by_hand(g.leaves[0]).sum()

        def meddle() -> None:
            removed.remove()
            if len(added) == 0:
                added.append(g.inner.register_hook(g.counting("added meanwhile")))

        added: list[RemovableHandle] = []
        monkeypatch.setattr(Doubled, "during_backward", staticmethod(meddle))
        differentiate([g.loss], g.leaves)
        monkeypatch.setattr(Doubled, "during_backward", staticmethod(lambda: None))
        g.calls.clear()
        g.loss.backward()
        assert g.calls == ["kept", "added meanwhile"]
        assert list(kept.hooks_dict_ref()) == [kept.id, added[0].id]

    def test_after_the_handle_object_was_dropped(self) -> None:
        g = graph()
        handle = g.inner.register_hook(g.counting("dropped"))
        reference = weakref.ref(handle)
        del handle
        assert reference() is None
        measure(g)
        assert g.calls == []
        g.loss.backward()
        assert g.calls == ["dropped"]

    def test_and_the_users_own_backward_pass_fails(self) -> None:
        g = graph()
        g.inner.register_hook(g.counting("before"))

        def fail(_: Tensor) -> None:
            raise ValueError("a hook of the user's")

        handle = g.inner.register_hook(fail)
        measure(g)
        with pytest.raises(ValueError, match="a hook of the user's"):
            g.loss.backward(retain_graph=True)
        measure(g)
        assert g.calls == ["before"]
        handle.remove()
        g.loss.backward()
        assert g.calls == ["before", "before"]


class TestQuietBlocks:
    def test_put_hooks_back_after_an_exception(self) -> None:
        g = graph()
        g.inner.retain_grad()
        handle = g.inner.register_hook(g.counting("inner"))
        before = list(handle.hooks_dict_ref().items())

        def fail() -> None:
            with quiet([g.loss], g.leaves):
                torch.autograd.grad(g.loss, g.leaves, retain_graph=True)
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert list(handle.hooks_dict_ref().items()) == before
        assert (g.calls, g.inner.grad, hooks.is_ours()) == ([], None, False)

    def test_nest(self) -> None:
        g, other = graph(), graph()
        g.inner.register_hook(g.counting("outer"))
        with quiet([g.loss], g.leaves):
            other.inner.register_hook(other.counting("inner"))
            with quiet([other.loss], other.leaves):
                torch.autograd.grad(other.loss, other.leaves, retain_graph=True)
            torch.autograd.grad(g.loss, g.leaves, retain_graph=True)
            measure(g)
        assert g.calls == other.calls == []
        g.loss.backward()
        other.loss.backward()
        assert (g.calls, other.calls) == (["outer"], ["inner"])

    def test_leave_alone_what_is_no_hook_of_a_graph(self, first_use: None) -> None:
        layer, calls = nn.Linear(2, 2), list[str]()
        layer.register_forward_hook(lambda *_: calls.append("forward"))
        table = {"by number": OrderedDict({0: abs, 1: len})}
        numbers = OrderedDict({0: 1.0, 1: 2.0})
        g = graph()
        g.inner.register_hook(g.counting("inner"))
        with quiet([g.loss], g.leaves):
            layer(torch.ones(2))
            assert list(table["by number"].values()) == [abs, len]
            assert list(numbers.values()) == [1.0, 2.0]
        assert calls == ["forward"]

    def test_search_only_when_a_hook_was_registered(self, monkeypatch: Any) -> None:
        measure(graph())

        def search(*_: object) -> list[Any]:
            raise AssertionError("searched")

        monkeypatch.setattr(hooks, "search", search)
        for _ in range(3):
            measure(graph())
        g = graph()
        g.leaves[0].register_hook(g.counting("a leaf shows its own"))
        assert g.inner.grad_fn is not None
        g.inner.grad_fn.register_hook(g.counting("and so does a node"))
        measure(g)
        g.inner.register_hook(g.counting("inner"))
        with pytest.raises(AssertionError, match="searched"):
            measure(g)

    def test_keep_no_graph_alive(self) -> None:
        g = graph()
        g.inner.register_hook(lambda _: None)
        g.inner.retain_grad()
        measure(g)
        inner, dictionary = weakref.ref(g.inner), weakref.ref(g.inner._backward_hooks)
        gc.disable()
        try:
            del g
            assert inner() is None
            assert dictionary() is None
        finally:
            gc.enable()


class TestRetainedGradients:
    def test_are_put_back(self) -> None:
        g = graph()
        g.inner.retain_grad()
        g.loss.backward(retain_graph=True)
        gradient = g.inner.grad
        assert gradient is not None
        before = bits(gradient)
        measure(g)
        assert g.inner.grad is gradient
        assert bits(gradient) == before

    @pytest.mark.parametrize("generation", [0, 1, 2])
    def test_are_found_after_collections(self, generation: int) -> None:
        """A tensor that has survived collections lies in an older generation of the collector."""
        measure(graph())
        for rounds in range(4):
            g = graph()
            g.inner.retain_grad()
            for _ in range(rounds):
                gc.collect(generation)
            measure(g)
            assert g.inner.grad is None

    def test_are_found_with_the_collector_disabled(self) -> None:
        gc.disable()
        try:
            measure(graph())
            g = graph()
            g.inner.retain_grad()
            g.inner.register_hook(g.counting("inner"))
            measure(g)
            assert (g.inner.grad, g.calls) == (None, [])
        finally:
            gc.enable()

    def test_of_other_graphs_are_left_to_their_owners(self) -> None:
        """Another thread may be writing them at this moment."""
        g, other = graph(), graph()
        other.inner.retain_grad()
        with quiet([g.loss], g.leaves):
            other.loss.backward()
        assert other.inner.grad is not None


@contextmanager
def frozen() -> Iterator[None]:
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class TestFrozenObjects:
    """`gc.freeze()` hides what there is from the search; what comes later is found."""

    def test_hooks_of_leaves_and_of_later_graphs_are_silent(self, first_use: None) -> None:
        old = graph()
        old.leaves[0].register_hook(old.counting("leaf"))
        with frozen():
            measure(graph())
            measure(old)
            g = graph()
            g.inner.register_hook(g.counting("inner"))
            g.inner.retain_grad()
            measure(g)
            assert (g.calls, g.inner.grad, old.calls) == ([], None, [])

    def test_hooks_known_before_stay_known(self) -> None:
        g = graph()
        g.inner.register_hook(g.counting("inner"))
        measure(g)
        with frozen():
            g.inner.register_hook(g.counting("another"))
            measure(g)
            assert g.calls == []


class TestThreads:
    def test_another_thread_keeps_its_hooks_while_we_measure(self) -> None:
        g, other = graph(), graph()
        g.inner.register_hook(g.counting("measured"))
        other.inner.register_hook(other.counting("trained"))
        other.inner.register_hook(lambda gradient: 2 * gradient)
        expected = graph()
        expected.inner.register_hook(lambda gradient: 2 * gradient)
        expected.loss.backward()
        with quiet([g.loss], g.leaves):
            thread = threading.Thread(target=other.loss.backward)
            thread.start()
            thread.join()
            torch.autograd.grad(g.loss, g.leaves, retain_graph=True)
        assert (g.calls, other.calls) == ([], ["trained"])
        for ours, theirs in zip(other.leaves, expected.leaves, strict=True):
            assert ours.grad is not None
            assert theirs.grad is not None
            assert torch.equal(ours.grad, theirs.grad)

    def test_several_may_measure_and_train_at_once(self) -> None:
        failures: list[str] = []

        def train(number: int) -> None:
            for _ in range(10):
                g = graph()
                g.inner.register_hook(g.counting("inner"))
                g.inner.retain_grad()
                measure(g)
                if g.calls or g.inner.grad is not None:
                    failures.append(f"thread {number} was heard")
                g.loss.backward()
                if g.calls != ["inner"] or g.inner.grad is None:
                    failures.append(f"thread {number} was not heard")

        threads = [threading.Thread(target=train, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
