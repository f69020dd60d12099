"""The gallery shows what its command has found, and nothing that is not there."""

from __future__ import annotations

import json
import re

import pytest

from gradpath.diagnostics.findings import Diagnosis, Finding
from tests.external.cases import CASES
from tests.external.gallery import (
    EXHIBITS,
    FOUND,
    LARGEST_PICTURE,
    PAGE,
    PICTURES,
    SCRIPTS,
    exhibited,
    page,
)
from tests.package import ROOT


def test_the_page_is_what_was_found() -> None:
    assert PAGE.read_text() == page(json.loads(FOUND.read_text()))


@pytest.mark.parametrize("script", EXHIBITS)
def test_a_script_is_one_of_the_tests_and_takes_the_number_of_steps(script: str) -> None:
    assert script in CASES
    assert "int(sys.argv[1])" in (SCRIPTS / f"{script}.py").read_text()


def test_there_is_a_small_picture_of_each() -> None:
    pictures = {each.stem: each.read_bytes() for each in PICTURES.glob("*.png")}
    assert set(pictures) == set(EXHIBITS)
    assert all(each.startswith(b"\x89PNG") for each in pictures.values())
    assert max(map(len, pictures.values())) <= LARGEST_PICTURE


def test_two_findings_with_numbers_are_told_of_each() -> None:
    found = json.loads(FOUND.read_text())["found"]
    assert set(found) == set(EXHIBITS)
    for one in found.values():
        assert len(one["sentences"]) == 2
        assert all(re.search(r"\d", each["verdict"]) for each in one["sentences"])


def test_every_code_is_explained() -> None:
    explained = (ROOT / "docs" / "findings.md").read_text()
    assert not {code for code in re.findall(r"GP\d+", PAGE.read_text()) if code not in explained}


def finding(code: str) -> Finding:
    return Finding(code, "warn", f"what {code} says")


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (["GP101", "GP201", "GP301"], ["GP301", "GP201"]),
        (["GP101", "GP102", "GP301"], ["GP301", "GP101"]),
        (["GP101", "GP101", "GP102", "GP703"], ["GP101", "GP102"]),
        (["GP201", "GP201"], ["GP201", ""]),
    ],
)
def test_findings_that_are_not_there_are_not_told(found: list[str], told: list[str]) -> None:
    diagnosis = Diagnosis("All in all", (), tuple(map(finding, found)))
    one = exhibited(diagnosis, ("GP301", "GP201"))
    assert [each.code for each in one.sentences] == told
    assert [each.verdict for each in one.sentences] == [
        f"what {code} says" if code else "All in all" for code in told
    ]
    assert set(one.other_codes) == set(found) - set(told)
