"""What autograd does not say of a graph before it runs on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from threading import get_ident
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

    @property
    def finds_nothing(self) -> bool:
        """Whether the graph is one of usual nodes alone."""
        return not self.compiled and self.hiding is None

    def refuse_hiding(self, inputs: Sequence[Tensor | GradientEdge]) -> None:
        """Raises where the gradient of some inputs would lack a part."""
        if self.hiding and any(isinstance(tensor, Tensor) for tensor in inputs):
            # Raised once more, it would hold the frames, and so the graphs, of all times before.
            raise self.hiding.with_traceback(None)


# How often in a row a graph is taken for the one before: other code may make as many nodes.
_MOST_TIMES = 15


class FamiliarGraphs:
    """Surveys graphs, and knows one again that is built like the one before.

    Autograd numbers the nodes that a thread makes. Where from one step to the next as many were
    made, and the graph begins at the same kinds of nodes, in the same distances, a loop has run the
    same code once more; to look at all nodes would take a twentieth of the step of a small network.
    What was found to be unusual is always looked at, and the usual from time to time.

    Attributes:
        knew_it: whether the last graph was known again.
    """

    def __init__(self) -> None:
        self.knew_it = False
        self._times = 0  # that a graph was known again
        self._survey: Survey | None = None
        self._last = 0  # the number of the last node of the graph before
        self._signature: tuple[Any, ...] = ()
        self._graph: tuple[Any, ...] = ()

    def survey(self, ends: Sequence[Tensor | GradientEdge]) -> Survey:
        """Returns what there is at and below the ends of a graph; tensors have a `grad_fn`."""
        numbers: list[int] = []
        kinds: list[type] = []
        for end in ends:
            node: Any = end.grad_fn if isinstance(end, Tensor) else end.node
            numbers.append(node._sequence_nr())
            kinds.append(type(node))
            kinds += [type(child) for child, _ in node.next_functions]
        last = max(numbers, default=0)
        graph = get_ident(), last, kinds  # each thread numbers its nodes for itself
        if graph == self._graph and self._survey is not None:
            return self._survey  # asked once more
        self._graph = graph
        signature = (last - self._last, [last - number for number in numbers], kinds)
        self.knew_it = signature == self._signature
        self._last, self._signature = last, signature
        self._times += 1
        if (
            self._survey is None
            or not (self.knew_it and self._survey.finds_nothing)
            or self._times > _MOST_TIMES
        ):
            self._survey, self._times = Survey.of(ends), 0
        return self._survey


Way = tuple[int, ...]
"""Which input to take at each node, from the end of a graph to a leaf."""


def way_to_a_leaf(node: Any, leaves: Collection[int]) -> tuple[Way, Tensor] | None:
    """Returns the shortest way from a node to one of some leaves, given by their ids."""
    ways: deque[tuple[Any, Way]] = deque([(node, ())])
    seen = {node}
    while ways:
        node, way = ways.popleft()
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, Tensor) and id(leaf) in leaves:
            return way, leaf
        for place, (child, _) in enumerate(node.next_functions):
            if child is not None and child not in seen:
                seen.add(child)
                ways.append((child, (*way, place)))
    return None


def leads_to(node: Any, way: Way, leaf: Tensor) -> bool:
    """Whether the same way leads to the same leaf, in a graph that is made by the same code."""
    for place in way:
        inputs = node.next_functions
        if place >= len(inputs) or inputs[place][0] is None:
            return False
        node = inputs[place][0]
    return getattr(node, "variable", None) is leaf


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
