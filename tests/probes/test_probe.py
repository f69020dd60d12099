"""The probe's own promises: four ways in with the same records, fixed batches, failures."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from gradpath.diagnostics import (
    DISTANCE_ERROR,
    ArgumentError,
    Hessian,
    MatrixOperator,
    ParameterLayout,
    imbalance,
    optimizer_stability,
    term_gradients,
)
from gradpath.probes import Probe, ProbeWarning, Record, Run, Scalar, Snapshot, StoreError
from gradpath.probes.instruments import (
    Fields,
    Imbalance,
    Instrument,
    Losses,
    Stability,
    Stiffness,
    TangentKernel,
)
from gradpath.probes.planned_update import planned_update
from gradpath.probes.schedules import at, every
from tests.probes.loops import boundary_of, gan, network, plain, points, residual_of, seeded

Way = Callable[[Probe, Tensor, Tensor, torch.optim.Optimizer], None]
KEY = ["step", "name", "term", "layer"]


def backward(
    probe: Probe, residual: Tensor, boundary: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    (residual + 10.0 * boundary).backward()


def watch(
    probe: Probe, residual: Tensor, boundary: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    total = residual + 10.0 * boundary
    probe.watch({"residual": residual, "boundary": boundary}, total=total)
    total.backward()


def watch_attached(
    probe: Probe, residual: Tensor, boundary: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    probe.watch({"residual": residual, "boundary": boundary})
    (residual + 10.0 * boundary).backward()


def probe_backward(
    probe: Probe, residual: Tensor, boundary: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    probe.backward({"residual": residual, "boundary": boundary}, weights={"boundary": 10.0})


def record(
    probe: Probe, residual: Tensor, boundary: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    model = next(iter(probe.models.values()))
    layout = ParameterLayout.of(model)
    total = residual + 10.0 * boundary
    gradients = term_gradients({"residual": residual, "boundary": boundary}, layout)
    stability = optimizer_stability(optimizer, layout)
    total.backward(retain_graph=True)
    flat = layout.flatten([parameter.grad for parameter in layout.parameters])
    update = planned_update(optimizer, layout)
    probe.record(
        {"residual": residual, "boundary": boundary},
        weights={"boundary": 10.0},
        gradients=lambda: gradients,
        hessian={
            "residual": lambda: Hessian.of_loss(residual, layout),
            "boundary": lambda: Hessian.of_loss(boundary, layout),
            "total": lambda: Hessian.of_loss(total, layout),
        },
        learning_rate=optimizer.param_groups[0]["lr"],
        stability=stability,
        gradient=flat,
        update=lambda: update,
    )


WAYS = {
    "zero-change": (backward, True),
    "watch": (watch, False),
    "watch, attached": (watch_attached, True),
    "backward": (probe_backward, False),
    "record": (record, False),
}


def trained(folder: Path, way: str, steps: int = 5) -> Run:
    call, attaches = WAYS[way]
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2, momentum=0.9)
    probe = Probe(net, folder, instruments="standard", schedule=every(1), strict=True)
    if attaches:
        probe.attach()
    for _ in range(steps):
        optimizer.zero_grad()
        call(probe, residual_of(net, points()), boundary_of(net), optimizer)
        optimizer.step()
    probe.detach()
    return Run(folder)


def values(run: Run) -> pd.Series[float]:
    return run.scalars().set_index(KEY)["value"]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "zero-change"])
def test_all_ways_give_the_same_records(way: str, tmp_path: Path) -> None:
    first, second = trained(tmp_path / "a", "zero-change"), trained(tmp_path / "b", way)
    assert first.terms == second.terms == ("residual", "boundary")
    assert first.steps == second.steps == (0, 1, 2, 3, 4)
    one, other = values(first), values(second)
    one, other = one.drop("self_check", level="name"), other.drop("self_check", level="name")
    assert set(one.index) == set(other.index)
    np.testing.assert_allclose(other[one.index], one, rtol=1e-4, atol=1e-7)
    for run in (first, second):
        assert run.scalars("self_check")["value"].max() < 1e-6
        assert len(run.scalars("self_check")) == 5
    same = ["step", "term", "layer", "end"]
    pd.testing.assert_frame_equal(
        first.eigenvalues()[[*same, "value"]], second.eigenvalues()[[*same, "value"]], rtol=1e-3
    )
    histograms = zip(first.histograms()["histogram"], second.histograms()["histogram"], strict=True)
    assert all(a.count == b.count for a, b in histograms)


def test_what_is_recorded_is_true(tmp_path: Path) -> None:
    seeded()
    net = network(dtype=torch.float64)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    layout = ParameterLayout.of(net)
    truth: list[dict[str, Any]] = []
    probe = Probe(net, tmp_path / "run", instruments="full", schedule=every(1), strict=True)
    x = points(16, torch.float64)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    with probe:
        for _ in range(4):
            optimizer.zero_grad()
            data = (net(x) - torch.sin(3 * x)).square().mean()
            edge = net(zero).square().mean()
            loss = data + 5.0 * edge
            g = term_gradients({"data": data, "edge": edge}, layout)
            columns = [
                Hessian.of_loss(loss, layout).matvec(e) for e in torch.eye(layout.size).double()
            ]
            before = layout.flatten()
            loss.backward()
            optimizer.step()
            truth.append(
                {
                    "data": data.item(),
                    "edge": edge.item(),
                    "total": loss.item(),
                    "norms": g.norm(dim=1).tolist(),
                    "ratio": (g[0].abs().max() / g[1].abs().mean()).item(),
                    "distance": imbalance(g, layout, 0).distance[1, -1].item(),
                    "cosine": torch.cosine_similarity(g[0], g[1], dim=0).item(),
                    "spectrum": torch.linalg.eigvalsh(torch.stack(columns)),
                    "update": (layout.flatten() - before).norm().item(),
                }
            )
    run = Run(tmp_path / "run")
    found = values(run)
    for step, true in enumerate(truth):
        for term in ("data", "edge", "total"):
            assert found[step, "loss", term, ""] == pytest.approx(true[term], rel=1e-12)
        assert found[step, "weighted_loss", "edge", ""] == pytest.approx(5 * true["edge"])
        assert found[step, "gradient_norm", "data", "all"] == pytest.approx(true["norms"][0])
        assert found[step, "gradient_norm", "edge", "all"] == pytest.approx(true["norms"][1])
        assert found[step, "max_to_mean", "edge", "all"] == pytest.approx(true["ratio"])
        distance = found[step, "magnitude_distance", "edge", "all"]
        assert distance == pytest.approx(true["distance"], abs=DISTANCE_ERROR)
        assert found[step, "alignment", "", "all"] == pytest.approx(true["cosine"])
        assert found[step, "update_norm", "", "all"] == pytest.approx(true["update"])
        assert found[step, "learning_rate", "", ""] == 1e-2
        assert found[step, "stability_limit", "", ""] == pytest.approx(200)
        ends = run.eigenvalues().query("term == 'total' and step == @step").set_index("end")
        for end, place in (("largest", -1), ("smallest", 0)):
            exact = float(true["spectrum"][place])
            found_end: Any = ends.loc[end]
            width = float(true["spectrum"].abs().max())
            assert abs(found_end["value"] - exact) < 0.02 * width
            assert found_end["lower"] - 1e-9 <= exact <= found_end["upper"] + 1e-9
    for step in range(3):
        for term in ("data", "edge"):
            change = truth[step + 1][term] - truth[step][term]
            assert found[step, "actual_change", term, ""] == pytest.approx(change, rel=1e-9)
            # To second order in a step of 1e-2 an entry.
            assert found[step, "predicted_change", term, ""] == pytest.approx(
                change, rel=0.2, abs=1e-4
            )


def test_values_at_points_count_by_their_mean_and_give_their_spread(tmp_path: Path) -> None:
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    probe = Probe(net, tmp_path / "run", instruments=[Losses(every(1))], strict=True)
    x = points()
    errors = (net(x) - torch.sin(x)).square()
    weight: Any = net[0].weight
    (expected,) = torch.autograd.grad(errors.mean(), weight, retain_graph=True)
    loss = probe.backward({"data": errors})
    optimizer.step()
    probe.detach()
    assert loss == pytest.approx(errors.mean().item())
    torch.testing.assert_close(weight.grad, expected)
    found = Run(tmp_path / "run").scalars().set_index(["name", "term"])["value"]
    assert found["loss", "data"] == pytest.approx(errors.mean().item())
    assert found["loss_deviation", "data"] == pytest.approx(errors.std(correction=0).item())


@pytest.mark.parametrize("rule", ["siam", "relobralo", "inverse_dirichlet"])
def test_a_rule_of_weights_is_one_argument(rule: str, tmp_path: Path) -> None:
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    probe = Probe(net, tmp_path / "run", schedule=every(1), strict=True)
    for _ in range(12):
        optimizer.zero_grad()
        probe.backward({"residual": residual_of(net, points()), "boundary": boundary_of(net)}, rule)
        optimizer.step()
    probe.detach()
    weights = Run(tmp_path / "run").scalars("weight")
    assert weights.query("term == 'boundary'")["value"].nunique() > 1
    assert Run(tmp_path / "run").scalars("self_check")["value"].max() < 1e-5


def test_backward_leaves_in_grad_what_the_loss_would(tmp_path: Path) -> None:
    seeded()
    net = network(dtype=torch.float64)
    calls: list[str] = []
    weight: Any = net[0].weight
    weight.register_hook(lambda _: calls.append("leaf"))
    weight.register_post_accumulate_grad_hook(lambda _: calls.append("accumulated"))
    x = points(8, torch.float64)

    def losses() -> dict[str, Tensor]:
        u = net(x)
        return {"data": (u - x).square().mean(), "size": u.abs().mean()}

    probe = Probe(net, tmp_path / "run", strict=True)
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    for _ in range(2):  # twice: gradients accumulate
        probe.backward(losses(), {"size": 0.25})
    found = [p.grad for p in net.parameters()]
    assert calls == ["leaf", "accumulated"] * 2
    net.zero_grad()
    terms = losses()
    (2 * (terms["data"] + 0.25 * terms["size"])).backward()
    for one, parameter in zip(found, net.parameters(), strict=True):
        assert one is not None
        torch.testing.assert_close(one, parameter.grad)
    probe.detach()
    del optimizer


def test_a_fixed_batch_is_the_same_at_every_measurement(tmp_path: Path) -> None:
    seeded()
    net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimizer = torch.optim.SGD(net.parameters(), 0.0)  # nothing moves
    fixed = points(32)

    def on_fixed() -> dict[str, Tensor]:
        noisy = fixed + 0.1 * torch.randn_like(fixed)
        return {"data": (net(noisy) - torch.sin(noisy)).square()}

    probe = Probe(net, tmp_path / "run", instruments="full", schedule=every(1), strict=True)
    probe.on_batch(on_fixed, name="grid")
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with probe:
        for _ in range(4):
            optimizer.zero_grad()
            net.eval()
            data = (net(points()) - 1).square().mean()
            net.train()
            (3.0 * data).backward()
            optimizer.step()
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, buffers[name])
    run = Run(tmp_path / "run")
    losses = run.scalars("loss").query("batch == 'grid' and term == 'data'")["value"]
    assert len(losses) == 4
    assert losses.nunique() == 1
    assert set(run.scalars("weight").query("batch == 'grid'")["value"]) == {3.0}
    assert run.scalars("loss").query("batch == 'training'")["value"].nunique() > 1
    curvature = run.eigenvalues()
    assert set(curvature["batch"]) == {"grid"}
    spread = curvature.query("term == 'total' and end == 'largest'")["value"]
    assert spread.max() - spread.min() < 0.05 * spread.max()
    assert set(run.scalars("actual_change")["value"]) == {0.0}


def test_a_fixed_batch_that_takes_the_model_is_measured_by_differences(tmp_path: Path) -> None:
    seeded()
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    net = nn.Sequential(nn.Linear(1, 8), attention, nn.Linear(8, 1))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    x = torch.rand(2, 5, 1)

    def on_fixed(model: nn.Module) -> dict[str, Tensor]:
        return {"data": (model(x) - torch.sin(x)).square().mean()}

    instruments: list[Instrument] = [Losses(), Stiffness()]
    probe = Probe(net, tmp_path / "run", instruments=instruments, schedule=every(1), strict=True)
    probe.on_batch(on_fixed)
    with probe:
        optimizer.zero_grad()
        (net(x) - torch.sin(x)).square().mean().backward()
        optimizer.step()
    found = Run(tmp_path / "run").eigenvalues()
    assert len(found) == 4
    assert found["value"].notna().all()


class Failing:
    name = "failing"
    schedule = every(1)

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        yield Scalar("before", 1.0)
        raise ZeroDivisionError("of mine")


def test_that_adam_has_no_limit_before_its_first_step_is_no_loss(tmp_path: Path) -> None:
    with Probe(None, tmp_path / "run", instruments=[Stability(every(1))]):
        plain(3)
    run = Run(tmp_path / "run")
    assert "missing" not in run.events()["kind"].tolist()
    assert run.scalars("preconditioned_stability_limit")["step"].tolist() == [1, 2]


def test_a_reference_that_is_no_term_is_said_once(tmp_path: Path) -> None:
    with Probe(None, tmp_path / "run", instruments=[Imbalance(every(1), reference="nobody")]):
        plain(3)
    events = Run(tmp_path / "run").events()
    assert sorted(events["kind"][events["source"] == "imbalance"]) == ["missing", "reference"]


def test_a_failing_instrument_is_switched_off_and_training_goes_on(tmp_path: Path) -> None:
    without = plain(3)
    with (
        pytest.warns(ProbeWarning, match=r"failing failed .*ZeroDivisionError: of mine"),
        Probe(None, tmp_path / "run", instruments=["light", Failing()], schedule=every(1)),
    ):
        trained = plain(3)
    assert trained.seen == without.seen
    run = Run(tmp_path / "run")
    assert run.steps == (0, 1, 2)
    assert run.events().query("kind == 'instrument_off'")["step"].tolist() == [0]
    assert len(run.scalars("before")) == 1
    assert len(run.scalars("loss")) == 9


def test_a_strict_probe_lets_a_failing_instrument_fail_the_training(tmp_path: Path) -> None:
    probe = Probe(None, tmp_path / "run", instruments=[Failing()], strict=True)
    with pytest.raises(ZeroDivisionError), probe:
        plain(1)
    assert Run(tmp_path / "run").status == "failed"


class Short:
    name = "sign_changes"
    schedule = every(2)

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        first, second = snapshot.gradients.sign()
        share = ((first * second) < 0).float().mean().item()
        yield Scalar("sign_changes", share, layer="all")


def test_an_instrument_of_the_users_own_takes_ten_lines(tmp_path: Path) -> None:
    with Probe(None, tmp_path / "run", instruments=[Short()], strict=True):
        plain(5)
    found = Run(tmp_path / "run").scalars("sign_changes")
    assert found["step"].tolist() == [0, 2, 4]
    assert found["value"].between(0, 1).all()


def test_fields_and_kernels_come_from_functions_of_the_model(tmp_path: Path) -> None:
    seeded()
    net = network(dtype=torch.float64)
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    grid = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    ends = torch.zeros(1, 1, dtype=torch.float64)
    instruments: list[Instrument] = [
        Fields(lambda model: {"u": model(grid)}, grid),
        TangentKernel(lambda model: {"data": model(grid), "edge": model(ends)}),
    ]
    before = net(grid).detach()
    layout = ParameterLayout.of(net)
    outputs = net(grid)[:, 0]
    rows = [
        layout.flatten(torch.autograd.grad(u, layout.parameters, retain_graph=True))
        for u in outputs
    ]
    jacobian = torch.stack(rows)
    with Probe(net, tmp_path / "run", instruments=instruments, schedule=at(0), strict=True):
        optimizer.zero_grad()
        (net(grid) - 1).square().mean().backward()
        optimizer.step()
    run = Run(tmp_path / "run")
    field = run.fields("u").iloc[0]
    np.testing.assert_array_equal(field["values"], before.numpy())
    np.testing.assert_array_equal(field["grid"], grid.numpy())
    trace = run.scalars("kernel_trace").set_index("term")["value"]
    assert trace["data"] == pytest.approx(jacobian.square().sum().item())
    own = run.fields("kernel_eigenvalues").set_index("term")["values"]["data"]
    np.testing.assert_allclose(own, torch.linalg.eigvalsh(jacobian @ jacobian.T), atol=1e-10)


def test_terms_can_be_renamed(tmp_path: Path) -> None:
    with Probe(None, tmp_path / "run", terms={"residual": "pde"}, schedule=every(1), strict=True):
        plain(2)
    assert Run(tmp_path / "run").terms == ("pde", "boundary")


def test_a_loss_that_is_not_finite_is_a_finding(tmp_path: Path) -> None:
    from tests.probes.loops import not_finite

    with Probe(None, tmp_path / "run", schedule=every(1), strict=True):
        not_finite(9)
    run = Run(tmp_path / "run")
    finding = run.findings[0]
    assert "boundary" in finding.verdict
    assert finding.evidence["step"] == 3
    values = run.scalars("loss").query("term == 'boundary'")["value"]
    assert values.isna().tolist() == [False] * 3 + [True] * 6


def test_a_step_whose_terms_all_weigh_nothing_has_no_curvature_of_their_sum(
    tmp_path: Path,
) -> None:
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    probe = Probe(net, tmp_path, instruments="standard", schedule=every(1), strict=True)
    for weight in (1.0, 0.0, 1.0):
        optimizer.zero_grad()
        losses = {"residual": residual_of(net, points()), "boundary": boundary_of(net)}
        probe.backward(losses, weights=dict.fromkeys(losses, weight))
        optimizer.step()
    probe.detach()
    run = Run(tmp_path)
    assert run.status == "finished"
    assert run.steps == (0, 1, 2)
    ends = run.eigenvalues()
    assert set(ends[ends["term"] == "total"]["step"]) == {0, 2}
    assert set(ends[ends["term"] == "boundary"]["step"]) == {0, 1, 2}
    missing = run.events()[lambda events: events["kind"] == "missing"]
    assert set(missing["source"]) == {"stiffness", "stability"}
    assert set(missing["step"]) == {1}
    assert set(missing["text"]) == {
        "No term has a weight other than zero: their sum has no curvature."
    }


def test_a_loop_that_only_takes_gradients_is_told_to_watch(tmp_path: Path) -> None:
    seeded()
    net = network()
    with pytest.warns(ProbeWarning, match=r"probe\.watch"), Probe(net, tmp_path / "run"):
        torch.autograd.grad(net(points()).square().mean(), list(net.parameters()))


def test_calls_of_grad_are_looked_at_only_until_a_backward_pass_or_for_torchjd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torchjd.autojac", raising=False)
    original = torch.autograd.grad
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def is_looked_at_after_a_step() -> bool:
        boundary_of(net).backward()
        optimizer.step()
        return torch.autograd.grad is not original

    with Probe(net, tmp_path / "run", strict=True):
        assert torch.autograd.grad is not original
        assert not is_looked_at_after_a_step()
        monkeypatch.setitem(sys.modules, "torchjd.autojac", ModuleType("torchjd.autojac"))
        assert is_looked_at_after_a_step()
        with Probe(net, tmp_path / "other", strict=True):
            pass
        assert torch.autograd.grad is not original
    assert torch.autograd.grad is original


def test_two_probes_watch_one_loop(tmp_path: Path) -> None:
    with (
        Probe(None, tmp_path / "a", schedule=every(2), strict=True),
        Probe(None, tmp_path / "b", schedule=every(3), strict=True),
    ):
        plain(7)
    assert Run(tmp_path / "a").steps == (0, 2, 4, 6)
    assert Run(tmp_path / "b").steps == (0, 3, 6)
    assert Run(tmp_path / "a").scalars("self_check")["value"].max() < 1e-6


def test_a_probe_can_be_taken_off_and_put_on_again(tmp_path: Path) -> None:
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    originals = torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            (residual_of(net, points()) + boundary_of(net)).backward()
            optimizer.step()

    probe = Probe(net, tmp_path / "run", schedule=every(1), strict=True)
    probe.attach()
    assert torch.Tensor.backward is not originals[0]
    train(3)
    probe.detach()
    assert (torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad) == originals
    assert Run(tmp_path / "run").status == "finished"
    train(2)  # not seen
    probe.attach()
    train(2)
    probe.detach()
    assert Run(tmp_path / "run").steps == (0, 1, 2, 3, 4)


def test_threads_train_as_parts_of_one_run(tmp_path: Path) -> None:
    with Probe(None, tmp_path / "run", schedule=every(1), strict=True):
        threads = [threading.Thread(target=plain, args=(5,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    timeline = Run(tmp_path / "run").timeline()
    assert timeline.groupby("part").size().tolist() == [5, 5]


def test_a_probe_on_one_model_of_two_sees_that_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mine, other = network(), network()
    optimizers = [torch.optim.SGD(net.parameters(), 1e-2) for net in (mine, other)]
    with Probe(mine, tmp_path / "run", schedule=every(1), strict=True):
        for _ in range(3):
            for net, optimizer in zip((mine, other), optimizers, strict=True):
                optimizer.zero_grad()
                residual_of(net, points()).backward()
                optimizer.step()
    run = Run(tmp_path / "run")
    assert run.parts == ("",)
    assert run.steps == (0, 1, 2)


def test_parts_of_a_gan_count_their_own_steps(tmp_path: Path) -> None:
    with Probe(None, tmp_path / "run", schedule=every(1), strict=True):
        gan(3)
    timeline = Run(tmp_path / "run").timeline()
    assert timeline.groupby("part")["step"].apply(list).to_dict() == {
        "discriminator": [0, 1, 2],
        "generator": [0, 1, 2],
    }
    curvature = Run(tmp_path / "run").eigenvalues()
    assert set(curvature.query("part == 'generator'")["step"]) == {1, 2}  # at 0, who steps?


def test_terms_are_compared_with_one_term_though_their_part_gets_a_name(tmp_path: Path) -> None:
    with Probe(None, tmp_path / "run", schedule=every(1), strict=True):
        gan(3)
    events = Run(tmp_path / "run").events()
    assert list(events[events["kind"] == "reference"]["step"]) == [0]


def test_a_run_is_resumed_without_a_step_twice(tmp_path: Path) -> None:
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def train(steps: int, resume: bool) -> None:
        with Probe(net, tmp_path / "run", schedule=every(1), resume=resume, strict=True):
            for _ in range(steps):
                optimizer.zero_grad()
                (residual_of(net, points()) + boundary_of(net)).backward()
                optimizer.step()

    train(4, resume=False)
    with pytest.raises(StoreError, match="resume=True"):
        Probe(net, tmp_path / "run")
    train(3, resume=True)
    assert Run(tmp_path / "run").steps == (0, 1, 2, 3, 4, 5, 6)


def test_a_resumed_run_goes_on_from_the_optimizers_checkpoint(tmp_path: Path) -> None:
    seeded()
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    saved: dict[str, Any] = {}
    for steps, resume in ((6, False), (2, True)):
        if resume:
            optimizer.load_state_dict(saved)
        with Probe(net, tmp_path / "run", schedule=every(1), resume=resume, strict=True):
            for step in range(steps):
                optimizer.zero_grad()
                (residual_of(net, points()) + boundary_of(net)).backward()
                optimizer.step()
                if step == 3 and not resume:
                    saved = optimizer.state_dict()
                    saved = torch.load(_stored(saved, tmp_path))
    assert Run(tmp_path / "run").steps == (0, 1, 2, 3, 4, 5)
    assert "replaced 2 steps" in " ".join(Run(tmp_path / "run").events()["text"])


def _stored(state: dict[str, Any], folder: Path) -> Path:
    torch.save(state, folder / "state.pt")
    return folder / "state.pt"


def test_training_goes_on_when_the_run_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = plain(6)
    probe = Probe(None, tmp_path / "run", schedule=every(1))
    calls = 0
    original = probe._recorder.record

    def full(*args: Any, **kwargs: Any) -> bool:
        nonlocal calls
        calls += 1
        if calls > 2:
            monkeypatch.setattr(
                probe._recorder, "attempt", lambda _: probe._recorder.give_up("The disk is full.")
            )
        return original(*args, **kwargs)

    monkeypatch.setattr(probe._recorder, "record", full)
    with pytest.warns(ProbeWarning, match="The disk is full"), probe:
        trained = plain(6)
    assert trained.seen == without.seen
    assert probe.failure == "The disk is full."


def _anything() -> Any:
    return 3


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: Probe(None, folder, instruments="everything"), "set of instruments"),
        (lambda folder: Probe(None, folder, instruments=[Losses(), Losses()]), "Two instruments"),
        (lambda folder: Probe(None, folder, instruments=[_anything()]), "is no instrument"),
        (lambda folder: Probe(_anything(), folder), "A probe watches a module"),
        (lambda folder: Probe(None, folder).on_batch(_anything()), "A fixed batch is a function"),
    ],
)
def test_bad_arguments_get_one_sentence(
    make: Callable[[Path], Any], sentence: str, tmp_path: Path
) -> None:
    from gradpath.diagnostics import GradpathError

    with pytest.raises(GradpathError, match=sentence):
        make(tmp_path / "run")


@pytest.mark.parametrize(
    ("weights", "sentence"), [(None, "reach no parameter"), ({"b": 1.0}, "no term of this step")]
)
def test_losses_that_cannot_be_differentiated_get_one_sentence(
    weights: dict[str, float] | None, sentence: str, tmp_path: Path
) -> None:
    probe = Probe(network(), tmp_path / "run")
    with pytest.raises(ArgumentError, match=sentence):
        probe.backward({"a": torch.ones(1)}, weights)
    probe.detach()


def test_the_run_says_what_was_trained(tmp_path: Path) -> None:
    with Probe(None, tmp_path / "run", metadata={"model": "M1", "seed": 7}):
        plain(1)
    about = Run(tmp_path / "run").metadata
    assert about["loss_expression"] == "1 * residual + 10 * boundary"
    assert about["model"] == "M1"
    assert about["parameters"] == 25
    assert about["optimizers"] == ["Adam"]
    assert about["torch_seed"] == 7
    assert [layer["layer"] for layer in about["layers"]] == ["0", "0", "2", "2"]


def test_a_run_of_several_parts_is_resumed_by_their_names(tmp_path: Path) -> None:
    for resume in (False, True):
        with Probe(None, tmp_path / "run", schedule=every(1), resume=resume, strict=True):
            gan(3)
    run = Run(tmp_path / "run")
    assert set(run.parts) == {"discriminator", "generator"}
    assert run.timeline().groupby("part").size().to_dict() == {"discriminator": 6, "generator": 6}


@pytest.mark.external
def test_the_terms_of_torchjd_are_seen(tmp_path: Path) -> None:
    autojac = pytest.importorskip("torchjd.autojac")
    aggregation = pytest.importorskip("torchjd.aggregation")

    def train(steps: int) -> list[Tensor]:
        seeded()
        net = network()
        optimizer = torch.optim.SGD(net.parameters(), 1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            residual, boundary = residual_of(net, points()), boundary_of(net)
            autojac.backward([residual, boundary])
            autojac.jac_to_grad(list(net.parameters()), aggregation.UPGrad())
            optimizer.step()
        return [p.detach() for p in net.parameters()]

    without = train(6)
    with Probe(None, tmp_path / "run", schedule=every(2), strict=True):
        watched = train(6)
    assert all(torch.equal(a, b) for a, b in zip(without, watched, strict=True))
    run = Run(tmp_path / "run")
    assert run.terms == ("residual", "boundary")
    assert run.steps == (0, 2, 4)
    assert set(run.histograms()["term"]) == {"residual", "boundary"}
    assert set(run.eigenvalues()["term"]) == {"residual", "boundary"}
    assert run.scalars("weight")["value"].isna().all()


@pytest.mark.parametrize("kind", ["list", "sum", "autograd", "inputs"])
def test_losses_in_a_list_are_terms(kind: str, tmp_path: Path) -> None:
    seeded()
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    with Probe(net, tmp_path / "run", schedule=every(1), strict=True):
        for _ in range(2):
            optimizer.zero_grad()
            residual, boundary = residual_of(net, points()), boundary_of(net)
            losses = [residual, boundary]
            if kind == "list":
                for loss in losses:
                    loss.backward()
            elif kind == "sum":
                torch.stack(losses).sum().backward()
            elif kind == "autograd":
                torch.autograd.backward(losses, [None, torch.tensor(3.0)])
            else:
                torch.stack(losses).sum().backward(inputs=list(net[0].parameters()))
            optimizer.step()
    run = Run(tmp_path / "run")
    assert run.terms == ("residual", "boundary")
    weights = run.scalars("weight").query("term == 'boundary'")["value"]
    assert set(weights) == {3.0 if kind == "autograd" else 1.0}
    assert run.scalars("self_check")["value"].max() < 1e-6


def descent_by_record(folder: Path, *, tells_update: bool) -> tuple[Run, list[dict[str, float]]]:
    """Gradient descent on two quadratic terms, in code that knows no `backward()`."""
    seeded()
    net = nn.Linear(3, 1, bias=False).double()
    layout = ParameterLayout.of(net)
    curvature = {
        name: torch.diag(torch.tensor(entries, dtype=torch.float64))
        for name, entries in (("data", [3.0, 1.0, 0.5]), ("decay", [0.1, 0.2, 8.0]))
    }
    weights = {"data": 1.0, "decay": 0.5}
    theta = layout.flatten()
    losses: list[dict[str, float]] = []
    probe = Probe(net, folder, instruments="full", schedule=every(1))
    for _ in range(3):
        gradients = {name: matrix @ theta for name, matrix in curvature.items()}
        losses.append({name: 0.5 * (theta @ g).item() for name, g in gradients.items()})
        update = -0.05 * torch.stack([weights[name] * g for name, g in gradients.items()]).sum(0)
        probe.record(
            losses[-1],
            weights=weights,
            gradients=gradients,
            hessian={name: MatrixOperator(matrix) for name, matrix in curvature.items()}
            | {"total": MatrixOperator(curvature["data"] + 0.5 * curvature["decay"])},
            update=update if tells_update else None,
        )
        theta = theta + update
    probe.detach()
    return Run(folder), losses


def test_record_predicts_the_change_of_each_term_by_the_given_step(tmp_path: Path) -> None:
    run, losses = descent_by_record(tmp_path / "run", tells_update=True)
    found = values(run)
    for step in range(2):
        for term in ("data", "decay"):
            change = losses[step + 1][term] - losses[step][term]
            assert found[step, "actual_change", term, ""] == pytest.approx(change, rel=1e-12)
            # To second order, a quadratic function is known.
            assert found[step, "predicted_change", term, ""] == pytest.approx(change, rel=1e-9)
    assert "descent" not in set(run.events()["source"])


def test_record_without_the_step_says_why_no_change_is_predicted(tmp_path: Path) -> None:
    run, _ = descent_by_record(tmp_path / "run", tells_update=False)
    assert run.scalars("predicted_change").empty
    reasons = run.events().query("source == 'descent'")["text"].tolist()
    assert reasons == [
        "The step to be taken is not known: there is no one optimizer, and probe.record was given "
        "no update."
    ]
