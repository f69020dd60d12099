"""A figure that can speak for itself.

Reports show a figure with its title, with a caption that says what one sees on it, and with a text
for those who do not see it. Whoever draws it knows these best, so it carries them.
"""

from __future__ import annotations

from typing import Any

from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure

from ...diagnostics.errors import GradpathError
from ..theme import is_dark, theme


class NotMeasuredError(GradpathError):
    """A run does not hold what a figure or a table is made of; says what would have to be."""


class Plate(Figure):
    """A matplotlib figure with the words that belong to it.

    It is a `Figure` in all respects: it shows in a notebook, and `savefig` writes it.

    Args:
        title: a few words, without a full stop: what is shown.
        size: width and height in inches, as a reader sees it on a page.
        figure: further arguments of `matplotlib.figure.Figure`.
    """

    def __init__(
        self,
        title: str = "",
        size: tuple[float, float] | None = None,
        **figure: Any,
    ) -> None:
        super().__init__(figsize=size, layout="constrained", **figure)
        self._is_dark = is_dark()
        self.title = title
        self.caption = ""
        """Sentences that say what one sees, with its numbers and where they come from."""
        self.alternative = ""
        """What stands for the picture where it cannot be seen: kind of plot, axes, main reading."""

    def draw(self, renderer: RendererBase) -> None:
        """Draws the figure with the look that it was made with.

        Much of it, such as the ticks, matplotlib makes when a figure is drawn, which in a notebook
        is long after its theme was closed.
        """
        with theme(self._is_dark):
            super().draw(renderer)

    def describe(self, caption: str, alternative: str) -> Plate:
        """Sets both texts, and returns the figure."""
        self.caption = caption
        self.alternative = alternative
        return self
