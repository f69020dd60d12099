"""What compiled code has saved for its backward pass, kept while that runs more than once.

Compiled code may use the memory of what it has saved for something else, once it has read it.
PyTorch refuses to run such code twice where it knows of it; but its cache on disk may hold such
code for a graph of which it knows nothing of the kind (seen with PyTorch 2.13, by other settings of
`donated_buffer` and of its caches). Run twice, that computes wrong gradients without a word, and
the user's own backward pass would be the second time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


class SavedByCompiledCode:
    """Copies of what the compiled parts of a graph have saved.

    Args:
        nodes: those of the graph that run compiled code.

    Raises:
        RuntimeError: PyTorch's, where the graph has been freed.
    """

    def __init__(self, nodes: Iterable[Any]) -> None:
        self._copies: list[tuple[Tensor, Tensor]] = []
        for node in nodes:
            for saved in getattr(node, "saved_tensors", ()):
                # Parameters and what is expanded are never overwritten.
                if not saved.requires_grad and 0 not in saved.stride():
                    self._copies.append((saved, saved.detach().clone()))

    def restore(self) -> None:
        """Puts everything back; autograd takes no note, for to it nothing has changed."""
        for saved, copy in self._copies:
            saved.data.copy_(copy)
