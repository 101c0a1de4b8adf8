"""Docstrings as Markdown: their examples and literal blocks become code blocks."""

import re

import griffe

EXAMPLE = re.compile(r"(?:^[ ]*>>> .*\n?(?:^[ ]*\S.*\n?)*\n?)+", re.M)


class DocstringMarkdown(griffe.Extension):
    """Changes each docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **arguments) -> None:
        if obj.docstring and not obj.is_alias:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    r"""The text with fences around doctests, and ``::`` at the end of a line as ``:``.

    >>> print(markdown("Adds::\n\n    1 + 1\n\n>>> 1 + 1\n2\n"))
    Adds:
    <BLANKLINE>
        1 + 1
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
    <BLANKLINE>
    """
    text = re.sub(r"::$", ":", text, flags=re.M)
    return EXAMPLE.sub(_fenced, text)


def _fenced(example: re.Match) -> str:
    return f"```pycon\n{example[0].rstrip()}\n```\n\n"
