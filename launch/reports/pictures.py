"""The figures of a page: in the page as SVG, and as PNGs beside it."""

from typing import Any

from launch.plots import panels
from launch.reports import markup


class Pictures:
    """Collects figures under names of their own.

    Attributes:
      files: name of a file -> its content, to be written beside the page.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._legend: dict[str, panels.Entry] = {}

    def drawn(self, figure: Any, name: str, alt: str, caption: str = "") -> str:
        """A figure as a part of the page; its legend is left to `legend`.

        Args:
          figure: of `launch.plots`; freed.
          name: of letters, digits and hyphens, for the PNG and the ids of the SVG.
          alt: what the figure shows, in words.
          caption: below it.
        """
        self._legend |= {entry.label: entry for entry in panels.legend_of(figure)}
        svg = panels.svg(figure, name)
        self.files[f"{name}.png"] = panels.png(figure)
        return markup.drawing(svg, alt, caption)

    def kept(
        self, shown: bytes, beside: bytes, name: str, alt: str, caption: str = ""
    ) -> str:
        """A picture of pixels as a part of the page.

        Args:
          shown: a PNG within the page.
          beside: one that stands alone, for the file.
          name: of the file.
          alt: what the picture shows, in words.
          caption: below it.
        """
        self.files[f"{name}.png"] = beside
        return markup.picture(shown, alt, caption, "pixels")

    def legend(self) -> str:
        """One legend for all figures since the last one; empty if they need none."""
        entries, self._legend = list(self._legend.values()), {}
        return markup.legend(entries) if entries else ""
