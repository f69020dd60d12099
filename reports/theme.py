"""One look for every figure: colours, fonts, sizes, and names as they may be shown.

A term of the loss has the same colour and the same kind of line wherever it appears, so that a
reader learns them once. The colours differ for people who do not tell red from green, and the lines
differ for those who print without colours. All figures are drawn within `theme`, on a light or a
dark page, and turned into SVG by `svg`, which writes the same bytes every time.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import cycle
from typing import Any

import matplotlib
import seaborn
from cycler import cycler
from matplotlib import font_manager
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

PAGE_WIDTH = 6.9
"""Inches between the margins of an A4 page; figures are drawn at the size that they are read at."""
PAGE = (PAGE_WIDTH, 3.0)
HALF_PAGE = (3.35, 2.5)

TOTAL = "total"
FONT = "DejaVu Sans"  # comes with matplotlib, so that a figure is the same on every machine

_DARK_PAGE, _DARK_INK, _DARK_RULES = "#15181d", "#eceff3", "#343a43"
_PAGE, _INK, _RULES = "#ffffff", "#1c1f24", "#dfe3e8"
# Of at least three to one on their page, and apart for all common kinds of colour blindness.
_COLOURS = ("#0068b5", "#c8500a", "#00876c", "#7a22d6", "#612405", "#c07cb5", "#6b7280")
_DARK_COLOURS = ("#5aa9f2", "#f58b46", "#2fc79c", "#9a4dff", "#f4d125", "#a8765a", "#e3b3dc")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))


@contextmanager
def theme(dark: bool = False) -> Iterator[None]:
    """Applies the look of all figures while it is open.

    A figure keeps most of it when it is closed, but how text becomes SVG is decided when the figure
    is written: use `svg`, or write it within.

    Args:
        dark: for a dark page.
    """
    page, ink, rules = (_DARK_PAGE, _DARK_INK, _DARK_RULES) if dark else (_PAGE, _INK, _RULES)
    colours = _DARK_COLOURS if dark else _COLOURS
    look = seaborn.axes_style("ticks") | seaborn.plotting_context("paper")
    look |= dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), page)
    look |= dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor",
         "axes.edgecolor", "xtick.color", "ytick.color"),
        ink,
    )  # fmt: skip
    look |= dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
    look |= dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7.0)
    look |= {
        "font.family": [FONT],
        "font.size": 8.0,
        "axes.titlesize": 8.0,
        "axes.labelsize": 8.0,
        "axes.linewidth": 0.7,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.prop_cycle": cycler(color=colours),
        "grid.color": rules,
        "grid.linewidth": 0.5,
        "lines.linewidth": 1.2,
        "lines.solid_capstyle": "round",
        "legend.handlelength": 2.2,
        "legend.borderaxespad": 0.0,
        "figure.constrained_layout.h_pad": 0.05,
        "figure.constrained_layout.w_pad": 0.05,
        "image.cmap": "mako" if dark else "mako_r",
        "image.composite_image": False,
        "path.simplify": True,
        "savefig.dpi": 160,
        "svg.fonttype": "path",
        "svg.hashsalt": "gradpath",
    }
    for side in ("xtick", "ytick"):
        look |= {f"{side}.major.size": 3.0, f"{side}.major.width": 0.7}
        look |= {f"{side}.minor.size": 1.8, f"{side}.minor.width": 0.5}
    with matplotlib.rc_context(look):
        yield


def is_dark() -> bool:
    """Whether the theme that is open is for a dark page."""
    return bool(matplotlib.rcParams["figure.facecolor"] == _DARK_PAGE)


def diverging_map() -> str:
    """Returns the colour map for values on either side of zero, whose middle is the page's."""
    return "icefire" if is_dark() else "vlag"


def term_colours(terms: Iterable[str]) -> dict[str, str]:
    """Returns the colour of each term in the theme that is open.

    Colours go by the order of the terms, so pass all terms of a run (`run.terms`), also to a figure
    that shows some of them. "total" has the colour of the text, and takes none from the others.

    Example:
        >>> with theme():
        ...     term_colours(("residual", "boundary"))
        {'residual': '#0068b5', 'boundary': '#c8500a', 'total': '#1c1f24'}
    """
    rc = matplotlib.rcParams
    colours = cycle(rc["axes.prop_cycle"].by_key()["color"])
    found = dict(zip(_without_total(terms), colours, strict=False))
    return found | {TOTAL: str(rc["text.color"])}


def term_lines(terms: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns how `Axes.plot` draws the line of each term: `color` and `linestyle`.

    With four kinds of lines and seven colours, 28 terms can be told apart.
    """
    dashes = dict(zip(_without_total(terms), cycle(_DASHES), strict=False)) | {TOTAL: "-"}
    return {
        term: {"color": colour, "linestyle": dashes[term]}
        for term, colour in term_colours(dashes).items()
    }


def _without_total(terms: Iterable[str]) -> list[str]:
    return [term for term in dict.fromkeys(terms) if term != TOTAL]


def shown(name: str, longest: int = 32) -> str:
    r"""Returns a name of the user's as text for a figure, whatever is in it.

    What the font has no picture of, what steers the direction of text, and what is no character at
    all is written as Python writes it; a long name loses its middle. matplotlib takes what comes
    back as plain text: no formula, nothing that hides it from a legend.

    Args:
        name: of a term, a layer, a run.
        longest: characters to be seen at most.

    Example:
        >>> print(shown("price in $"), shown("a\u202eb"), shown("layers.0." + 40 * "x", 12))
        price in \$ a\u202eb layers…xxxxx
    """
    visible = _shortened([_drawable(character) for character in name], longest)
    # A label that starts with an underscore is left out of legends.
    hidden = "\u200b" if visible.startswith("_") else ""
    return hidden + visible.replace("$", r"\$")


def plain(name: str, longest: int = 80) -> str:
    """Returns a name of the user's as it may stand in a sentence: see `shown`.

    Letters of any script stay what they are, since pages have more fonts than figures.
    """
    return _shortened([_printable(character) for character in name], longest)


def _shortened(pieces: list[str], longest: int) -> str:
    text = "".join(pieces).strip()
    if not text:
        return "(no name)"
    if len(text) <= longest:
        return text
    head = _of_length(pieces, longest // 2)
    tail = _of_length(pieces[::-1], longest - 1 - len("".join(head)))
    return "".join(head) + "…" + "".join(tail[::-1])


def _of_length(pieces: list[str], most: int) -> list[str]:
    """Returns as many whole pieces as fit."""
    found: list[str] = []
    for piece in pieces:
        most -= len(piece)
        if most < 0:
            break
        found.append(piece)
    return found


def _drawable(character: str) -> str:
    return _printable(character) if ord(character) in _glyphs() else _escaped(character)


def _printable(character: str) -> str:
    # Cc: control, Cf: format, such as the marks of direction, Cn: none, Co: private, Cs: surrogate,
    # Zl and Zp: ends of lines and paragraphs.
    steers = unicodedata.category(character) in {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
    return _escaped(character) if steers else character


def _escaped(character: str) -> str:
    return ascii(character)[1:-1]


@cache
def _glyphs() -> frozenset[int]:
    """The characters that the font has a picture of."""
    return frozenset(FT2Font(font_manager.findfont(FONT)).get_charmap())


def svg(figure: Figure) -> bytes:
    """Returns a figure as SVG: text as outlines, and the same bytes for the same figure."""
    file = io.BytesIO()
    canvas, dots = figure.canvas, figure.dpi
    with theme(dark=to_hex(figure.get_facecolor()) == _DARK_PAGE):
        try:
            figure.dpi = matplotlib.rcParams["savefig.dpi"]
            # `savefig` does the same, but draws all once more before that, to find the layout.
            canvas_of_svg: Any = FigureCanvasSVG(figure)
            canvas_of_svg.print_svg(file, metadata={"Date": None})
        finally:
            figure.set_canvas(canvas)
            figure.dpi = dots
    return file.getvalue()
