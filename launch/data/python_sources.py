"""The sources of Python's own standard library, as bytes: real text, no download.

Some 12 MB in 660 files with Python 3.11; a little more or less with others. About a
twentieth of the files is to validate on and another to test on. The same version of
Python gives the same text on every run.
"""

import hashlib
import os
import pathlib
import sys
import sysconfig

import numpy as np

from launch.data import encoded, vocabulary
from launch.data.text import BYTE, TextData, TextSource
from launch.support.errors import UserError

# What others have installed, what tests have, what compilers have written.
_LEFT_OUT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "__pycache__",
}
_SMALLEST = 1_000_000


def files(root: pathlib.Path | None = None) -> dict[str, pathlib.Path]:
    """The source files by their path below the library, in its order.

    Packages that were installed, tests and what was written when Python was built are
    left out.

    Args:
      root: the library; by default that of the running Python.
    """
    root = root or pathlib.Path(sysconfig.get_paths()["stdlib"])
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if name not in _LEFT_OUT and not name.startswith(("config-", "."))
        ]
        for name in names:
            if name.endswith(".py") and not name.startswith(("_sysconfigdata", ".")):
                path = pathlib.Path(folder, name)
                found[path.relative_to(root).as_posix()] = path
    return dict(sorted(found.items()))


def part_of(path: str) -> str:
    """The part that a file belongs to as a whole; follows from its path alone.

    Args:
      path: below the library, with slashes.

    Returns:
      "valid" or "test" for one in twenty each, else "train".
    """
    drawn = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") % 20
    return {0: "valid", 1: "test"}.get(drawn, "train")


def check(data_dir: str | None) -> None:
    """Raises `UserError` if this Python has come without its sources."""
    found = files()
    size = sum(path.stat().st_size for path in found.values())
    if size < _SMALLEST:
        raise UserError(
            f"--dataset=python needs the sources of Python's standard library, of which "
            f"{sys.executable} has only {size} bytes: use a Python with its sources, or "
            "--dataset=bytes with --data_dir, a folder of your own."
        )


def load(data_dir: str | None, cache: str | None = None) -> TextData:
    """Reads the sources, file after file, into memory.

    Args:
      data_dir, cache: not used, the text comes with Python and is quickly read.

    Raises:
      UserError: if this Python has come without its sources.
    """
    check(data_dir)
    texts = {part: [] for part in encoded.PARTS}
    for name, path in files().items():
        texts[part_of(name)].append(path.read_bytes())
    parts = {
        part: np.frombuffer(b"".join(found), "uint8") for part, found in texts.items()
    }
    counts = [vocabulary.byte_counts([parts[part]]) for part in encoded.PARTS]
    tokens = vocabulary.byte_vocabulary(counts[0], counts[1] + counts[2])
    table = vocabulary.byte_table(tokens)
    return TextData(
        **{part: table[ids] for part, ids in parts.items()},
        vocabulary=tokens,
        unit=BYTE,
    )


SOURCE = TextSource("python", BYTE, check, load)
