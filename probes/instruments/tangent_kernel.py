"""The neural tangent kernel of the residuals of the terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ...diagnostics.kernel import tangent_kernel
from ..records import EigenvalueRecord, Field, Record, Scalar
from ..schedules import Schedule, log_spaced, within_budget
from ..snapshot import TOTAL, Snapshot
from .base import Reads
from .fields import evaluated


@dataclass(eq=False)
class TangentKernel:
    """Trace and eigenvalues of each term's block of the tangent kernel, and of the whole.

    Args:
        residuals: takes nothing or the model, and returns for each term its residuals at points,
            before they are squared, with a graph. A few hundred points of all terms together make
            the kernel exact.
        schedule: when.

    Records: scalars `kernel_trace`; eigenvalues `tangent_kernel`; fields `kernel_eigenvalues`,
    ascending, where the kernel is small enough to be formed.
    """

    residuals: Callable[..., Mapping[str, Tensor]]
    schedule: Schedule = field(default_factory=lambda: within_budget(0.05, log_spaced(2)))
    seed: int = 0
    name: str = "tangent_kernel"
    reads: Reads = "graph"

    def measure(self, snapshot: Snapshot) -> Iterator[Record]:
        """Yields what is known of each block."""
        residuals = evaluated(self.residuals, snapshot)
        kernel = tangent_kernel(residuals, snapshot.layout, seed=self.seed)
        for term, block in {**kernel.blocks, TOTAL: kernel.whole}.items():
            yield Scalar("kernel_trace", float(block.trace.value), term)
            yield EigenvalueRecord(block.largest, "largest", term, name="tangent_kernel")
            yield EigenvalueRecord(block.smallest, "smallest", term, name="tangent_kernel")
            if block.eigenvalues is not None:
                values = block.eigenvalues.cpu().numpy()
                yield Field("kernel_eigenvalues", values, term=term)
