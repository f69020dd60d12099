"""A report as one HTML page that needs nothing else: no network, no server, no other file.

The page carries its style, its figures and its data. A content security policy names the one script
and the one style sheet by their hashes and forbids everything else, so that whatever a name holds,
nothing of it runs and nothing is fetched. Without JavaScript the page is complete but for the
panels with the histograms of all steps.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ..content import Content, Download, Gap, Paragraph, Picture, legible
from ..evidence_words import in_words
from ..histogram_panels import HistogramPanels
from ..tables import Table

GENERATOR = "gradpath report"
"""What a page names as its origin: how a report knows another one, which it may replace."""

_FOLDER = Path(__file__).parent
_KINDS = {
    Paragraph: "paragraph",
    Picture: "picture",
    Gap: "gap",
    Table: "table",
    HistogramPanels: "panels",
}


def render_html(content: Content) -> bytes:
    """Returns the page of a report."""
    script = _without_margins((_FOLDER / "script.js").read_text(encoding="utf-8"))
    panels = [block for block in content.blocks if isinstance(block, HistogramPanels)]
    style = (_FOLDER / "style.css").read_text(encoding="utf-8") + _term_colours(panels)
    page = _environment().get_template("page.html.jinja")
    text = page.render(
        content=content,
        generator=GENERATOR,
        script=Markup(script),
        style=Markup(style),
        policy=_policy(script, style),
        numbers={id(each): at for at, each in enumerate(content.pictures, 1)},
        table_numbers={id(each): at for at, each in enumerate(content.tables, 1)},
    )
    return text.encode("utf-8", "replace")


def _without_margins(script: str) -> str:
    """Returns a script without indentation and comments, which are for who reads the source."""
    lines = (line.strip() for line in script.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def _policy(script: str, style: str) -> str:
    return (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src '{_hash(script)}'; style-src '{_hash(style)}'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"


def _term_colours(panels: list[HistogramPanels]) -> str:
    lines = [
        f"--term-{number}: light-dark({light}, {dark});"
        for each in panels
        for number, (light, dark) in enumerate(each.colours)
    ]
    return f":root {{ {' '.join(lines)} }}\n" if lines else ""


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_legible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "image": _image,
        "download": _download,
        "kind": lambda block: _KINDS[type(block)],
        "in_words": in_words,
        "prose": _prose,
        "pointer": id,
        "data": _data,
    }
    return environment


def _legible(value: Any) -> Any:
    # Markup is what this module has made itself: images, data, script and style.
    return legible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _prose(text: str) -> Markup:
    """Returns a sentence whose parts between backticks are code."""
    parts = [escape(legible(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return escape(legible(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts)
    )


def _image(picture: Picture) -> Markup:
    """Returns a figure as the address of an image; shorter than in base64, and compressible."""
    text = picture.svg.decode().replace('"', "'")
    return Markup("data:image/svg+xml," + quote(text, safe=" !$()*+,-./:;=?@[]^_`{|}~'"))


def _download(download: Download) -> Markup:
    text = download.text.encode("utf-8", "replace")
    return Markup("data:text/csv;charset=utf-8;base64," + base64.b64encode(text).decode())


def _data(panels: HistogramPanels) -> Markup:
    """Returns what the script reads, as JSON that cannot end its element."""
    terms = [{key: each[key] for key in ("name", "dash")} for each in panels.header["terms"]]
    header = {**panels.header, "terms": terms, "bytes_each": panels.bytes_each}
    text = json.dumps(header | {"counts": panels.packed()}, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
