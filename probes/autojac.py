"""Finding the calls of TorchJD's `autojac`, which takes Jacobians with `torch.autograd.grad`.

Its functions may be bound to names of the user's before anybody observes, so they are found by
their frames and by the names of their arguments, which are public.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FrameType

from torch import Tensor

PACKAGE = "torchjd.autojac"


def differentiated(frame: FrameType | None) -> tuple[Tensor, ...]:
    """Returns what the call of `autojac` differentiates that a gradient is taken for.

    Args:
        frame: that called `torch.autograd.grad`.

    Returns:
        Nothing for any other call.
    """
    if frame is None or not _module_of(frame).startswith(PACKAGE):
        return ()
    found = None
    # Those of PyTorch lie between, as of vmap.
    while frame is not None and _module_of(frame).partition(".")[0] in ("torch", "torchjd"):
        is_entry = frame.f_code.co_name in ("backward", "mtl_backward")
        if is_entry and _module_of(frame).startswith(PACKAGE):
            found = frame
        frame = frame.f_back
    if found is None:
        return ()
    tensors = found.f_locals.get("tensors")
    if isinstance(tensors, Tensor):
        return (tensors,)
    roots = tuple(tensors) if isinstance(tensors, Sequence) else ()
    return roots if all(isinstance(root, Tensor) for root in roots) else ()


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
