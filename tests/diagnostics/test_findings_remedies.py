"""The weights that a finding names are those at which the rules themselves settle."""

import pytest
import torch
from torch import Tensor, nn

from gradpath import Run
from gradpath.diagnostics.checks.remedies import balancing_weights
from gradpath.diagnostics.gradients import term_gradients
from gradpath.diagnostics.layout import ParameterLayout
from gradpath.diagnostics.rules import Observation
from gradpath.diagnostics.weighting import PRESETS, weighting
from gradpath.probes.evidence import measurements
from tests.diagnostics.diagnosed import diagnosed, network

X = torch.linspace(0, 1, 16)[:, None]


def losses(net: nn.Module) -> dict[str, Tensor]:
    return {
        "residual": 30 * (net(X) - torch.cos(X)).square().mean(),
        "boundary": (net(X[:1]) - 1).square().mean(),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Recorded of one step, the network before it being `network(1, 6, 1)`."""
    folder = tmp_path_factory.mktemp("remedies") / "run"
    net = network(1, 6, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-9)
    diagnosed(folder, net, lambda: losses(net), optimizer, 2, instruments="light", interval=1)
    return balancing_weights(measurements(Run(folder)), weak="boundary", strong="residual")


def test_every_rule_is_a_preset(found: dict[str, float]) -> None:
    assert set(found) == set(PRESETS) & {
        "siam", "repo_cavity", "arxiv_v1", "neuralpde", "relative_balancing", "jaxpi_grad_norm",
        "expert_guide",
    }  # fmt: skip


@pytest.mark.parametrize("rule", ["siam", "repo_cavity", "arxiv_v1", "neuralpde",
                                  "relative_balancing", "jaxpi_grad_norm",
                                  "expert_guide"])  # fmt: skip
def test_a_rule_settles_where_the_finding_says(found: dict[str, float], rule: str) -> None:
    net = network(1, 6, 1)
    layout = ParameterLayout.of(net)
    gradients = term_gradients(losses(net), layout)
    known = PRESETS[rule].rule.__dataclass_fields__
    settings = {"reference": "residual"} if "reference" in known else {}
    # How fast it settles is not where.
    balance = weighting(rule, period=1, alpha=0.3, **settings)
    for step in range(50):
        weights = balance.update(Observation(step, gradients, layout, losses=[1.0, 1.0]))
    assert weights["boundary"] / weights["residual"] == pytest.approx(found[rule], rel=1e-3)
