"""How large a curvature an optimizer can stand.

On a quadratic loss with Hessian H every method here multiplies the error along a direction by a
fixed factor a step. It stays bounded while the largest eigenvalue of D^-1 H is below a limit that
the method's settings give; D is the diagonal by which it divides the gradient (none for gradient
descent). Above the limit the error flips its sign and grows with every step. Negative curvature is
no matter of this limit: every method leaves a saddle point, and is meant to.

Networks are no quadratics. Full-batch training tends to rise to the limit and hover there, the edge
of stability (Cohen et al. 2021, arXiv 2103.00065; for Adam 2022, arXiv 2207.14484); small batches
stay below it. docs/stability.md says what that means in practice.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from .errors import ArgumentError
from .layout import ParameterLayout, ParameterSlot
from .operators import Descended, Preconditioned, SymmetricOperator


def momentum_limit(
    learning_rate: float, momentum: float = 0.0, dampening: float = 0.0, nesterov: bool = False
) -> float:
    """Returns the largest stable curvature of `torch.optim.SGD` with these settings.

    It is 2 / eta for plain gradient descent, (2 + 2 m) / ((1 - d) eta) with momentum m and
    dampening d, and (2 + 2 m) / ((1 + 2 m) eta) with Nesterov's momentum, which stands less than
    plain gradient descent. Infinite for a learning rate of zero.

    Source: Cohen et al. 2021, arXiv 2103.00065; with dampening, the derivation in the code.

    Raises:
        ArgumentError: a negative learning rate, momentum outside [0, 1) or dampening above 1, with
            which no curvature is stable; or dampening with `nesterov`, which PyTorch refuses.

    Example:
        >>> momentum_limit(0.1), round(momentum_limit(0.1, 0.9), 9)
        (20.0, 38.0)
    """
    # Along an eigenvector of curvature h heavy ball is
    #     x' = (1 + m - (1 - d) eta h) x - m x_before,
    # and Nesterov's method (d = 0)
    #     x' = (1 + m) (1 - eta h) x - m (1 - eta h) x_before.
    # With |m| < 1 the first root of z^2 - a z + b to leave the unit circle as h grows is z = -1,
    # which is where 1 + a + b = 0.
    _require(learning_rate >= 0, f"A learning rate of {learning_rate} climbs the loss.")
    _require(0 <= momentum < 1, f"A momentum of {momentum} is outside [0, 1): no error decays.")
    _require(dampening <= 1, f"A dampening of {dampening} is above 1: the method climbs the loss.")
    _require(not (nesterov and dampening), "Nesterov's momentum has no dampening in PyTorch.")
    if nesterov:
        return _divide(2 + 2 * momentum, (1 + 2 * momentum) * learning_rate)
    return _divide(2 + 2 * momentum, (1 - dampening) * learning_rate)


def adam_limit(
    learning_rate: float, beta1: float = 0.9, decoupled_weight_decay: float = 0.0
) -> float:
    """Returns the largest stable eigenvalue of Adam's preconditioned Hessian.

    It is (2 + 2 b1) / ((1 - b1) eta), which is 38 / eta for b1 = 0.9. With AdamW's decoupled weight
    decay w the numerator becomes (2 - eta w) (1 + b1). Infinite for a learning rate of zero.

    Source: Cohen et al. 2022, arXiv 2207.14484; with weight decay, the derivation in the code.

    Raises:
        ArgumentError: beta1 outside [0, 1), a negative learning rate, or a weight decay with which
            AdamW overshoots zero by more than it started from (eta w outside [0, 2]).

    Example:
        >>> round(adam_limit(1e-3))
        38000
    """
    # m' = b1 m + (1 - b1) h x and x' = (1 - eta w) x - eta m', in the metric of the preconditioner:
    #     x' = (1 - eta w + b1 - (1 - b1) eta h) x - b1 (1 - eta w) x_before,
    # which is heavy ball with dampening b1 where w = 0; z = -1 is again the first root to leave.
    decay = learning_rate * decoupled_weight_decay
    _require(learning_rate >= 0, f"A learning rate of {learning_rate} climbs the loss.")
    _require(0 <= beta1 < 1, f"A beta1 of {beta1} is outside [0, 1): no error decays.")
    _require(
        0 <= decay < 2,
        f"Learning rate times decoupled weight decay is {decay}, outside [0, 2): the decay alone "
        "throws the parameters past zero by more than they started from.",
    )
    return _divide((2 - decay) * (1 + beta1), (1 - beta1) * learning_rate)


@dataclass(frozen=True, eq=False)
class OptimizerStability:
    """The largest curvature that an optimizer stands in its present state.

    Unstable where the largest eigenvalue of D^(-1/2) H D^(-1/2) is above `limit`. H is the Hessian
    of what the optimizer descends on: that of the loss, negated where it maximises, with the weight
    decay added to its diagonal. `operator` makes D^(-1/2) H D^(-1/2) of the loss's Hessian.
    """

    limit: float | None  # None where no limit is known
    # D: infinite for entries that the optimizer does not move; None where D is the identity.
    diagonal: Float[Tensor, " params"] | None
    # Weight decay that is part of the gradient; the decoupled one of AdamW is in the limit.
    weight_decay: Float[Tensor, " params"] | None
    maximize: bool  # whether the optimizer climbs the loss
    held: tuple[str, ...]  # parameters of the layout that the optimizer does not move
    rule: str  # the formula of the limit and its source
    status: str  # how to read the limit, or why there is none
    begins: bool = False  # whether the limit only waits for the optimizer's first step

    def operator(self, hessian: SymmetricOperator) -> SymmetricOperator:
        """Returns the operator whose largest eigenvalue is to be compared with `limit`.

        Args:
            hessian: of the loss, on the layout that the optimizer was read for.

        Raises:
            ArgumentError: no limit is known, or the Hessian has another size.
        """
        if self.limit is None:
            raise ArgumentError(self.status)
        if self.maximize or self.weight_decay is not None:
            hessian = Descended(hessian, self.maximize, self.weight_decay)
        return hessian if self.diagonal is None else Preconditioned(hessian, self.diagonal)


def optimizer_stability(optimizer: Optimizer, layout: ParameterLayout) -> OptimizerStability:
    """Returns the stability limit of an optimizer as it stands, with its preconditioner.

    Rules are known for `SGD`, `Adam`, `AdamW` (AMSGrad included) and `RMSprop` of `torch.optim`. Of
    any other optimizer the result says that none is known. Nothing of the optimizer is changed.

    The preconditioner is that of the last step. For Adam after t steps it carries the bias
    corrections of both moments (Cohen et al. 2022, arXiv 2207.14484):

        D = (1 - b1^t) (sqrt(nu_t / (1 - b2^t)) + eps)

    Where parameter groups have different limits, that of the first is given, and the diagonal of
    each other group is multiplied by the ratio of its limit to the first: one number is compared.

    Args:
        optimizer: the one that trains the parameters.
        layout: the parameters that the Hessian is for. Those of them that the optimizer does not
            own, or that no gradient has reached yet, are held: their diagonal is infinite.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> sgd = torch.optim.SGD(net.parameters(), lr=0.01)
        >>> stability = optimizer_stability(sgd, ParameterLayout.of(net))
        >>> stability.limit, stability.rule
        (200.0, 'gradient descent: 2 / eta (Cohen et al. 2021, arXiv 2103.00065)')
    """
    try:
        return _known_stability(optimizer, layout)
    except ArgumentError as reason:
        status = f"No stability limit is known for this {type(optimizer).__name__}: {reason}"
        begins = isinstance(reason, _NoStepYetError)
        return OptimizerStability(None, None, None, False, (), "none", status, begins)


class _NoStepYetError(ArgumentError):
    """An optimizer has no preconditioner before its first step."""


@dataclass(frozen=True, eq=False)
class _Owned:
    """A parameter that the optimizer moves."""

    slot: ParameterSlot
    group: Mapping[str, Any]  # the settings of its parameter group
    state: Mapping[str, Any]  # what the optimizer remembers of it


@dataclass(frozen=True)
class _Rule:
    """What is known of one of PyTorch's optimizers."""

    kind: type[Optimizer]
    formula: Callable[[Mapping[str, Any]], str]  # from the settings of a group
    limit: Callable[[Mapping[str, Any]], float]  # from the settings of a group
    # What the gradient of a parameter is divided by; None for a method without a preconditioner.
    divisor: Callable[[Mapping[str, Any], Mapping[str, Any]], Tensor] | None = None


def _known_stability(optimizer: Optimizer, layout: ParameterLayout) -> OptimizerStability:
    """Returns the limit; raises ArgumentError with the reason where there is none."""
    rule = _rule_of(optimizer)
    owned = _owned(optimizer, layout)
    _require(bool(owned), "it owns none of these parameters.")
    if rule.divisor is not None:
        # No gradient has reached a parameter that has no state while others have.
        owned, candidates = [p for p in owned if p.state], owned
        if not owned:
            raise _NoStepYetError(
                "its preconditioner comes into being with its first step (the rule will be "
                f"{rule.formula(candidates[0].group)})."
            )
    first = owned[0].group
    maximize = bool(first["maximize"])
    _require(
        all(bool(parameter.group["maximize"]) is maximize for parameter in owned),
        "it climbs the loss in some parameters and descends in others, and a search for a saddle "
        "point has no limit of this form.",
    )
    limits = [rule.limit(parameter.group) for parameter in owned]
    limit = next((value for value in limits if value < math.inf), math.inf)

    # One number for groups of different limits: entry j of D is multiplied by limit_j / limit. That
    # is exact, also for different momenta. With mode z^t x, each entry of the error obeys
    # (H x)_j = g_j(z) x_j, where g_j depends on the settings of its group alone, is limit_j D_j at
    # z = -1 and grows from there to infinity along the negative axis. Outside the unit circle
    # Im g_j has the opposite sign of Im z for every j, so x.H x = sum_j g_j |x_j|^2, being real,
    # leaves no complex z there; and a real z < -1 exists just where H exceeds diag(limit_j D_j).
    dtype = torch.promote_types(layout.dtype, torch.float32)
    diagonal = torch.full((layout.size,), math.inf, dtype=dtype, device=layout.device)
    shift = torch.zeros_like(diagonal)
    for parameter, own_limit in zip(owned, limits, strict=True):
        place = parameter.slot.slice
        # All of them infinite: every learning rate is zero, and there is no ratio to take.
        ratio = own_limit / limit if limit < math.inf else 1.0
        divisor = rule.divisor(parameter.group, parameter.state) if rule.divisor else 1.0
        diagonal[place] = ratio * divisor
        if not parameter.group["decoupled_weight_decay"]:
            shift[place] = _number(parameter.group["weight_decay"])
    _require(
        bool((diagonal > 0).all()),
        "its second moments are not finite, or zero where eps is zero as well.",
    )
    moving = {p.slot.name for p in owned if _number(p.group["lr"]) > 0}
    held = tuple(slot.name for slot in layout.slots if slot.name not in moving)
    shifted = bool(shift.any())
    plain = bool((diagonal == 1).all())
    return OptimizerStability(
        limit,
        None if plain else diagonal,
        shift if shifted else None,
        maximize,
        held,
        rule.formula(first),
        _status(plain, shifted, maximize, held),
    )


def _rule_of(optimizer: Optimizer) -> _Rule:
    for rule in _RULES:
        # A subclass with a step of its own is another method. PyTorch wraps step() in decorators
        # when the first optimizer of a class is made.
        own_step = inspect.unwrap(type(optimizer).step) is inspect.unwrap(rule.kind.step)
        if isinstance(optimizer, rule.kind) and own_step:
            return rule
    names = ", ".join(rule.kind.__name__ for rule in _RULES)
    raise ArgumentError(f"the rules here are for {names} of torch.optim.")


def _owned(optimizer: Optimizer, layout: ParameterLayout) -> list[_Owned]:
    # Before PyTorch 2.7 AdamW was a class of its own and had no such setting in its groups.
    default = {"decoupled_weight_decay": isinstance(optimizer, AdamW)}
    groups = {
        id(parameter): default | group
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return [
        # Not state[parameter]: that would create an entry.
        _Owned(slot, groups[id(parameter)], optimizer.state.get(parameter, {}))
        for slot, parameter in zip(layout.slots, layout.parameters, strict=True)
        if id(parameter) in groups
    ]


def _status(plain: bool, shifted: bool, maximize: bool, held: tuple[str, ...]) -> str:
    operator = ("-H" if maximize else "H") + (" + weight decay" if shifted else "")
    if not plain:
        operator = f"D^(-1/2) ({operator}) D^(-1/2)" if operator != "H" else "D^(-1/2) H D^(-1/2)"
    status = f"Unstable where the largest eigenvalue of {operator} is above the limit."
    if held:
        more = f" and {len(held) - 3} more" if len(held) > 3 else ""
        status += f" Not moved by this optimizer: {', '.join(held[:3])}{more}."
    return status


def _sgd_formula(group: Mapping[str, Any]) -> str:
    if not group["momentum"]:
        return "gradient descent: 2 / eta (Cohen et al. 2021, arXiv 2103.00065)"
    if group["nesterov"]:
        formula = "Nesterov momentum: (2 + 2 m) / ((1 + 2 m) eta)"
    elif group["dampening"]:
        formula = "momentum with dampening: (2 + 2 m) / ((1 - d) eta)"
    else:
        formula = "momentum: (2 + 2 m) / eta"
    return f"{formula} (Cohen et al. 2022, arXiv 2207.14484)"


def _sgd_limit(group: Mapping[str, Any]) -> float:
    # PyTorch looks at neither without momentum.
    dampening = group["dampening"] if group["momentum"] else 0.0
    nesterov = group["nesterov"] and group["momentum"]
    return momentum_limit(
        _number(group["lr"]), _number(group["momentum"]), _number(dampening), bool(nesterov)
    )


def _adam_formula(group: Mapping[str, Any]) -> str:
    decayed = group["decoupled_weight_decay"] and group["weight_decay"]
    numerator = "(2 - eta w) (1 + b1)" if decayed else "(2 + 2 b1)"
    return (
        f"Adam: {numerator} / ((1 - b1) eta) on the preconditioned Hessian "
        "(Cohen et al. 2022, arXiv 2207.14484)"
    )


def _adam_limit(group: Mapping[str, Any]) -> float:
    decay = _number(group["weight_decay"]) if group["decoupled_weight_decay"] else 0.0
    return adam_limit(_number(group["lr"]), _number(group["betas"][0]), decay)


def _adam_divisor(group: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    steps = _number(state["step"])
    first, second = (1 - math.pow(_number(beta), steps) for beta in group["betas"])
    # AMSGrad keeps the running maximum as it is and corrects it like the last moment.
    moment = _entries(state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"])
    return first * ((moment / second).sqrt() + _number(group["eps"]))


def _rmsprop_formula(group: Mapping[str, Any]) -> str:
    numerator = "(2 + 2 m)" if group["momentum"] else "2"
    return (
        f"RMSprop: {numerator} / eta on the preconditioned Hessian "
        "(Cohen et al. 2022, arXiv 2207.14484)"
    )


def _rmsprop_limit(group: Mapping[str, Any]) -> float:
    return momentum_limit(_number(group["lr"]), _number(group["momentum"]))


def _rmsprop_divisor(group: Mapping[str, Any], state: Mapping[str, Any]) -> Tensor:
    moment = _entries(state["square_avg"])
    if group["centered"]:
        moment = moment - _entries(state["grad_avg"]).square()
    return moment.sqrt() + _number(group["eps"])


_RULES = (
    _Rule(SGD, _sgd_formula, _sgd_limit),
    _Rule(AdamW, _adam_formula, _adam_limit, _adam_divisor),
    _Rule(Adam, _adam_formula, _adam_limit, _adam_divisor),
    _Rule(RMSprop, _rmsprop_formula, _rmsprop_limit, _rmsprop_divisor),
)


def _entries(moment: Tensor) -> Float[Tensor, " entries"]:
    """Returns an optimizer's moment as real entries in the layout's order."""
    # PyTorch keeps the moments of the real and the imaginary part in one complex tensor.
    real = torch.view_as_real(moment) if moment.is_complex() else moment
    real = real.detach().reshape(-1)
    return real.to(torch.promote_types(real.dtype, torch.float32))


def _number(setting: float | Tensor) -> float:
    """Returns a setting that PyTorch also allows to be a tensor of one entry."""
    return float(setting.detach()) if isinstance(setting, Tensor) else float(setting)


def _divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.inf


def _require(holds: bool, reason: str) -> None:
    if not holds:
        raise ArgumentError(reason)
