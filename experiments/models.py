"""The paper's four models as one table, and others like them by name.

A model here is a network and a rule for the weights of the loss terms. Wang, Teng and Perdikaris
(SIAM J. Sci. Comput. 43(5), A3055, 2021) compare four: the plain network (M1), the plain network
with learning-rate annealing (M2), their gated network (M3), and both (M4). What is joined to such a
name with a plus sign replaces a part: "M3+config" is the gated network with ConFIG's weights,
"M1+lbfgs" the plain one with another optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch

from ..diagnostics.annealing import LearningRateAnnealing
from ..diagnostics.errors import ArgumentError
from ..diagnostics.rules import Weighting
from ..diagnostics.weighting import PRESETS, weighting
from .formulation import Problem
from .networks import MLP, GatedMLP
from .optimizers import OPTIMIZERS

_NETWORKS: Mapping[str, type[MLP]] = {"mlp": MLP, "gated": GatedMLP}


@dataclass(frozen=True)
class Model:
    """A network, a rule for the weights of the terms, and an optimizer."""

    name: str
    kind: Literal["mlp", "gated"]
    weighting: str | None = None  # a key of `diagnostics.PRESETS`; None: every weight is 1
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of the network
    optimizer: str = "adam"  # a key of `OPTIMIZERS`
    is_hard: bool = False  # whether the network meets initial and boundary conditions by itself

    def network(
        self,
        problem: Problem,
        hidden: Sequence[int] | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> MLP:
        """Returns a new network for a problem, by default as wide and deep as that of its source.

        Raises:
            ArgumentError: the network cannot have these hidden layers, or the problem's conditions
                cannot be met by the network itself.
        """
        network = _NETWORKS[self.kind]
        options = dict(self.options)
        if self.is_hard:
            if not problem.has_hard_conditions:
                raise ArgumentError(
                    f"{self.name!r} asks for hard conditions, which are not known for "
                    f"{problem.name!r}; leave out 'hard'."
                )
            options["transform"] = problem.constrained
        return network.for_problem(problem, hidden, seed=seed, dtype=dtype, **options)

    def balance(self, problem: Problem, network: MLP) -> Weighting | None:
        """Returns the rule for the weights, set up for a problem; None where all of them are 1.

        Rules that compare with a residual get all residuals of the problem's equation. Where only
        weight matrices count, only those of the layers do: the authors leave out the encoders.
        """
        if self.weighting is None:
            return None
        known = {setting.name for setting in fields(PRESETS[self.weighting].rule)}
        settings: dict[str, Any] = {}
        if "reference" in known:
            residuals = tuple(term for term in problem.terms if term.startswith("residual"))
            settings["reference"] = residuals if len(residuals) > 1 else residuals[0]
        rule = weighting(self.weighting).rule
        if isinstance(rule, LearningRateAnnealing) and rule.matrices_only:
            settings["layers"] = tuple(f"layers.{index}" for index in range(len(network.layers)))
        return weighting(self.weighting, **settings)


MODELS: Mapping[str, Model] = {
    each.name: each
    for each in (
        Model("M1", "mlp"),
        Model("M2", "mlp", "siam"),
        Model("M3", "gated"),
        Model("M4", "gated", "siam"),
    )
}
"""The models of the paper."""

_OPTIONS: Mapping[str, tuple[str | None, Mapping[str, Any]]] = {
    "early": ("gated", {"gate": "early"}),
    # With frequencies of deviation 1 in standardised coordinates.
    "fourier": (None, {"fourier": 64}),
}
"""Options by name: the kind of network that they belong to, None for any, and what they set."""

_HARD = "hard"


def model(name: str) -> Model:
    """Returns a model by name: one of the table, and what replaces a part of it after plus signs.

    Args:
        name: "M1" to "M4"; then, in any order, a preset of `diagnostics.weighting` in place of the
            weights; "gd" (gradient descent), "lbfgs" (Adam, then L-BFGS) or "soap" in place of
            Adam; "fourier" for Fourier features; "hard" for initial and boundary conditions that
            the network meets by itself; "early" for the gate that the authors' code had until July
            2021 (see `GatedMLP`).

    Raises:
        ArgumentError: a piece of the name is unknown, does not belong there, or is there twice.

    Example:
        >>> model("M3+config").weighting, model("M4+early").options
        ('config', {'gate': 'early'})
        >>> model("M1+fourier+lbfgs").optimizer
        'lbfgs'
    """
    first, *pieces = name.split("+")
    if first not in MODELS:
        raise ArgumentError(
            f"There is no model {first!r} in {name!r}; begin with one of {', '.join(MODELS)}."
        )
    alike = [sum(piece in those for piece in pieces) for those in (PRESETS, OPTIMIZERS)]
    if len(set(pieces)) < len(pieces) or max(alike) > 1:
        raise ArgumentError(
            f"{name!r} says one thing twice: give at most one weighting and one optimizer, once."
        )
    found = replace(MODELS[first], name=name)
    for piece in pieces:
        if piece in PRESETS:
            found = replace(found, weighting=piece)
        elif piece in OPTIMIZERS and piece != "adam":
            found = replace(found, optimizer=piece)
        elif piece == _HARD:
            found = replace(found, is_hard=True)
        elif piece in _OPTIONS:
            kind, options = _OPTIONS[piece]
            if kind not in (None, found.kind):
                raise ArgumentError(
                    f"{piece!r} in {name!r} is an option of a {kind} network, which {first} has "
                    "not; give it to M3 or M4."
                )
            found = replace(found, options={**found.options, **options})
        else:
            known = [*_OPTIONS, _HARD, *OPTIMIZERS, *PRESETS]
            raise ArgumentError(
                f"There is nothing called {piece!r} to add in {name!r}; choose one of "
                f"{', '.join(each for each in known if each != 'adam')}."
            )
    if found.is_hard and found.weighting is not None:
        raise ArgumentError(
            f"{name!r} has hard conditions, whose terms vanish, and weights for them; give 'hard' "
            "to M1 or M3, and no weighting."
        )
    return found
