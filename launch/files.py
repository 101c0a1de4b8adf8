"""Writing files so that a kill at any moment leaves either the old one or the new."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

TEMPORARY = ".part"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path`, which takes its place once it is whole.

    The data reaches the disk before the name does, so that a power cut leaves no empty
    file under the final name. If the block raises, `path` stays as it was.

    Args:
      path: the file to write or replace.

    Yields:
      The path to write to; it has the suffix of `path`.
    """
    part = path.with_name(f"{TEMPORARY}-{path.name}")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes or replaces a text file as a whole."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
