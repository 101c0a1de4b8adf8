"""The parts of a page as HTML: text, tables, figures. Everything given is escaped."""

import base64
import html
import re
from collections.abc import Sequence

from launch.plots.panels import Entry, variable


def text(value: object) -> str:
    """A value as escaped text.

    >>> text("<b> & 'c'")
    '&lt;b&gt; &amp; &#x27;c&#x27;'
    """
    return html.escape(str(value))


def runs_text(count: int) -> str:
    """So many runs.

    >>> runs_text(1), runs_text(1200)
    ('1 run', '1,200 runs')
    """
    return f"{count:,} {'run' if count == 1 else 'runs'}"


def paragraph(sentence: str, kind: str = "") -> str:
    """A paragraph, of a class if it has one.

    >>> paragraph("a < b: see --fwd.", "note")
    '<p class="note">a &lt; b: see <code>--fwd</code>.</p>'
    """
    of_class = f' class="{text(kind)}"' if kind else ""
    # A flag is not broken at its hyphens.
    shown = re.sub(r"(--\w+(?:=\w+)?)", r"<code>\1</code>", text(sentence))
    return f"<p{of_class}>{shown}</p>"


def table(
    rows: Sequence[Sequence[str]],
    caption: str,
    *,
    left: Sequence[int] = (0,),
    marked: Sequence[int] = (),
) -> str:
    """A table that scrolls within its frame where the page is narrow.

    Args:
      rows: the header, then the rows; the first cell of each is its heading.
      caption: what the table shows.
      left: the columns of text; numbers are on the right.
      marked: rows that stand out, counted from 0 after the header.
    """
    head, *body = rows

    def cell(tag: str, place: int, content: str) -> str:
        scope = {"th": ' scope="col"'}.get(tag, "")
        if tag == "td" and place == 0:
            tag, scope = "th", ' scope="row"'
        kind = "" if place in left else ' class="number"'
        return f"<{tag}{scope}{kind}>{text(content)}</{tag}>"

    lines = ["<thead><tr>"]
    lines += [cell("th", place, content) for place, content in enumerate(head)]
    lines.append("</tr></thead><tbody>")
    for number, row in enumerate(body):
        kind = ' class="marked"' if number in marked else ""
        cells = "".join(cell("td", place, content) for place, content in enumerate(row))
        lines.append(f"<tr{kind}>{cells}</tr>")
    lines.append("</tbody>")
    inner = "".join(lines)
    # The caption stays where it is when the table scrolls, which the keyboard can do too.
    named = f'aria-label="{text(caption)}"'
    return (
        f'<p class="caption">{text(caption)}</p>'
        f'<div class="frame" tabindex="0" role="region" {named}>'
        f"<table {named}>{inner}</table></div>"
    )


def folded(summary: str, content: str, *, is_open: bool = False) -> str:
    """Content that a click unfolds; it is printed in any case."""
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{text(summary)}</summary>{content}</details>"


def drawing(svg: str, alt: str, caption: str = "") -> str:
    """A figure of `launch.plots.panels.svg`.

    Args:
      svg: the element.
      alt: what it shows, for those who do not see it.
      caption: below it.
    """
    named = svg.replace("<svg", f'<svg role="img" aria-label="{text(alt)}"', 1)
    return _figure(named, caption)


def picture(png: bytes, alt: str, caption: str = "", kind: str = "") -> str:
    """A PNG within the page.

    Args:
      png: the file.
      alt: what it shows.
      caption: below it.
      kind: class of the image.
    """
    data = base64.b64encode(png).decode("ascii")
    of_class = f' class="{text(kind)}"' if kind else ""
    image = f'<img{of_class} alt="{text(alt)}" src="data:image/png;base64,{data}">'
    return _figure(image, caption)


def _figure(content: str, caption: str) -> str:
    # A long path may break at its parts.
    parted = re.sub("([_/])", r"\1<wbr>", text(caption))
    below = f"<figcaption>{parted}</figcaption>" if caption else ""
    return f"<figure>{content}{below}</figure>"


def grid(figures: Sequence[str], kind: str = "") -> str:
    """Figures side by side, as many as fit."""
    return f'<div class="grid {text(kind)}">{"".join(figures)}</div>'


def tables(blocks: Sequence[str]) -> str:
    """Tables side by side, as many as fit, each with what belongs to it."""
    return f'<div class="tables">{"".join(f"<div>{b}</div>" for b in blocks)}</div>'


def row(figures: Sequence[str]) -> str:
    """Figures of widths of their own, one after another."""
    return f'<div class="row">{"".join(figures)}</div>'


def legend(entries: Sequence[Entry]) -> str:
    """The legend of figures, once for all of them."""
    items = "".join(
        f"<li>{_sample(entry)}<span>{text(entry.label)}</span></li>"
        for entry in entries
    )
    return f'<ul class="legend">{items}</ul>'


def swatches(colours: Sequence[tuple[str, str]]) -> str:
    """The legend of a picture of pixels: names, and colours as in CSS."""
    items = "".join(
        f'<li><span class="swatch" style="background:{text(colour)}"></span>'
        f"<span>{text(name)}</span></li>"
        for name, colour in colours
    )
    return f'<ul class="legend">{items}</ul>'


_POINTS = {
    "o": '<circle cx="16" cy="7" r="3.2"/>',
    "s": '<rect x="13" y="4" width="6" height="6"/>',
    "^": '<path d="M16 3l4 7.2h-8z"/>',
    "D": '<path d="M16 2.8l4.2 4.2-4.2 4.2-4.2-4.2z"/>',
    "v": '<path d="M16 11l4-7.2h-8z"/>',
}
_DASHES = {"--": "6 3", ":": "2 3", "-.": "7 3 2 3"}


def _sample(entry: Entry) -> str:
    colour = f"var({variable(entry.style.colour)})"
    if entry.opacity is not None:
        shape = (
            '<rect x="4" y="1" width="24" height="12" rx="2" '
            f'fill="{colour}" fill-opacity="{entry.opacity:g}"/>'
        )
    else:
        dashes = _DASHES.get(entry.style.dashes, "none")
        line = (
            f'<path d="M1 7h30" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dashes}"/>'
        )
        shape = line if entry.style.dashes not in ("None", "") else ""
        shape += f'<g fill="{colour}">{_POINTS.get(entry.style.marker, "")}</g>'
    size = 'viewBox="0 0 32 14" width="32" height="14"'
    return f'<svg {size} aria-hidden="true">{shape}</svg>'


def section(identity: str, title: str, parts: Sequence[str]) -> str:
    """A section of the page with its heading, which links lead to."""
    return (
        f'<section id="{text(identity)}"><h2>{text(title)}</h2>'
        f"{''.join(parts)}</section>"
    )
