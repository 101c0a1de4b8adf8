"""Tables within a page, between ``<!-- table: NAME -->`` and ``<!-- end -->``."""

import csv
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

_MARKED = re.compile(
    r"(?P<head><!-- table: (?P<name>\S+) -->\n).*?(?P<end><!-- end -->)", re.S
)


def filled(page: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """The page with each marked table made anew.

    Args:
      page: the text of the page.
      tables: name -> what makes the table.

    Raises:
      ValueError: for a marker without a table, or a table without a marker.

    >>> print(filled("<!-- table: a -->\\nold\\n<!-- end -->", {"a": lambda: "new"}))
    <!-- table: a -->
    <BLANKLINE>
    new
    <BLANKLINE>
    <!-- end -->
    """
    found = [mark["name"] for mark in _MARKED.finditer(page)]
    if sorted(found) != sorted(tables):
        raise ValueError(
            f"Expected a marker for each of {sorted(tables)}. Received: {sorted(found)}"
        )
    return _MARKED.sub(
        lambda mark: f"{mark['head']}\n{tables[mark['name']]()}\n\n{mark['end']}", page
    )


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *body]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def rows(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
