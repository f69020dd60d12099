"""PDF reports: pages that are not empty, text that is there, names that are text."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pypdfium2
import pytest

from gradpath.reports.content import legible
from gradpath.reports.pdf import GlyphWarning, render_pdf
from tests.reports.contents import HOSTILE, content_of


@contextmanager
def opened(data: bytes) -> Iterator[pypdfium2.PdfDocument]:
    document = pypdfium2.PdfDocument(data)
    yield document
    document.close()


def text_of(data: bytes) -> str:
    with opened(data) as document:
        pages = [page.get_textpage().get_text_bounded() for page in document]
    # Long words are broken anywhere, and lines end anywhere.
    return "".join("".join(pages).replace("\u200b", "").replace("\ufffe", "").split())


@pytest.fixture(scope="module")
def plain() -> bytes:
    return render_pdf(content_of("plain"))


def test_no_page_is_empty(plain: bytes) -> None:
    with opened(plain) as document:
        assert len(document) >= 2
        for page in document:
            ink = np.asarray(page.render(scale=0.5).to_pil().convert("L")) < 200
            assert ink.sum() > 100


def test_text_has_what_a_reader_looks_for(plain: bytes) -> None:
    text = text_of(plain)
    headings = ("Verdict", "Findings", "Contents", "Definitions", "References")
    for words in (*headings, "GP101", "Figure 1", "Table 1", "missing: not measured."):
        assert "".join(words.split()) in text


def test_figure_is_drawn_with_its_caption(plain: bytes) -> None:
    with opened(plain) as document:
        colours = [np.asarray(page.render().to_pil().convert("RGB")) for page in document]
    blue = sum(
        int((np.abs(page.astype(int) - (0, 104, 181)).sum(-1) < 12).sum()) for page in colours
    )
    assert blue > 1000


def test_follows_pdf_ua_with_title_and_outline(plain: bytes) -> None:
    assert b"pdfuaid" in plain
    with opened(plain) as document:
        assert document.get_metadata_value("Title") == "Title plain"
        assert [item.get_title() for item in document.get_toc()][-1].endswith("References")


def test_same_content_same_bytes(plain: bytes) -> None:
    assert render_pdf(content_of("plain")) == plain


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_name_is_text(kind: str) -> None:
    text = text_of(render_pdf(content_of(HOSTILE[kind])))
    start = "".join(unicodedata.normalize("NFC", legible(HOSTILE[kind])).split())[:40]
    assert f"Verdict{start}" in text


def test_a_missing_glyph_is_a_warning_and_a_box() -> None:
    content = replace(content_of("plain"), verdict="境界 is hardly trained.")
    with pytest.warns(GlyphWarning, match="lack a character"):
        data = render_pdf(content)
    assert b"pdfuaid" not in data
    assert "ishardlytrained." in text_of(data)
