"""The parts of a docstring: lead, text, arguments, example and source."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Callable

_HEADS = r"^(Attributes|Args|Returns|Raises):(.*)$"
_EXAMPLE = re.compile(r"(?:^>>> .*\n?(?:^(?!>>>)\S.*\n?)*)+", re.M)


@dataclasses.dataclass(frozen=True)
class Docstring:
    """A docstring in parts.

    Attributes:
      lead: the first paragraph.
      text: what follows, up to the arguments, as Markdown.
      arguments: name -> meaning.
      example: the doctest, or an empty string.
      source: the paragraph on sources and departures from them, or an empty string.
    """

    lead: str
    text: str
    arguments: dict[str, str]
    example: str
    source: str


def parsed(documented: Callable) -> Docstring:
    """The docstring of a class or a function, which needs to have one."""
    text = inspect.cleandoc(documented.__doc__ or "")
    lead, _, rest = text.partition("\n\n")
    example = "\n".join(found[0].rstrip() for found in _EXAMPLE.finditer(rest))
    rest, _, source = _EXAMPLE.sub("", rest).partition("Source: ")
    parts = re.split(_HEADS, rest, flags=re.M)
    arguments, after = {}, ""
    for head, _, body in zip(*(parts[k::3] for k in (1, 2, 3)), strict=True):
        indented, _, outside = body.partition("\n\n")
        if head in ("Attributes", "Args"):
            arguments = _arguments(indented)
        after += "" if outside.startswith("Others as in") else f"\n\n{outside}"
    body = f"{parts[0].strip()}{after.rstrip()}".strip()
    return Docstring(
        " ".join(lead.split()), _markdown(body), arguments, example, source.strip()
    )


def _arguments(section: str) -> dict[str, str]:
    items = re.split(r"^(\S+): ", textwrap.dedent(section.strip("\n")), flags=re.M)
    return {
        name.lstrip("*"): " ".join(meaning.split())
        for name, meaning in zip(items[1::2], items[2::2], strict=True)
    }


def _markdown(text: str) -> str:
    """The text with literal blocks in fences."""
    lines, block = [], []
    for line in [*text.splitlines(), "end"]:
        if line.startswith("    ") or (block and not line):
            block.append(line[4:])
            continue
        if block:
            lines += ["```text", *"\n".join(block).rstrip().splitlines(), "```", ""]
            block = []
        lines.append(re.sub(r"::$", ":", line))
    return "\n".join(lines[:-1]).strip()
