"""The page as a file: one policy, one script, no address of anything else, and small."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from gradpath.reports.html import render_html
from tests.reports.contents import content_of, with_panels, write_histograms

BLOCK = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    run = write_histograms(folder / "html", ("residual", "boundary"), ("0", "2"), (0, 10))
    return render_html(with_panels({"run": run})).decode()


def test_policy_names_the_one_script_and_the_one_style_sheet(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy
    rules = policy[1].replace("&#39;", "'")
    assert rules.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in rules
    blocks = BLOCK.findall(page)
    assert sorted(kind for kind, _ in blocks) == ["script", "style"]
    for _, text in blocks:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in rules


def test_script_is_small(page: str) -> None:
    assert len(dict(BLOCK.findall(page))["script"].encode()) < 10_000


def test_no_address_leads_out(page: str) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert all(address.startswith(("data:", "#")) for address in addresses)


def test_same_content_same_bytes() -> None:
    assert render_html(content_of("plain")) == render_html(content_of("plain"))
