"""A recording knows what the forward pass computed, and leaves the forward pass as it was."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from gradpath.diagnostics.recording import ForwardRecording
from gradpath.diagnostics.terms import Terms, find_terms

W = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)


def term(power: int = 2) -> Tensor:
    """A loss, named by whoever calls this."""
    return W.pow(power).sum()


def scaled(tensor: Tensor) -> Tensor:
    return 2 * tensor


def edge_of(tensor: Tensor) -> GradientEdge:
    return get_gradient_edge(tensor)


# Names and places


def assigned() -> Tensor:
    pde = W.exp().sum()
    return scaled(pde)


def annotated() -> Tensor:
    pde: Tensor = W.exp().sum()
    return scaled(pde)


def assigned_twice() -> Tensor:
    pde = other = W.exp().sum()
    del other
    return scaled(pde)


def assigned_in_an_expression() -> Tensor:
    if (pde := W.exp().sum()) is not None:
        return scaled(pde)
    raise AssertionError


def assigned_as_a_pair() -> Tensor:
    pde, _ = W.exp().sum(), 1
    return scaled(pde)


def assigned_to_an_attribute() -> Tensor:
    class Holder:
        pde: Tensor

    Holder.pde = W.exp().sum()
    return scaled(Holder.pde)


def assigned_to_a_key() -> Tensor:
    losses = {}
    losses["pde"] = W.exp().sum()
    return scaled(losses["pde"])


def in_a_dictionary() -> Tensor:
    losses = {"bc": 0, "pde": W.exp().sum()}
    return scaled(torch.as_tensor(losses["pde"]))


def in_a_call_of_dict() -> Tensor:
    losses = dict(pde=W.exp().sum())  # noqa: C408
    return scaled(losses["pde"])


def on_several_lines() -> Tensor:
    pde = (
        W
        .exp()
        .sum()
    )  # fmt: skip
    return scaled(pde)


def pde() -> Tensor:
    return W.exp().sum()


def returned() -> Tensor:
    return scaled(pde())


def mse(tensor: Tensor) -> Tensor:
    return tensor.exp().sum()


def computed_by_a_helper() -> Tensor:
    pde = mse(W)
    return scaled(pde)


class Criterion(nn.Module):
    def forward(self, tensor: Tensor) -> Tensor:
        return mse(tensor)


def computed_by_a_module() -> Tensor:
    pde = Criterion()(W)
    return scaled(torch.as_tensor(pde))


def computed_by_a_lambda() -> Tensor:
    pde = (lambda tensor: mse(tensor))(W)
    return scaled(pde)


NAMED = [
    assigned,
    annotated,
    assigned_twice,
    assigned_in_an_expression,
    assigned_as_a_pair,
    assigned_to_an_attribute,
    assigned_to_a_key,
    in_a_dictionary,
    in_a_call_of_dict,
    on_several_lines,
    returned,
    computed_by_a_helper,
    computed_by_a_module,
    computed_by_a_lambda,
]


@pytest.mark.parametrize("compute", NAMED)
def test_the_source_gives_the_name_and_the_place(compute: Callable[[], Tensor]) -> None:
    with ForwardRecording() as recording:
        loss = compute() + 3 * W.sin().amax()
    terms = find_terms(loss, recording=recording)
    assert terms.names == ("pde", "W.sin().amax()")
    values = [float(W.detach().exp().sum()), float(W.detach().sin().amax())]
    assert [t.value for t in terms] == pytest.approx(values, rel=1e-15)
    assert terms.weights == {"pde": 2, "W.sin().amax()": 3}
    assert terms.adds_up
    file, _, line = str(terms[0].place).rpartition(":")
    assert file == __file__
    assert ".sum()" in "".join(Path(file).read_text().splitlines()[int(line) - 1 : int(line) + 3])


def test_what_is_added_up_in_place_bears_the_name_of_the_sum() -> None:
    def framework() -> tuple[Tensor, Tensor]:
        pde = W.exp().sum()
        pde += W.sin().sum()
        return pde, pde.sqrt()

    with ForwardRecording() as recording:
        total, _ = framework()
    origin = recording.origin(edge_of(total))
    assert origin is not None
    assert origin.name == "pde"


def test_without_a_name_the_source_text_stands_for_it() -> None:
    def framework() -> Tensor:
        return W.exp().sum() + torch.nn.functional.mse_loss(W, torch.ones_like(W), reduction="sum")

    with ForwardRecording() as recording:
        loss = framework()
    names = find_terms(loss, recording=recording).names
    assert names == ("W.exp().sum()", "torch.nn.functional.mse_loss(W, torch.o…")
    assert len(names[1]) == 40


class Mean(nn.Module):
    def forward(self, tensor: Tensor) -> Tensor:
        return tensor.exp().sum()


def test_what_is_called_says_more_than_forward_or_lambda() -> None:
    mean = Mean()
    with ForwardRecording() as recording:
        loss = scaled(mean(W)) + scaled((lambda w: w.sin().sum())(W))
    assert find_terms(loss, recording=recording).names == (
        "mean(W)",
        "(lambda w: w.sin().sum())(W)",
    )


def test_equal_functions_in_two_files_are_read_in_their_own(tmp_path: Path) -> None:
    names = []
    for name in ("first", "other"):
        source = f"def framework():\n    return 2 * W.exp().sum() # {name}\n"
        if name == "other":
            source = source.replace("2 * W.exp().sum()", "2 * W.sin().sum()")
        file = tmp_path / f"{name}.py"
        file.write_text(source)
        script: dict[str, Any] = {"W": W, "__name__": "user_script"}
        # The code of the first in both, as when a file is copied and edited.
        code = "def framework():\n    return 2 * W.exp().sum()\n"
        exec(compile(code, str(file), "exec"), script)
        with ForwardRecording() as recording:
            loss = script["framework"]()
        names.append(find_terms(loss, recording=recording).names)
    assert names == [("W.exp().sum()",), ("W.sin().sum()",)]


def test_an_expression_too_long_to_be_a_name_does_no_harm(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(f"def framework():\n    return 2 * (W{'+W' * 900}).sum()\n")
    script: dict[str, Any] = {"W": W, "__name__": "user_script"}
    exec(compile(file.read_text(), str(file), "exec"), script)
    with ForwardRecording() as recording:
        loss = script["framework"]()
    assert find_terms(loss, recording=recording).names == ("sum(add)",)


@pytest.mark.parametrize("file", ["<string>", "no_such_file.py", __file__.replace(".py", ".txt")])
def test_without_its_source_a_term_is_named_by_the_graph(file: str) -> None:
    script: dict[str, Any] = {"W": W, "__name__": "user_script"}
    exec(compile("def framework():\n    return 2 * W.exp().sum()", file, "exec"), script)
    with ForwardRecording() as recording:
        loss = script["framework"]() + W.sum()
    terms = find_terms(loss, recording=recording)
    assert terms.names == ("sum(exp)", "W.sum()")
    assert terms[0].place == f"{file}:2"
    assert terms.adds_up


@pytest.mark.parametrize(
    "text", ["this is no Python (", "a\0b", "-" * 100_000 + "1", "a" + ".b" * 100_000]
)
def test_a_source_that_cannot_be_read_does_no_harm(tmp_path: Path, text: str) -> None:
    file = tmp_path / "script.pyx"
    file.write_text(text)
    script: dict[str, Any] = {"W": W, "__name__": "user_script"}
    exec(compile("def framework():\n    return 2 * W.exp().sum()", str(file), "exec"), script)
    with ForwardRecording() as recording:
        loss = script["framework"]()
    assert find_terms(loss, recording=recording).names == ("sum(exp)",)


def test_a_variable_of_the_caller_wins_over_the_source() -> None:
    with ForwardRecording() as recording:
        mine = W.exp().sum()
        loss = mine + 2 * pde()
    assert find_terms(loss, recording=recording).names == ("mine", "pde")


def test_names_are_the_same_with_and_without_a_recording_of_the_same_variables() -> None:
    with ForwardRecording() as recording:
        a, b = W.exp().sum(), W.sin().sum()
        both = W.square().sum() + W.cos().sum()
        loss = a + 2 * b + 3 * both
    with_recording, without = find_terms(loss, recording=recording), find_terms(loss)
    assert with_recording.names == without.names == ("a", "b", "both")
    assert with_recording.weights == without.weights


def test_origins_lie_in_the_users_code_not_in_pytorchs() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    with ForwardRecording() as recording:
        out = net(torch.ones(1, 2))
    origin = recording.origin(edge_of(out))
    assert origin is not None
    assert origin.calls[0][0].co_name == "test_origins_lie_in_the_users_code_not_in_pytorchs"


# Values


def test_values_are_those_at_the_time_they_were_computed() -> None:
    with ForwardRecording() as recording:
        first = W.exp().sum()
        edge = edge_of(first)
        first *= 3
        with torch.no_grad():
            first.zero_()
    value = recording.value(edge)
    assert value is not None
    assert float(value) == float(W.detach().exp().sum())
    assert not value.requires_grad


def test_what_was_not_seen_is_not_known() -> None:
    before = W.exp().sum()
    recording = ForwardRecording()
    with recording:
        large = W.repeat(33) * 2
    assert recording.value(edge_of(before)) is None
    assert recording.origin(edge_of(before)) is None
    assert recording.value(edge_of(large)) is None  # more than a loss term has


class Cube(torch.autograd.Function):
    """A user's own function; PyTorch tells no mode of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.pow(3).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 3 * ctx.saved_tensors[0].pow(2)


@pytest.mark.parametrize(
    "combine",
    [
        lambda a, b: a + 2 * b,
        lambda a, b: torch.stack([a, b]) @ torch.tensor([1.0, 2.0]).double(),
        lambda a, b: torch.add(input=a, other=b, alpha=2),
        lambda a, b: sum([a, b, b]),
    ],
)
def test_a_users_own_function_is_seen_where_it_is_used(
    combine: Callable[[Tensor, Tensor], Tensor],
) -> None:
    def framework() -> Tensor:
        return combine(Cube.apply(W), Cube.apply(2 * W))  # type: ignore[no-untyped-call]

    with ForwardRecording() as recording:
        loss = framework()
    terms = find_terms(loss, recording=recording)
    assert terms.names == ("cube", "cube#2")
    cube = float(W.detach().pow(3).sum())
    assert [term.value for term in terms] == [cube, 8 * cube]
    assert terms.adds_up


def test_vectors_of_a_framework_give_values_to_their_members() -> None:
    def framework() -> Tensor:
        losses = torch.stack([W.exp().sum(), W.sin().sum()])
        losses *= torch.tensor([1.0, 7.0])
        return losses.sum()

    with ForwardRecording() as recording:
        loss = framework()
    terms = find_terms(loss, recording=recording)
    assert terms.weights == {"W.exp().sum()": 1, "W.sin().sum()": 7}
    assert terms.adds_up


# The forward pass is left as it was


def trained(record: bool) -> list[Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(net.parameters())
    for _ in range(5):
        x = torch.randn(4, 2)
        recording = ForwardRecording()
        with recording if record else nullcontext():
            pde, bc = net(x).square().mean(), (net(x) - 1).abs().sum()
            loss = pde + 10 * bc
        if record:
            find_terms(loss, recording=recording)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [p.detach() for p in net.parameters()]


def test_training_is_bit_identical() -> None:
    for plain, recorded in zip(trained(False), trained(True), strict=True):
        assert torch.equal(plain, recorded)


def test_errors_of_the_user_come_through() -> None:
    with pytest.raises(RuntimeError, match="size"), ForwardRecording():
        _ = torch.ones(2) @ torch.ones(3)
    with ForwardRecording() as recording:
        pass
    assert recording.value(edge_of(W.sum())) is None


def test_recordings_may_be_nested_and_used_again() -> None:
    outer, inner = ForwardRecording(), ForwardRecording()
    with outer:
        first = W.exp().sum()
        with inner:
            second = W.sin().sum()
    with inner:
        third = W.cos().sum()
    assert [outer.value(edge_of(t)) is not None for t in (first, second, third)] == [1, 1, 0]
    assert [inner.value(edge_of(t)) is not None for t in (first, second, third)] == [0, 1, 1]


def test_other_modes_and_tensor_classes_work_on() -> None:
    class Label(Tensor):
        pass

    class Counter(TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kw: Any = None) -> Any:
            Counter.calls += 1
            return func(*args, **(kw or {}))

    def framework() -> Tensor:
        return W.as_subclass(Label).exp().sum() + 2 * W.sin().sum()

    with Counter(), torch.device("cpu"):
        plain = framework()
    expected = Counter.calls
    Counter.calls = 0
    with Counter(), ForwardRecording() as recording, torch.device("cpu"):
        loss = framework()
    assert type(loss) is type(plain) is Label
    assert Counter.calls == expected
    terms = find_terms(loss, recording=recording)
    assert terms.adds_up
    assert terms.names == ("W.as_subclass(Label).exp().sum()", "W.sin().sum()")
    assert all(type(recording.value(t.edges[0])) is Tensor for t in terms)


def test_transforms_of_functions_work_on() -> None:
    def loss(w: Tensor) -> Tensor:
        return (w.exp() * w).sum()

    w = torch.tensor([0.5, -1.0])
    batch = torch.ones(3, 2)
    expected = torch.vmap(torch.func.grad(loss))(batch), torch.func.jacrev(torch.func.grad(loss))(w)
    with ForwardRecording():
        recorded = (
            torch.vmap(torch.func.grad(loss))(batch),
            torch.func.jacrev(torch.func.grad(loss))(w),
        )
        live = torch.vmap(loss)(batch.requires_grad_()).sum() + W.sum()
    assert all(map(torch.equal, expected, recorded))
    live.backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_work_on(reentrant: bool) -> None:
    def body(w: Tensor) -> Tensor:
        return w.exp().sum()

    with ForwardRecording() as recording:
        loss = 2 * checkpoint(body, W, use_reentrant=reentrant) + W.sin().sum()
    terms = find_terms(loss, recording=recording)
    assert [t.weight for t in terms] == [2, 1]
    assert terms[0].value == float(W.detach().exp().sum())
    loss.backward()
    W.grad = None


def test_a_recording_keeps_nothing_alive_even_while_it_goes_on() -> None:
    recording = ForwardRecording()

    def step() -> Sequence[weakref.ref[Tensor]]:
        with recording:
            large = W.exp() * torch.ones(100, 2)
            loss = large.mean()
        terms: Terms = find_terms(loss, recording=recording)
        assert terms.adds_up
        return [weakref.ref(large), weakref.ref(loss)]

    gc.disable()
    try:
        assert [ref() for ref in step()] == [None, None]
    finally:
        gc.enable()


def _elbo(w: Tensor) -> Tensor:
    reconstruction = (w - 1).square().sum()
    divergence = -0.5 * (1 + w - w.exp()).sum()
    return reconstruction + 4 * divergence


def test_a_scaled_term_is_called_as_its_author_calls_it() -> None:
    """The variable holds the scaled term; the sum inside of it has no name."""
    w = torch.tensor([0.5, -0.25], requires_grad=True)
    with ForwardRecording() as recording:
        loss = _elbo(w)
    first, second = find_terms(loss, recording=recording)
    assert (first.name, first.weight) == ("reconstruction", 1.0)
    assert (second.name, second.weight) == ("divergence", 4.0)
    expected = (-0.5 * (1 + w - w.exp()).sum()).item()
    assert second.value == pytest.approx(expected)


def test_a_variable_that_holds_the_scaled_loss_is_no_term() -> None:
    def scaled(w: Tensor) -> Tensor:
        loss = 10 * w.square().sum()
        return loss

    w = torch.ones(2, requires_grad=True)
    with ForwardRecording() as recording:
        total = scaled(w)
    (term,) = find_terms(total, recording=recording)
    assert term.weight == 10.0
