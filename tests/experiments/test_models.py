"""Models by name: the paper's table, and what replaces a part of it."""

import pytest
import torch

from gradpath.diagnostics import ParameterLayout
from gradpath.diagnostics.annealing import LearningRateAnnealing
from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import MLP, MODELS, PROBLEMS, GatedMLP, model, problem

TABLE = {"M1": (MLP, None), "M2": (MLP, "siam"), "M3": (GatedMLP, None), "M4": (GatedMLP, "siam")}

UNKNOWN = {
    "M5": "There is no model 'M5'",
    "m1": "There is no model 'm1'",
    "siam": "There is no model 'siam'",
    "M1+": "There is nothing called ''",
    "M3+adam": "There is nothing called 'adam'",
    "M1+early": "an option of a gated network",
    "M3+ntk+config": "says one thing twice",
    "M4+early+early": "says one thing twice",
    "M1+gd+lbfgs": "says one thing twice",
    "M2+hard": "has hard conditions, whose terms vanish, and weights for them",
}


@pytest.mark.parametrize("name", TABLE)
def test_table_is_that_of_the_paper(name: str) -> None:
    network_class, rule = TABLE[name]
    helmholtz = problem("helmholtz")
    network = MODELS[name].network(helmholtz)
    assert type(network) is network_class
    assert MODELS[name].weighting == rule
    assert (MODELS[name].balance(helmholtz, network) is None) == (rule is None)


def test_pieces_replace_parts() -> None:
    assert model("M1+ntk").weighting == "ntk"
    assert model("M2+arxiv_v1").weighting == "arxiv_v1"
    early = model("M4+early")
    assert (early.name, early.weighting, early.kind) == ("M4+early", "siam", "gated")
    network = early.network(problem("helmholtz"))
    assert isinstance(network, GatedMLP)
    assert network.gate == "early"


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_pieces_are_one_sentence(name: str) -> None:
    with pytest.raises(ArgumentError, match=UNKNOWN[name]) as raised:
        model(name)
    assert "\n" not in str(raised.value)


def test_annealing_compares_all_residuals_with_layers_but_not_encoders() -> None:
    cavity = problem("cavity")
    network = model("M4").network(cavity, [6, 6])
    balance = model("M4").balance(cavity, network)
    assert balance is not None
    assert isinstance(balance.rule, LearningRateAnnealing)
    assert balance.rule.reference == ("residual_u", "residual_v", "residual_c")
    assert balance.rule.layers == ("layers.0", "layers.1", "layers.2")
    assert set(ParameterLayout.of(network).layers) > set(balance.rule.layers)


def test_networks_take_seed_widths_and_dtype() -> None:
    poisson = problem("poisson")
    one, same, other = (
        model("M3").network(poisson, [7, 7], seed=seed, dtype=torch.float64) for seed in (1, 1, 2)
    )
    flat = [ParameterLayout.of(each).flatten() for each in (one, same, other)]
    assert flat[0].dtype == torch.float64
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


def test_optimizers_and_options_of_the_network_by_name() -> None:
    assert MODELS["M1"].optimizer == "adam"
    assert model("M2+lbfgs").optimizer == "lbfgs"
    several = model("M3+soap+fourier+ntk")
    assert (several.optimizer, several.weighting) == ("soap", "ntk")
    network = several.network(problem("helmholtz"), [7, 7])
    assert network.frequencies is not None
    assert network.layers[0].in_features == 2 * len(network.frequencies)


HARD = [name for name in PROBLEMS if problem(name).has_hard_conditions]


@pytest.mark.parametrize("name", HARD)
def test_with_hard_conditions_the_equation_alone_is_left(name: str) -> None:
    posed = problem(name)
    network = model("M3+hard").network(posed, [7, 7], dtype=torch.float64)
    batch = posed.sampler(16, dtype=torch.float64).draw(torch.Generator().manual_seed(0))
    for term, loss in posed.losses(network, batch).items():
        assert (loss.item() > 1e-3) == term.startswith("residual")
        assert term.startswith("residual") or loss.item() < 1e-25


def test_hard_conditions_are_asked_for_where_they_are_known() -> None:
    assert {"helmholtz", "poisson", "klein_gordon", "burgers", "wave"} <= set(HARD)
    with pytest.raises(ArgumentError, match="not known for 'convection'; leave out 'hard'"):
        model("M1+hard").network(problem("convection"))
