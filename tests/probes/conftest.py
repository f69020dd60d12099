"""What holds for every test of the probes: none leaves a probe on the process."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _no_probe_is_left_over() -> Iterator[None]:
    yield
    module = sys.modules.get("gradpath.probes.probe")
    left = list(module._unfinished) if module else []
    for probe in left:
        probe.detach()
    assert left == []
