"""The points at which every training loop passes: backward passes and optimizer steps.

Whatever computes gradients into `.grad` calls `Tensor.backward` or `torch.autograd.backward`. While
somebody observes, functions of ours stand in their places and call the originals; the one calls the
other, directly or through a mode such as a default device, so only the outermost call counts. Steps
come from PyTorch's global hooks of optimizers. A new group of parameters passes through
`Optimizer.add_param_group`, also when an optimizer is made, which spares the search for new ones at
every step. Calls of `torch.autograd.grad` are looked at only to find TorchJD, which takes its
Jacobians with it, and to tell a user whose loop has no `backward()` at all: after the first
backward pass, and without TorchJD, it is the original again, for residuals call it all the time.

At most steps of most trainings nothing is due, and all observers sleep: until the optimizer has
stepped, they need not be told of backward passes in its thread.

When the last observer has gone, the originals stand where they stood.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd.graph import GradientEdge
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ..diagnostics.hooks import account_for, follow_retain_grad, is_ours
from . import autojac
from .observer import BackwardCall, Observer


class _Thread(threading.local):
    """What this thread is in the middle of."""

    inside = False


_OPTIMIZER_FILE = sys.modules[Optimizer.__module__].__file__

_observers: tuple[Observer, ...] = ()
_asleep: int | None = None  # the thread in which all observers sleep
_has_passed = False  # whether they have slept through a backward pass, of which they do not know
_lock = threading.RLock()
_thread = _Thread()
_undo: list[Callable[[], None]] = []
_let_go_of_grad: Callable[[], None] | None = None  # while calls of torch.autograd.grad are seen


def observe(observer: Observer) -> None:
    """From now on the observer is told of every backward pass and optimizer step."""
    global _observers
    with _lock:
        if not _observers:
            _install()
        _observers = (*_observers, observer)
        wake()
        _look_at_grad()


def release(observer: Observer) -> None:
    """The observer is told no more; when it was the last one, PyTorch is as it was."""
    global _observers
    with _lock:
        _observers = tuple(other for other in _observers if other is not observer)
        wake()
        if not _observers:
            _look_no_more_at_grad()
            while _undo:
                _undo.pop()()


def wake() -> None:
    """Observers are told of everything again: something may be due that was not."""
    global _asleep
    _asleep = None


@contextmanager
def unobserved() -> Iterator[None]:
    """Backward passes in this thread inside the block are nobody's business."""
    before, _thread.inside = _thread.inside, True
    try:
        yield
    finally:
        _thread.inside = before


def is_inside_a_step() -> bool:
    """Whether this is called from within `step()` of an optimizer, by its closure."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        # What PyTorch wraps around the step of every optimizer to call the hooks.
        if code.co_name == "wrapper" and code.co_filename == _OPTIMIZER_FILE:
            return True
        frame = frame.f_back
    return False


def _install() -> None:
    _undo.append(follow_retain_grad())
    _undo.append(_replace(Tensor, "backward", _observed_method))
    _undo.append(_replace(torch.autograd, "backward", _observed_backward))
    _undo.append(_replace(Optimizer, "add_param_group", _observed_add_param_group))
    # PyTorch takes what the first of them returns for the arguments of the step.
    before: Any = _before_step
    for handle in (
        register_optimizer_step_pre_hook(before),
        register_optimizer_step_post_hook(_after_step),
    ):
        account_for(handle)
        _undo.append(handle.remove)


def _look_at_grad() -> None:
    global _let_go_of_grad
    with _lock:
        if _let_go_of_grad is None:
            _let_go_of_grad = _replace(torch.autograd, "grad", _observed_grad)


def _look_no_more_at_grad() -> None:
    global _let_go_of_grad
    with _lock:
        let_go, _let_go_of_grad = _let_go_of_grad, None
        if let_go is not None:
            let_go()


def _replace(owner: Any, name: str, wrapping: Callable[[Any], Any]) -> Callable[[], None]:
    """Puts ours in the place of a function; returns what puts the original back."""
    original = vars(owner)[name]
    ours = wrapping(original)
    setattr(owner, name, ours)

    def restore() -> None:
        # Somebody else may have wrapped ours meanwhile: theirs stays, and ours passes through.
        if vars(owner).get(name) is ours:
            setattr(owner, name, original)

    return restore


def _observed_backward(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def backward(
        tensors: Any,
        grad_tensors: Any = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        grad_variables: Any = None,
        inputs: Any = None,
    ) -> None:
        if _sleeps() or not _observers or _is_nested():
            return original(
                tensors, grad_tensors, retain_graph, create_graph, grad_variables, inputs
            )
        roots = _as_tuple(tensors)
        assert roots is not None
        gradients = _as_tuple(grad_variables if grad_tensors is None else grad_tensors)
        call = BackwardCall(roots, gradients or (None,) * len(roots), _as_tuple(_values(inputs)))
        # What may be an iterator has been read; the original gets what was in it.
        inputs = inputs if inputs is None or isinstance(inputs, dict) else call.inputs
        with _observed(call):
            original(
                tensors if isinstance(tensors, Tensor | GradientEdge) else roots,
                grad_tensors,
                True if call.keeps_graph else retain_graph,
                create_graph,
                grad_variables,
                inputs,
            )
        return None

    return backward


def _observed_method(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def backward(
        self: Tensor,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        if _sleeps() or not _observers or _is_nested():
            return original(self, gradient, retain_graph, create_graph, inputs)
        call = BackwardCall((self,), (gradient,), _as_tuple(_values(inputs)))
        inputs = inputs if inputs is None or isinstance(inputs, dict) else call.inputs
        with _observed(call):
            original(
                self,
                gradient,
                True if call.keeps_graph else retain_graph,
                create_graph,
                inputs,
            )
        return None

    return backward


def backward_is_seen() -> None:
    """Calls of `torch.autograd.grad` need no look any more, for the loop has backward passes."""
    if _let_go_of_grad is not None and autojac.PACKAGE not in sys.modules:
        _look_no_more_at_grad()


def _sleeps() -> bool:
    """Whether a backward pass that begins in this thread is nobody's business; most are."""
    global _has_passed
    if _asleep != get_ident():
        return False
    _has_passed = True
    return True


@contextmanager
def _observed(call: BackwardCall) -> Iterator[None]:
    """Tells all observers before and, unless it fails, after a backward pass."""
    observers = _observers
    backward_is_seen()
    _thread.inside = True
    try:
        for observer in observers:
            observer.before_backward(call)
        yield
        for observer in observers:
            observer.after_backward(call)
    finally:
        _thread.inside = False


def _observed_grad(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def grad(*args: Any, **kwargs: Any) -> Any:
        if _sleeps() or not _observers or _is_nested():
            return original(*args, **kwargs)
        roots = autojac.differentiated(sys._getframe(1))
        if roots:
            call = BackwardCall(roots, (None,) * len(roots), through="autojac")
            key = id(roots[0]), len(roots)
            if getattr(_thread, "autojac", None) != key:
                # Its first gradient; the others belong to the same pass.
                _thread.autojac = key
                # It is called within a vmap, under which nothing could be measured.
                with temporarily_clear_interpreter_stack():
                    _tell("before_backward", call)
                    _tell("after_backward", call)
        elif _is_of_leaves(args[1] if len(args) > 1 else kwargs.get("inputs")):
            _tell("gradient_taken")
        return original(*args, **kwargs)

    return grad


def _observed_add_param_group(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def add_param_group(self: Optimizer, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        wake()
        _tell("parameters_added", self)

    return add_param_group


def _before_step(optimizer: Optimizer, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
    if not _observers or (_asleep == get_ident() and len(args) == 1 and not kwargs):
        return None
    _look_for_autojac()
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if not callable(closure):
        for observer in _observers:
            if observer.has_open_step:
                observer.before_step(optimizer)
        return None
    wake()
    _tell("before_step", optimizer)

    @functools.wraps(closure)
    def counted(*inner: Any, **named: Any) -> Any:
        _tell("closure_called", optimizer)
        return closure(*inner, **named)

    if "closure" in kwargs:
        return args, {**kwargs, "closure": counted}
    return (args[0], counted, *args[2:]), kwargs


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    global _asleep, _has_passed
    me = get_ident()
    may_sleep, was_asleep = True, _asleep == me
    has_passed, _has_passed = _has_passed, False  # also where somebody has woken them since
    for observer in _observers:
        if has_passed:
            observer.slept_through_a_pass()
        if was_asleep:
            may_sleep &= observer.after_idle_step(optimizer)
        else:
            may_sleep &= observer.after_step(optimizer)
    if _let_go_of_grad is not None:
        _thread.autojac = None
    _asleep = me if may_sleep else None
    if not may_sleep:
        _look_for_autojac()


def _look_for_autojac() -> None:
    if _let_go_of_grad is None and autojac.PACKAGE in sys.modules:
        _look_at_grad()


def _tell(event: str, *args: Any) -> None:
    for observer in _observers:
        getattr(observer, event)(*args)


def _is_nested() -> bool:
    # A backward pass inside another: of reentrant checkpointing, of a user's hook, or one that
    # comes back through a TorchFunctionMode, such as a default device.
    return _thread.inside or is_ours() or is_inside_a_pass()


def is_inside_a_pass() -> bool:
    """Whether this is called, by a hook for one, while the engine runs a backward pass."""
    return torch._C._current_graph_task_id() != -1


def _values(inputs: Any) -> Any:
    return inputs.values() if isinstance(inputs, dict) else inputs


def _as_tuple(value: Any) -> tuple[Any, ...] | None:
    if value is None:
        return None
    return (value,) if isinstance(value, Tensor | GradientEdge) else tuple(value)


def _is_of_leaves(inputs: Any) -> bool:
    """Whether gradients of leaves are asked for, as of parameters, not of points."""
    first = inputs
    if isinstance(inputs, Sequence) and not isinstance(inputs, Tensor):
        first = inputs[0] if inputs else None
    return isinstance(first, torch.nn.Parameter)
