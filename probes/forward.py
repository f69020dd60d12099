"""Recording the forward pass of a step that will be measured, from the end of the step before.

A `ForwardRecording` is a mode of PyTorch's, and modes form a stack: whoever leaves a `with` block
takes the topmost one off. One that we put on top inside a user's block would be taken off in place
of the user's. So ours goes to the bottom of the stack, as `torch.set_default_device` does with its
own, which alone has to stay below.

PyTorch runs compiled functions as they are written while such a mode is active, which may round
differently. Where anything has been compiled, nothing is recorded.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch._C import _len_torch_function_stack
from torch.overrides import TorchFunctionMode, _pop_mode, _push_mode
from torch.utils._device import DeviceContext

from ..diagnostics.instances import alive
from ..diagnostics.recording import ForwardRecording

# One function in the place of `torch.compile` serves all, who may begin and end in any order.
_watching: list[ForwardPasses] = []
_compiles: list[Callable[..., Any]] = []  # the original and ours, while ours stands in its place


class ForwardPasses:
    """Records forward passes between `begin` and `end`, in the thread that calls them."""

    def __init__(self) -> None:
        self._may_record = True
        self._is_needed = True
        self._was_ever_needed = False
        self._active: _Recording | None = None
        self._over: list[_Recording] = []

    @property
    def is_wanted(self) -> bool:
        """Whether forward passes of measured steps are recorded."""
        return self._may_record and self._is_needed

    def learn(self, is_needed: bool) -> None:
        """Takes note of whether one pass needs it; of a GAN's losses one may and one may not."""
        self._was_ever_needed |= is_needed
        self._is_needed = self._was_ever_needed

    @property
    def is_recording(self) -> bool:
        """Whether a mode of ours may be on the stack."""
        return self._active is not None or bool(self._over)

    def watch_compiler(self) -> None:
        """Stops recording for good as soon as something is compiled, or if something has been."""
        if _has_compiled():
            self._may_record = False
            return
        if not _watching:
            _replace_compile()
        _watching.append(self)

    def unwatch_compiler(self) -> None:
        """Takes no more note of it; puts `torch.compile` back where nobody else does."""
        if self in _watching:
            _watching.remove(self)
            if not _watching:
                _restore_compile()

    def stop(self) -> None:
        """Stops recording for good."""
        self._may_record = False
        self.end()

    def begin(self) -> None:
        """Starts to record, if that is wanted."""
        if self.is_wanted and self._active is None:
            self._active = _Recording()
            _insert_at_bottom(self._active)

    def end(self) -> ForwardRecording | None:
        """Stops, and returns what was recorded."""
        recording, self._active = self._active, None
        if recording is not None:
            recording.is_over = True
            self._over.append(recording)
        # A mode is off the stack for as long as it handles a call; then it is taken off later.
        if self._over:
            self._over = [mode for mode in self._over if not _remove(mode)]
        return recording


class _Recording(ForwardRecording):
    """A recording that lets everything pass when it is over."""

    is_over = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_over:
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def _replace_compile() -> None:
    original = torch.compile

    @functools.wraps(original)
    def compile(*args: Any, **kwargs: Any) -> Any:
        for one in tuple(_watching):
            one.stop()
        return original(*args, **kwargs)

    _compiles[:] = original, compile
    torch.compile = compile


def _restore_compile() -> None:
    original, ours = _compiles
    # Somebody else may have wrapped ours meanwhile: theirs stays, and ours passes through.
    if torch.compile is ours:
        torch.compile = original
    _compiles.clear()


def _insert_at_bottom(mode: TorchFunctionMode) -> None:
    above = _take_all()
    if above and isinstance(above[-1], DeviceContext):
        _push_mode(above.pop())
    _push_mode(mode)
    _put_back(above)


def _remove(mode: TorchFunctionMode) -> bool:
    """Takes a mode off the stack of this thread; returns whether it was there."""
    modes = _take_all()
    _put_back([each for each in modes if each is not mode])
    return any(each is mode for each in modes)


def _take_all() -> list[TorchFunctionMode]:
    """Returns the modes of this thread, the topmost first, and leaves none."""
    return [_pop_mode() for _ in range(_len_torch_function_stack())]


def _put_back(modes: list[TorchFunctionMode]) -> None:
    for mode in reversed(modes):
        _push_mode(mode)


def _has_compiled() -> bool:
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is None:
        return False
    if alive(dynamo.OptimizedModule):
        return True
    return any(
        # PyTorch marks in the same way what is never to be compiled, which is much of its own.
        "_torchdynamo_orig_callable" in vars(function)
        and not vars(function).get("_torchdynamo_disable")
        for function in alive(FunctionType)
    )
