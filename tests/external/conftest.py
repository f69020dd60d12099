"""Collects what the scripts of this folder show, and writes it down where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.external.compatibility import Outcome, write_page


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compatibility", metavar="FILE", help="write what the scripts show as a table"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--compatibility", None) and config.getoption("numprocesses", None):
        raise pytest.UsageError("Each process knows a part of the table: leave -n out.")


@pytest.fixture(scope="session")
def outcomes(request: pytest.FixtureRequest) -> Iterator[Callable[[Outcome], None]]:
    """Takes note of what one script has shown."""
    found: list[Outcome] = []
    yield found.append
    path = request.config.getoption("--compatibility", None)
    if path is not None and found:
        write_page(found, Path(path))
