"""Each finding, on a training that has the defect, and a healthy one that gets no warning."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradpath.diagnostics.findings import Diagnosis
from gradpath.diagnostics.weighting import PRESETS
from gradpath.probes import Scalar, Snapshot
from gradpath.probes.instruments import Descent, Fields, Losses
from gradpath.probes.schedules import every
from tests.diagnostics.diagnosed import (
    alarms,
    check,
    codes,
    diagnosed,
    finding,
    linear,
    network,
    quadratic,
)

GRID = torch.linspace(-1, 1, 41)[:, None]
ENDS = torch.tensor([[-1.0], [1.0]])


def regression(net: nn.Module) -> dict[str, Tensor]:
    """Two terms that one function satisfies."""
    return {
        "data": (net(GRID) - torch.sin(3 * GRID)).square().mean(),
        "ends": (net(ENDS) - torch.sin(3 * ENDS)).square().mean(),
    }


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    net = network(1, 16, 16, 1)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    return diagnosed(
        tmp_path_factory.mktemp("healthy") / "run",
        net,
        lambda: regression(net),
        optimizer,
        300,
        instruments=["standard", Descent()],
        interval=10,
        is_attached=True,
    )


def test_a_healthy_training_gets_no_warning(healthy: Diagnosis) -> None:
    assert alarms(healthy) == []
    assert {each.status for each in healthy.checks} == {"ok", "not measured"}
    assert healthy.verdict.startswith("Nothing wrong was found")


def test_what_was_not_measured_says_what_would_measure_it(healthy: Diagnosis) -> None:
    missing = {each.name: each.number for each in healthy.checks if each.status == "not measured"}
    assert set(missing) == {
        "residual self-check",
        "propagation in time",
        "spectral bias",
        "trivial or wrong solution",
    }
    assert "`solution_residual`" in missing["residual self-check"]
    assert "`Fields`" in missing["trivial or wrong solution"]


@pytest.mark.parametrize(
    ("times_limit", "code", "status"),
    [(1.05, "GP311", "fail"), (0.9, "GP312", "ok"), (0.5, None, "ok")],
)
def test_a_step_is_held_against_the_known_curvature(
    tmp_path: Path, times_limit: float, code: str | None, status: str
) -> None:
    point, losses = quadratic([50.0, 10.0, 2.0, 1.0])
    optimizer = torch.optim.SGD([point], lr=times_limit * 2 / 50)
    found = diagnosed(tmp_path / "run", [point], losses, optimizer, 60)
    asked = check(found, "step size")
    assert asked.status == status
    assert asked.codes == (() if code is None else (code,))
    if code is not None:
        evidence = finding(found, code).evidence
        assert evidence["share_of_limit"] == pytest.approx(times_limit, rel=0.02)
        assert evidence["sharpness"] == pytest.approx(50, rel=0.02)


def test_steps_that_raise_what_their_slope_lowers(tmp_path: Path) -> None:
    for times_limit, raises in ((1.05, True), (0.5, False)):
        point, losses = quadratic([50.0, 10.0, 2.0, 1.0])
        optimizer = torch.optim.SGD([point], lr=times_limit * 2 / 50)
        found = diagnosed(
            tmp_path / str(raises),
            [point],
            losses,
            optimizer,
            60,
            instruments=[Descent()],
            is_attached=True,
        )
        assert ("GP321" in codes(found)) == raises
        assert check(found, "predicted descent").status == ("warn" if raises else "ok")
        if raises:
            one = finding(found, "GP321").evidence
            assert one["explained_by_curvature"] == one["raised"]


def test_a_loss_that_bends_down_more_than_up(tmp_path: Path) -> None:
    point = nn.Parameter(torch.tensor([0.5, 1e-3]))

    def saddle() -> dict[str, Tensor]:
        x, y = point
        return {"saddle": x**2 / 2 - 2 * y**2 + y**4}

    found = diagnosed(tmp_path / "run", [point], saddle, torch.optim.SGD([point], lr=1e-2), 11)
    evidence = finding(found, "GP303").evidence
    assert evidence["smallest"] == pytest.approx(-4, rel=1e-2)
    assert evidence["largest"] == pytest.approx(1, rel=0.05)


def test_terms_at_a_compromise_pull_against_each_other(tmp_path: Path) -> None:
    point = nn.Parameter(torch.tensor([0.7, 0.2]))
    target = torch.tensor([1.0, 0.0])

    def losses() -> dict[str, Tensor]:
        return {"one": (point - target).square().sum(), "other": (point + target).square().sum()}

    found = diagnosed(tmp_path / "run", [point], losses, torch.optim.SGD([point], lr=5e-2), 100)
    assert check(found, "conflict").status == "warn"
    assert check(found, "cancellation").status == "fail"
    assert finding(found, "GP201").evidence["cosine_quartiles"][1] == pytest.approx(-1, abs=0.01)
    assert finding(found, "GP202").evidence["left"] < 0.05


def test_a_term_that_is_drowned_is_named_with_its_factor(tmp_path: Path) -> None:
    """Two parts of the parameters that no term shares, so that every number is known."""
    point = nn.Parameter(torch.tensor([1.0, 1.0]))

    def losses() -> dict[str, Tensor]:
        return {"strong": 1e3 * point[0] ** 2, "weak": point[1] ** 2}

    optimizer = torch.optim.SGD([point], lr=1e-6)
    found = diagnosed(tmp_path / "run", [point], losses, optimizer, 30, weights={"weak": 2.0})
    one = finding(found, "GP101")
    assert one.severity == "fail"
    assert (one.evidence["term"], one.evidence["reference"]) == ("weak", "strong")
    assert one.evidence["factor"] == pytest.approx(500, rel=0.05)
    assert one.evidence["unweighted_factor"] == pytest.approx(1000, rel=0.05)
    assert one.evidence["since_step"] == 0
    assert one.evidence["balancing_weights"]["jaxpi_grad_norm"] == pytest.approx(1000, rel=0.05)
    assert set(one.evidence["balancing_weights"]) <= set(PRESETS)
    balanced = diagnosed(tmp_path / "b", [point], losses, optimizer, 30, weights={"weak": 1000.0})
    assert "GP101" not in codes(balanced)


def test_a_small_gradient_of_a_term_that_was_learned_is_no_imbalance(tmp_path: Path) -> None:
    point = nn.Parameter(torch.tensor([1.0, 1.0]))

    def losses() -> dict[str, Tensor]:
        return {"slow": point[0] ** 2, "quick": 1e2 * point[1] ** 2}

    found = diagnosed(tmp_path / "run", [point], losses, torch.optim.SGD([point], lr=1e-3), 100)
    assert check(found, "magnitude imbalance").status == "ok"
    assert "pulls" in check(found, "magnitude imbalance").number


def test_weights_that_grow_with_the_gradient_work_backwards(tmp_path: Path) -> None:
    """As PINA 0.3.2 has them, and as they are published."""
    for backwards in (True, False):
        net = network(1, 8, 1)

        def losses(net: nn.Module = net) -> dict[str, Tensor]:
            terms = regression(net)
            return {"strong": 9 * terms["data"], "weak": terms["ends"] / 3}

        def weights(
            terms: dict[str, Tensor], net: nn.Module = net, backwards: bool = backwards
        ) -> dict[str, float]:
            norms = {}
            for name, term in terms.items():
                rows = torch.autograd.grad(term, list(net.parameters()), retain_graph=True)
                norms[name] = float(torch.cat([row.flatten() for row in rows]).norm())
            power = 1 if backwards else -1
            whole = sum(norm**power for norm in norms.values())
            return {name: norm**power / whole for name, norm in norms.items()}

        found = diagnosed(
            tmp_path / str(backwards),
            net,
            losses,
            torch.optim.Adam(net.parameters(), lr=1e-3),
            60,
            weights=weights,  # type: ignore[arg-type]
            instruments="light",
        )
        assert ("GP121" in codes(found)) == backwards
        assert check(found, "balancer").status == ("warn" if backwards else "ok")
        if backwards:
            evidence = finding(found, "GP121").evidence
            assert evidence["power_of_norm"] == pytest.approx(1, abs=0.05)
            assert evidence["weighted_factor"] > 3 * evidence["unweighted_factor"]


def test_a_layer_that_is_dead_and_one_that_is_saturated(tmp_path: Path) -> None:
    def trained(name: str, net: nn.Module) -> Diagnosis:
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        return diagnosed(tmp_path / name, net, lambda: regression(net), optimizer, 20)

    dead = network(1, 8, 8, 1, activation=nn.ReLU)
    with torch.no_grad():
        linear(dead, 2).bias.sub_(1e3)
    found = trained("dead", dead)
    one = finding(found, "GP501")
    assert one.evidence["layers"] == ["0", "2"]  # nothing goes back through a dead layer either
    assert check(found, "layer health").status == "fail"

    saturated = network(1, 8, 8, 1)
    with torch.no_grad():
        linear(saturated, 0).weight.fill_(0.1)
        linear(saturated, 0).bias.copy_(torch.tensor([9.0] * 7 + [0.0]))
    found = trained("saturated", saturated)
    assert list(finding(found, "GP502").evidence["layers"]) == ["0"]


def test_heads_of_their_own_are_noted_and_a_term_without_gradient_fails(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.ModuleDict({name: nn.Linear(1, 1) for name in ("trunk", "left", "right")})

    def losses() -> dict[str, Tensor]:
        features = torch.tanh(net["trunk"](GRID))
        return {
            "left": (net["left"](features) - GRID).square().mean(),
            "right": (net["right"](features) + GRID).square().mean(),
            "idle": torch.relu(net["right"](features) - 1e3).mean(),
        }

    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    found = diagnosed(tmp_path / "run", net, losses, optimizer, 20)
    notes = [each for each in found.findings if each.code == "GP504"]
    assert {(each.evidence["term"], *each.evidence["layers"]) for each in notes} == {
        ("left", "right"),
        ("right", "left"),
    }
    assert {each.severity for each in notes} == {"note"}
    assert finding(found, "GP111").evidence["term"] == "idle"
    assert check(found, "term inventory").status == "fail"
    assert check(found, "layer health").status == "ok"


def test_a_term_that_counts_twice_and_one_that_counts_nothing(tmp_path: Path) -> None:
    net = network(1, 8, 1)

    def losses() -> dict[str, Tensor]:
        terms = regression(net)
        return {**terms, "again": regression(net)["data"]}

    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    found = diagnosed(tmp_path / "run", net, losses, optimizer, 20, weights={"ends": 0.0})
    assert finding(found, "GP113").evidence["terms"] == ["data", "again"]
    assert finding(found, "GP112").evidence["term"] == "ends"


def test_the_first_number_that_is_not_finite_and_nothing_after_it_counts(tmp_path: Path) -> None:
    point = nn.Parameter(torch.tensor([1.0]))
    steps = iter(range(100))

    def losses() -> dict[str, Tensor]:
        bad = next(steps) >= 11
        return {
            "sound": (point - 2).square().sum(),
            "root": (point * (0 if bad else 1)).square().sum().sqrt(),  # slope NaN at zero
        }

    optimizer = torch.optim.SGD([point], lr=1e-3)
    found = diagnosed(tmp_path / "run", [point], losses, optimizer, 20, interval=1)
    assert found.checks[0].name == "finite numbers"
    assert found.checks[0].status == "fail"
    first = found.findings[0]
    assert (first.code, first.evidence["step"], first.evidence["term"]) == ("GP403", 11, "root")
    assert codes(found) >= {"GP401"}  # of the losses of the next step
    assert "steps 5 to 10" in check(found, "magnitude imbalance").number


def test_a_loss_that_batches_scatter_more_than_it_falls(tmp_path: Path) -> None:
    net = network(1, 8, 1)
    generator = torch.Generator().manual_seed(0)

    def losses(points: int) -> dict[str, Tensor]:
        x = 2 * torch.rand(points, 1, generator=generator) - 1
        noise = torch.randn(points, 1, generator=generator)
        return {"data": (net(x) - noise).square().mean()}

    for points, is_noisy in ((1, True), (512, False)):
        found = diagnosed(
            tmp_path / str(points),
            net,
            lambda points=points: losses(points),  # type: ignore[misc]
            torch.optim.SGD(net.parameters(), lr=1e-4),
            100,
            instruments="light",
            interval=1,
        )
        assert ("GP621" in codes(found)) == is_noisy


class Truth:
    """Records how far a network is from a solution."""

    name = "truth"
    schedule = every(5)
    reads = "graph"

    def __init__(self, solution: Tensor) -> None:
        self.solution = solution

    def measure(self, snapshot: Snapshot) -> list[Scalar]:
        assert snapshot.model is not None
        error = snapshot.model(GRID).detach() - self.solution
        return [Scalar("relative_error", float(error.norm() / self.solution.norm()))]


def test_a_constant_that_satisfies_an_equation_is_not_its_solution(tmp_path: Path) -> None:
    net = network(1, 8, 1)
    solution = torch.cos(3 * GRID)

    def losses() -> dict[str, Tensor]:
        x = GRID.clone().requires_grad_()
        (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
        return {"residual": slope.square().mean()}

    def fields(model: nn.Module) -> dict[str, Tensor]:
        return {"prediction": model(GRID), "error": model(GRID) - solution}

    found = diagnosed(
        tmp_path / "run",
        net,
        losses,
        torch.optim.Adam(net.parameters(), lr=2e-2),
        150,
        instruments=[Losses(), Truth(solution), Fields(fields, grid=GRID)],
    )
    one = finding(found, "GP602")
    assert one.severity == "fail"
    assert one.evidence["spread_over_solutions"] < 0.1
    assert one.evidence["loss_fell_by"] > 100


def test_terms_that_do_not_add_up_and_an_instrument_that_fails(tmp_path: Path) -> None:
    class Broken:
        name = "broken"
        schedule = every(5)

        def measure(self, snapshot: Snapshot) -> list[Scalar]:
            raise RuntimeError("on purpose")

    net = network(1, 8, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
    with pytest.warns(UserWarning, match="on purpose"):
        found = diagnosed(
            tmp_path / "run",
            net,
            lambda: regression(net),
            optimizer,
            20,
            instruments=["light", Broken()],
        )
    assert finding(found, "GP702").evidence["instrument"] == "broken"
    assert check(found, "measurement").status == "warn"
