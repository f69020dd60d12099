"""What a report refers to: the sources of its definitions, and those of its findings."""

from __future__ import annotations

from ..diagnostics.findings import Diagnosis

_DEFINITIONS = (
    "S. Wang, Y. Teng, P. Perdikaris: Understanding and mitigating gradient flow pathologies in "
    "physics-informed neural networks. SIAM Journal on Scientific Computing 43(5), A3055-A3081, "
    "2021. doi:10.1137/20M1318043",
    "S. Wang et al.: Gradient alignment in physics-informed neural networks: a second-order "
    "optimization perspective. NeurIPS 2025. arXiv:2502.00604",
    "J. M. Cohen et al.: Adaptive gradient methods at the edge of stability. 2022. "
    "arXiv:2207.14484",
)

# What a finding says whose threshold comes from our own runs.
_OURS = "observed by gradpath"


def references(diagnosis: Diagnosis | None = None) -> tuple[str, ...]:
    """Returns the sources of the definitions, then those of findings that are not among them."""
    sources = [] if diagnosis is None else [finding.source for finding in diagnosis.findings]
    published = [source for source in sources if source and source != _OURS]
    return tuple(dict.fromkeys([*_DEFINITIONS, *published]))
