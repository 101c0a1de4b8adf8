"""The document: its head, its style, its sections. It loads nothing and runs nothing."""

import importlib.resources
import os
import pathlib
import re
from collections.abc import Sequence

from launch.plots.panels import variables
from launch.reports.markup import text
from launch.support.errors import UserError
from launch.support.files import existing_parent

PAGE_FILE = "index.html"
MARK = "launch.reports"
"""What a page says that it was made by."""
_PNGS = "launch.reports.files"


def page(
    title: str,
    subtitle: str,
    notices: Sequence[str],
    sections: Sequence[str],
    files: Sequence[str] = (),
) -> str:
    """A whole HTML page.

    Args:
      title: its heading.
      subtitle: a line below.
      notices: sentences that come first, such as on runs that go on.
      sections: of `markup.section`.
      files: names of the pictures beside the page.

    >>> page("a < b", "", [], []).splitlines()[0]
    '<!doctype html>'
    """
    links = "".join(
        f'<a href="#{identity}">{name}</a>'
        for identity, name in re.findall(
            r'^<section id="([^"]*)"><h2>(.*?)</h2>', "\n".join(sections), re.M
        )
    )
    shown = "".join(f"<li>{text(notice)}</li>" for notice in notices)
    notice = f'<ul class="notices" role="status">{shown}</ul>' if notices else ""
    # Nothing may be loaded but what is in the page.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="generator" content="{MARK}">
<meta name="{_PNGS}" content="{text(" ".join(files))}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>
{_style()}
</style>
</head>
<body>
<header>
<h1>{text(title)}</h1>
<p class="subtitle">{text(subtitle)}</p>
{notice}
<nav aria-label="Sections">{links}</nav>
</header>
<main>
{"".join(f"{part}{chr(10)}" for part in sections)}</main>
<footer><p>Sparsities are fractions of zeros. Written by launch/report.py, with each chart
as a PNG file, too; docs/reports.md explains the parts.</p></footer>
</body>
</html>
"""


def files_of(html: str) -> list[str]:
    """The names of the pictures beside a page; none of a page of another program.

    >>> files_of(page("a", "", [], [], ["x.png", "y.png"]))
    ['x.png', 'y.png']
    """
    found = re.search(rf'<meta name="{re.escape(_PNGS)}" content="([^"]*)">', html)
    return found[1].split() if found and MARK in html else []


def earlier_files(folder: pathlib.Path) -> list[str]:
    """The names of the pictures of an earlier page in a folder.

    Args:
      folder: where a page is to go.

    Raises:
      UserError: for a file in its place, or one that holds a page of another program.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"Expected --out to be a folder. Received: the file {folder}")
    parent = existing_parent(folder)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        why = "this user may not write to" if parent.is_dir() else "is no folder:"
        raise UserError(
            f"Expected --out to be a folder that can be written to. Received: {folder}; "
            f"{why} {parent}"
        )
    path = folder / PAGE_FILE
    if not path.exists():
        return []
    html = path.read_text(encoding="utf-8", errors="replace")
    if f'content="{MARK}"' not in html:
        raise UserError(
            f"Expected a folder without {PAGE_FILE}, or with one that this program has "
            f"written. Received: {folder}; choose another --out"
        )
    return files_of(html)


def _style() -> str:
    css = importlib.resources.files("launch.reports").joinpath("page.css")
    return (
        css.read_text(encoding="utf-8")
        .replace("/* colours of charts on white */", variables(is_black=False))
        .replace("/* colours of charts on black */", variables(is_black=True))
        .strip()
    )
