"""What the forward pass of a step computed: the value of every small tensor, and where.

The autograd graph knows how a loss was put together, not the values of its terms nor their names
in the source. Where the caller's variables are gone by the time of the backward pass (they were
local to a function that has returned), a `ForwardRecording` of the forward pass has both.
"""

from __future__ import annotations

import ast
import linecache
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.overrides import TorchFunctionMode

# A loss term is one number; a few more are kept for terms that stand together in a vector.
_MOST_ENTRIES = 64

# Functions whose name says nothing about what they compute.
_NO_NAMES = frozenset(["forward", "__call__"])

# Longer pieces of source text are cut to this many characters when they become a name.
_MOST_CHARACTERS = 40


# How many calls are followed upwards to the one whose result has a name.
_MOST_CALLS = 4


_numbers = count()


@dataclass(frozen=True)
class Origin:
    """A place in the source, and the calls that led there."""

    calls: tuple[tuple[CodeType, int], ...]  # what the frames were executing, innermost first

    @property
    def place(self) -> str:
        """File and line, as "train.py:42"."""
        return f"{self.calls[0][0].co_filename}:{_positions(*self.calls[0])[0]}"

    @property
    def variable(self) -> str | None:
        """The variable or key that the source puts the very result into; None if it does not."""
        read = _read(self.calls[0][0].co_filename, _positions(*self.calls[0]))
        return None if read is None else read.given_name

    @property
    def name(self) -> str | None:
        """The name that the source gives to what is computed there, else the source text itself.

        That is the variable it is assigned to or its key in a dictionary. Where a function returns
        it, it is that of the function's result, else the name of the function. None where the
        source cannot be read.
        """
        function = text = None
        for code, instruction in self.calls:
            read = _read(code.co_filename, _positions(code, instruction))
            if read is None:
                break
            if read.given_name is not None:
                return read.given_name
            text = text or read.text
            if not read.is_returned:
                break
            if code.co_name in _NO_NAMES or code.co_name.startswith("<"):
                text = None  # what was called says more
            else:
                function = function or code.co_name
        return function or text


class ForwardRecording(TorchFunctionMode):
    """Records values and origins of small tensors while it is active.

    No number that the program computes is changed, but for one trap: PyTorch runs a function of
    `torch.compile` as it is written while any such mode is active, which may round differently. No
    graph lives longer for being recorded.

    Example:
        >>> w = torch.ones(2, requires_grad=True)
        >>> with ForwardRecording() as recording:
        ...     loss = w.square().sum() + w.sum()
        >>> [term.value for term in find_terms(loss, recording=recording)]
        [2.0, 2.0]
    """

    def __init__(self) -> None:
        super().__init__()
        # What is seen is written into the nodes of the graph, where PyTorch keeps what anomaly
        # detection has to remember: it lives and dies with them, and nothing lives longer for it.
        self._key = f"gradpath recording {next(_numbers)}"

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        frame = sys._getframe(1)
        # Neither a tensor class of the user's nor another mode shall see what is done here.
        with torch._C.DisableTorchFunction():
            # What a user's own autograd function returns is first seen where it is used.
            for tensor in _tensors_in((*args, *(kwargs or {}).values())):
                self._see(tensor, None)
        result = func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            for tensor in _tensors_in((result,)):
                self._see(tensor, frame)
        return result

    def _see(self, tensor: Tensor, frame: FrameType | None) -> None:
        if tensor.numel() > _MOST_ENTRIES:
            return
        try:
            node = tensor.grad_fn
        except RuntimeError:
            return  # one of several views of a tensor that was changed in place
        if node is None:
            return
        value, origin = self._seen(GradientEdge(node, tensor.output_nr)) or (None, None)
        # Functions such as `to` may return what they were given: the first to return it made it.
        if value is None or (origin is None and frame is not None):
            # A copy: the tensor may yet be changed in place, which makes another node.
            metadata: Any = node.metadata
            seen = metadata.setdefault(self._key, {})
            seen[tensor.output_nr] = (tensor.detach().clone(), _user_origin(frame))

    def value(self, edge: GradientEdge) -> Tensor | None:
        """Returns the value that the tensor of an edge had when it was made; None if not seen."""
        seen = self._seen(edge)
        return None if seen is None else seen[0]

    def origin(self, edge: GradientEdge) -> Origin | None:
        """Returns where the tensor of an edge was made; None if not seen."""
        seen = self._seen(edge)
        return None if seen is None else seen[1]

    def _seen(self, edge: GradientEdge) -> tuple[Tensor, Origin | None] | None:
        metadata: Any = edge.node.metadata
        found: tuple[Tensor, Origin | None] | None = metadata.get(self._key, {}).get(edge.output_nr)
        return found


def _tensors_in(values: Iterable[object]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from (member for member in value if isinstance(member, Tensor))


def user_frames(frame: FrameType | None) -> Iterator[FrameType]:
    """Yields `frame` and its callers, without those inside PyTorch and gradpath.

    The experiments of gradpath count as the user's: they train.
    """
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package not in ("torch", "gradpath") or module.startswith("gradpath.experiments"):
            yield frame
        frame = frame.f_back


def _user_origin(frame: FrameType | None) -> Origin | None:
    callers = islice(user_frames(frame), _MOST_CALLS)
    calls = tuple((each.f_code, each.f_lasti) for each in callers)
    return Origin(calls) if calls else None


def _positions(code: CodeType, instruction: int) -> tuple[int | None, ...]:
    """Returns line, last line, column and last column of the byte of an instruction."""
    return next(islice(code.co_positions(), instruction // 2, None), (None, None, None, None))


@dataclass(frozen=True)
class _Read:
    """What the source says of an expression."""

    given_name: str | None
    is_returned: bool
    text: str | None


@cache
def _read(filename: str, positions: tuple[int | None, ...]) -> _Read | None:
    parents = _parents(filename)
    node = _node_at(positions, parents)
    if node is None:
        return None
    if isinstance(node, ast.AugAssign):
        return _Read(_target(node.target), False, None)
    try:
        text = " ".join(ast.unparse(node).split())
    except RecursionError:
        text = ""
    if len(text) > _MOST_CHARACTERS:
        text = text[: _MOST_CHARACTERS - 1] + "…"
    is_returned = isinstance(parents[node], ast.Return | ast.Lambda)
    return _Read(_given_name(node, parents), is_returned, text or None)


def _node_at(
    positions: tuple[int | None, ...], parents: Iterable[ast.AST]
) -> ast.expr | ast.AugAssign | None:
    """Returns the expression at a line, last line, column and last column."""
    line, last_line, column, last_column = positions
    same_end = None
    for node in parents:
        if isinstance(node, ast.expr | ast.AugAssign) and (
            node.end_lineno,
            node.end_col_offset,
        ) == (last_line, last_column):
            if (node.lineno, node.col_offset) == (line, column):
                return node
            if isinstance(node, ast.Call):
                # Over several lines, the call of a method begins where its name stands.
                same_end = node
    return same_end


def _given_name(node: ast.expr, parents: dict[ast.AST, ast.AST]) -> str | None:
    parent = parents[node]
    match parent:
        case ast.Assign(targets=[target, *_]) | ast.AnnAssign(target=target):
            return _target(target)
        case ast.AugAssign(target=target) | ast.NamedExpr(target=target):
            return _target(target)
        case ast.Tuple(elts=values):
            match parents[parent]:
                case ast.Assign(targets=[ast.Tuple(elts=targets)]) if len(targets) == len(values):
                    return _target(targets[values.index(node)])
        case ast.keyword(arg=str(name)):
            match parents[parent]:
                case ast.Call(func=ast.Name(id="dict")):
                    return name
        case ast.Dict(keys=keys, values=values) if node in values:
            match keys[values.index(node)]:
                case ast.Constant(value=str(name)):
                    return name
    return None


def _target(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
    return None


@cache
def _parents(filename: str) -> dict[ast.AST, ast.AST]:
    """Returns the parent of each node of a source file; empty where there is no source."""
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}  # not Python, or nested more deeply than the parser goes
    return {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
