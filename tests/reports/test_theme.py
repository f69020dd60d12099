"""Names of any kind become text of a figure, and colours can be told apart by anybody."""

from itertools import combinations

import matplotlib
import numpy as np
import pytest
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gradpath.reports.theme import (
    TOTAL,
    plain,
    shown,
    svg,
    term_colours,
    term_lines,
    theme,
)

NAMES = [
    "$x$",
    "a$b",
    r"\$a$",
    "_hidden",
    "\u202eabc",
    "a\nb\x00",
    "\ud800",
    "\u4e2d\u6587",
    "",
    "x" * 10_000,
]

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
         [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
         [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
         [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip


def linear(colour: str) -> NDArray[np.float64]:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ linear(colour))


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* of linear RGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722],
                       [0.0193, 0.1192, 0.9505]])  # fmt: skip
    ratio = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_as_text_and_seen_in_a_legend(name: str) -> None:
    """Warnings, as of missing glyphs and of labels that are left out, are errors."""
    with theme():
        figure = Figure(figsize=(3, 2))
        axes = figure.subplots()
        (line,) = axes.plot([0, 1])
        legend = axes.legend([line], [shown(name)])
        axes.set_title(shown(name))
        assert [text.get_text() for text in legend.get_texts()] == [shown(name)]
        assert not is_math_text(shown(name))
        svg(figure)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_as_long_as_may_be(name: str) -> None:
    for longest in (8, 20, 32):
        assert 1 <= len(plain(name, longest)) <= max(longest, len("(no name)"))


def test_what_cannot_be_seen_is_written_out() -> None:
    assert plain("a\u202eb\n") == r"a\u202eb\n"
    assert shown("\ud800") == r"\ud800"
    assert plain("\u4e2d\u6587") == "\u4e2d\u6587"
    assert shown("\u4e2d\u6587") == r"\u4e2d\u6587"
    assert shown("a" * 50 + "b" * 50, 9) == "aaaa…bbbb"
    plain("\ud800 and \x00").encode()  # can be written to any file


def test_a_term_keeps_its_colour_and_the_total_its_own() -> None:
    with theme():
        few = term_colours(("residual", "boundary"))
        more = term_colours(("residual", TOTAL, "boundary", "data"))
        assert {term: more[term] for term in few} == few
        assert more[TOTAL] == matplotlib.rcParams["text.color"]


def test_28_terms_have_28_kinds_of_lines() -> None:
    with theme():
        lines = term_lines(f"term {number}" for number in range(28))
    assert len({str(style) for style in lines.values()}) == 29  # and the total's


@pytest.mark.parametrize("dark", [False, True])
def test_colours_stand_out_from_the_page(dark: bool) -> None:
    with theme(dark):
        page = luminance(matplotlib.rcParams["figure.facecolor"])
        for colour in term_colours("abcdefg").values():
            low, high = sorted([page, luminance(colour)])
            assert (high + 0.05) / (low + 0.05) >= 3  # WCAG 2.2, 1.4.11


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("dark", [False, True])
def test_all_colours_differ_for_everybody(dark: bool, blindness: str) -> None:
    with theme(dark):
        colours = list(term_colours("abcdefg").values())
    seen = [lab(BLINDNESS[blindness] @ linear(colour)) for colour in colours]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 10
