"""What autograd does not say of a graph before it runs on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.autograd.graph import GradientEdge

from .errors import NotTwiceDifferentiableError
from .graph_errors import BY_DIFFERENCES, REENTRANT, explain
from .hooks import walk_below


@dataclass(frozen=True)
class Survey:
    """What the engine does not say of a graph before it runs on it.

    To look at every node takes a tenth of a backward pass of a small network, so that who runs it
    many times over one graph looks once.
    """

    compiled: tuple[Any, ...]  # the nodes that run compiled code
    # Where a gradient would silently lack a part: the parameters inside a part under reentrant
    # checkpointing are no inputs of its node, and what @once_differentiable cuts off leads nowhere.
    # `backward()` meets such a node; the engine passes it by when it is asked for the gradient of
    # parameters alone.
    hiding: NotTwiceDifferentiableError | None

    @classmethod
    def of(cls, ends: Iterable[Tensor | GradientEdge]) -> Survey:
        """Returns what there is at and below the ends of a graph."""
        usual: set[type] = set()
        compiled: list[Any] = []
        hiding: NotTwiceDifferentiableError | None = None
        for node in walk_below(ends):
            kind = type(node)
            if kind in usual:
                continue
            # By name: DeepSpeed and Megatron have checkpoints of their own, of PyTorch's name.
            if kind.__name__ == "CheckpointFunctionBackward":
                hiding = hiding or NotTwiceDifferentiableError(REENTRANT)
            elif kind.__name__ == "Error":
                hiding = hiding or _told_by(node)
            elif kind.__name__.startswith("CompiledFunction"):
                compiled.append(node)
            else:
                usual.add(kind)
        return cls(tuple(compiled), hiding)

    def refuse_hiding(self, inputs: Sequence[Tensor | GradientEdge]) -> None:
        """Raises where the gradient of some inputs would lack a part."""
        if self.hiding and any(isinstance(tensor, Tensor) for tensor in inputs):
            # Raised once more, it would hold the frames, and so the graphs, of all times before.
            raise self.hiding.with_traceback(None)


def _told_by(node: Any) -> NotTwiceDifferentiableError:
    """Returns what a node that only raises an error has to say."""
    reason = "without saying why"
    try:
        node(None)
    except RuntimeError as error:
        explained = explain(error)
        if isinstance(explained, NotTwiceDifferentiableError):
            return explained
        reason = str(error).partition("\n")[0]
    return NotTwiceDifferentiableError(
        f"PyTorch cannot differentiate a part of this loss again ({reason}): replace that part, "
        f"{BY_DIFFERENCES}."
    )
