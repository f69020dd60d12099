"""Models by name: the paper's table, and what replaces a part of it."""

import pytest
import torch

from gradpath.diagnostics import ParameterLayout
from gradpath.diagnostics.annealing import LearningRateAnnealing
from gradpath.diagnostics.errors import ArgumentError
from gradpath.experiments import MLP, MODELS, GatedMLP, model, problem

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
