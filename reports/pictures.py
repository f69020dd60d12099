"""Figures as a report shows them: drawn once, as small SVG, and never the end of a report.

What a run does not hold is a line in the place of the figure, and so is a figure that raises: a
report of a strange run says what it can.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from matplotlib.figure import Figure

from .content import Gap, Picture, legible
from .figures.plate import NotMeasuredError
from .theme import svg

_COORDINATES = re.compile(rb' d="([^"]*)"')
_LONG_NUMBER = re.compile(rb"(\.\d{2})\d+")


def picture(name: str, draw: Callable[[], Figure], suffix: str = "") -> Picture | Gap:
    """Returns a drawn figure, or why there is none.

    Args:
        name: of the figure's function, by which findings refer to it.
        draw: draws it.
        suffix: of the title, where a report has several figures of the name.
    """
    try:
        plate = draw()
        drawn = svg(plate)
    except NotMeasuredError as error:
        return Gap(name, str(error))
    except Exception as error:
        reason = f"This figure could not be drawn ({type(error).__name__}: {legible(error)})."
        return Gap(name, reason, is_error=True)
    title = getattr(plate, "title", "") or name.replace("_", " ")
    width, height = plate.get_size_inches()
    return Picture(
        name,
        title + suffix,
        getattr(plate, "caption", ""),
        getattr(plate, "alternative", "") or title,
        _small(drawn),
        (float(width), float(height)),
    )


def _small(drawn: bytes) -> bytes:
    """Returns SVG without what nobody sees: metadata, decimals beyond a hundredth of a point."""
    drawn = re.sub(rb"<metadata>.*?</metadata>\s*", b"", drawn, count=1, flags=re.DOTALL)
    drawn = re.sub(rb"<!--.*?-->\s*", b"", drawn, flags=re.DOTALL)
    drawn = re.sub(rb"<!DOCTYPE[^>]*>\s*", b"", drawn, count=1)
    # Each coordinate stands on a line of its own otherwise, and each element is indented.
    return re.sub(rb">\s+<", b"><", _COORDINATES.sub(_rounded, drawn))


def _rounded(match: re.Match[bytes]) -> bytes:
    path = b" ".join(match[1].split())
    return b' d="' + _LONG_NUMBER.sub(rb"\1", path) + b'"'
