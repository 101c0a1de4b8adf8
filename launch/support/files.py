"""Writes files atomically: a kill at any moment leaves either the old or the new file."""

import contextlib
import csv
import io
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

TEMPORARY = ".part"


@contextlib.contextmanager
def replacing(
    path: pathlib.Path, within: pathlib.Path | None = None
) -> Iterator[pathlib.Path]:
    """Gives a temporary path next to `path`, which replaces it when the block ends.

    The data is synced to the disk before the file is renamed, so that a power cut leaves
    no empty file under the final name. The name is synced before the function returns,
    so that older files may be removed. If the block raises, `path` is unchanged.

    Args:
      path: the file to write or replace.
      within: a folder on the same disk for the temporary file; default that of `path`.

    Yields:
      The path to write to; it has the suffix of `path`.
    """
    part = (within or path.parent) / f"{TEMPORARY}-{path.name}"
    part.unlink(missing_ok=True)  # left by a killed process
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
        _sync_names(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync_names(folder: pathlib.Path) -> None:
    """Syncs the names in a folder to the disk, if the system can."""
    # Windows opens no folders, and some network file systems do not sync them.
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def existing_parent(path: pathlib.Path) -> pathlib.Path:
    """The path, or what there is of the way to it: the nearest parent that exists."""
    while not os.path.lexists(path):
        path = path.parent
    return path


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes or replaces a text file atomically."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV with the columns of all rows; a cell that a row lacks is empty.

    >>> csv_text([{"a": 1}, {"a": 2, "b": 3}])
    'a,b\\n1,\\n2,3\\n'
    """
    out = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
