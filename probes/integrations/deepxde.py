"""DeepXDE with PyTorch: terms named after the residuals and the conditions of the problem.

DeepXDE stacks the losses, weighs the stack and sums it, and by then nothing is left of the names
that the user gave: without this callback a probe calls the terms `losses[0]`, `losses[1]`, ... The
callback stands between: `data.losses_train` returns the unweighted losses, residuals first, then
conditions in the order of the user's list.
"""

from __future__ import annotations

import ast
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from torch import Tensor

from ...diagnostics.errors import ArgumentError
from ...diagnostics.term_groups import numbered
from ...diagnostics.term_names import variables_of
from ..probe import Probe
from .missing import missing

try:
    import deepxde as dde
except ImportError as error:
    raise missing("deepxde", "deepxde", error) from error


class ProbeCallback(dde.callbacks.Callback):
    """Probes `model.train(callbacks=[ProbeCallback("runs/a")])`, one call after another.

    Args:
        run: the folder of the run.
        terms: names for the losses in DeepXDE's order: residuals, then conditions. By default a
            residual is called what the function of the equations calls it, or like that function
            where there is one alone, and a condition like the variable that holds it.
        **options: of `Probe`.

    Raises:
        ArgumentError: DeepXDE works with another backend than PyTorch.
    """

    def __init__(
        self,
        run: str | os.PathLike[str],
        *,
        terms: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if dde.backend.backend_name != "pytorch":
            raise ArgumentError(
                f"DeepXDE works with {dde.backend.backend_name} here: set DDE_BACKEND=pytorch "
                "before it is imported."
            )
        self.probe: Probe | None = None
        self._run, self._options, self._terms = run, options, terms

    def on_train_begin(self) -> None:
        """Attaches the probe."""
        if self.probe is None:
            self.probe = Probe(self.model.net, self._run, **self._options)
        probe, data = self.probe.attach(), self.model.data
        names: list[str] = []
        frame = sys._getframe(1)
        original = data.losses_train

        def losses_train(*args: Any, **kwargs: Any) -> Any:
            losses = original(*args, **kwargs)
            if not names:
                given = self._terms
                names.extend(term_names(data, len(losses), frame) if given is None else given)
            if len(names) == len(losses):
                probe.watch(dict(zip(names, map(_scalar, losses), strict=True)))
            return losses

        data.losses_train = losses_train

    def on_train_end(self) -> None:
        """Detaches the probe; it goes on with the run at the next `train`."""
        if self.probe is not None:
            vars(self.model.data).pop("losses_train", None)
            self.probe.detach()


def term_names(data: Any, count: int, frame: FrameType | None) -> list[str]:
    """Returns names for the losses of a problem: of its residuals, then of its conditions.

    Args:
        data: the problem, a `deepxde.data.Data`.
        count: how many losses it has.
        frame: from which on outwards variables are looked for that hold its conditions.
    """
    conditions = list(getattr(data, "bcs", []))
    residuals = count - len(conditions)
    equations = getattr(data, "pde", None)
    names = residual_names(equations, residuals) if equations is not None else ["loss"] * residuals
    names += [_variable(condition, frame) for condition in conditions]
    taken: set[str] = set()
    return [numbered(name, taken) for name in names]


def residual_names(equations: Callable[..., Any], count: int) -> list[str]:
    """Returns what a function of so many equations calls its residuals."""
    name = getattr(equations, "__name__", "<lambda>")
    name = "residual" if name == "<lambda>" else name
    if count == 1:
        return [name]
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(equations)))
    except (OSError, TypeError, SyntaxError):
        tree = ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.Return) and isinstance(node.value, ast.List | ast.Tuple):
            returned = [each.id for each in node.value.elts if isinstance(each, ast.Name)]
            if len(returned) == len(node.value.elts) == count:
                return returned
    return [f"{name}[{i}]" for i in range(count)]


def _variable(condition: object, frame: FrameType | None) -> str:
    while frame is not None:
        if not str(frame.f_globals.get("__name__", "")).startswith("deepxde."):
            for name, value in variables_of(frame):
                if value is condition:
                    return name
        frame = frame.f_back
    return type(condition).__name__


def _scalar(loss: Tensor) -> Tensor:
    return loss if loss.ndim == 0 else loss.mean()
