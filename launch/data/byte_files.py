"""Text as bytes, from files of the user: enwik8, text8 or any other.

enwik8 and text8 are the first 10**8 bytes of the English Wikipedia of 2006, as XML and as
26 letters and the space (Mahoney 2006). They are split as in all published results, and
other texts in the same proportions: the first 90 % for training, then 5 % for validation
and 5 % for testing.
"""

import functools
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from launch.data import encoded, progress, vocabulary
from launch.data.text import BYTE, TextData, TextSource
from launch.support.errors import UserError

SIZE = 100_000_000
_BLOCK = 1 << 20
_HEAD = 1 << 16


def check_benchmark(name: str, data_dir: str | None) -> None:
    """Raises `UserError` unless the file exists, is complete, and is the named text.

    It checks the size and the first bytes.

    Args:
      name: "enwik8" or "text8", which is also the name of the file.
      data_dir: the folder that holds the file, or the file itself.
    """
    remedy = (
        f"download it once, on a machine with a network, with `curl -O "
        f"http://mattmahoney.net/dc/{name}.zip && unzip {name}.zip`"
    )
    if data_dir is None:
        raise UserError(
            f"--dataset={name} needs --data_dir, the folder of the file {name}; {remedy}."
        )
    path = _benchmark_file(name, data_dir)
    if not path.is_file():
        raise UserError(
            f"{path} does not exist: pass the folder of the file {name} with --data_dir, "
            f"or {remedy}."
        )
    size = path.stat().st_size
    if size != SIZE:
        raise UserError(
            f"Expected {path} to have {SIZE} bytes. Received: {size}; {remedy}."
        )
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    letters = b" abcdefghijklmnopqrstuvwxyz"
    if name == "enwik8" and not head.startswith(b"<mediawiki"):
        raise UserError(
            f"Expected {path} to begin with <mediawiki. Received: {head[:10]!r}; "
            f"{remedy}."
        )
    if name == "text8" and head.strip(letters):
        raise UserError(
            f"Expected {path} to hold only the letters a to z and the space. Received: "
            f"{head.strip(letters)[:1]!r}; {remedy}."
        )


def load_benchmark(
    name: str, data_dir: str | None, cache: str | None = None
) -> TextData:
    """Reads enwik8 or text8, split into 90, 5 and 5 million bytes.

    The tokens are the bytes that occur, 205 in enwik8 and 27 in text8, in ascending
    order. See `vocabulary.byte_vocabulary` for bytes that are missing in the training
    part. The text is encoded once, into `cache`.

    Args:
      name, data_dir: as for `check_benchmark`.
      cache: folder of the encoded text; by default `.topkast_tf` next to the file.

    Raises:
      UserError: if the file is missing or incomplete.
    """
    check_benchmark(name, data_dir)
    path = _benchmark_file(name, data_dir)
    return _load(name, [path], path.parent, cache)


def check_own(data_dir: str | None) -> None:
    """Raises `UserError` unless `data_dir` is a file or folder with at least 40 bytes.

    Three parts with a token to predict in each need that many.
    """
    if data_dir is None:
        raise UserError(
            "--dataset=bytes needs --data_dir, a file or a folder of files."
        )
    root = pathlib.Path(data_dir).expanduser()
    if not root.exists():
        raise UserError(
            f"{root} does not exist: pass a file or a folder of files with --data_dir."
        )
    size = sum(path.stat().st_size for path in own_files(root))
    if size < 40:
        raise UserError(
            f"Expected --data_dir={root} to hold at least 40 bytes. Received: {size}"
        )


def load_own(data_dir: str | None, cache: str | None = None) -> TextData:
    """Reads a file, or the concatenated files of a folder, as bytes.

    Args:
      data_dir: the file or the folder; the files of a folder are read in the order of
        their names, without hidden files.
      cache: folder of the encoded text; by default `.topkast_tf` next to the file or in
        the folder.

    Raises:
      UserError: if there is nothing to read.
    """
    check_own(data_dir)
    root = pathlib.Path(data_dir).expanduser()
    return _load(
        "bytes", own_files(root), root if root.is_dir() else root.parent, cache
    )


def own_files(root: pathlib.Path) -> list[pathlib.Path]:
    """The file, or the files below a folder sorted by name, without hidden files."""
    if root.is_file():
        return [root]
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [pathlib.Path(folder, f) for f in files if not f.startswith(".")]
    return sorted(
        (path for path in found if path.is_file()),
        key=lambda path: path.relative_to(root).as_posix(),
    )


def spans(size: int) -> dict[str, tuple[int, int]]:
    """(start, stop) of the bytes of each part.

    >>> spans(100_000_000)["valid"]
    (90000000, 95000000)
    """
    first, second = size * 90 // 100, size * 95 // 100
    return {"train": (0, first), "valid": (first, second), "test": (second, size)}


def read_blocks(
    files: Sequence[pathlib.Path], start: int, stop: int
) -> Iterator[np.ndarray]:
    """The bytes from `start` to `stop` of the concatenated files, in blocks."""
    begin = 0
    for path in files:
        end = begin + path.stat().st_size
        here, there = max(start, begin), min(stop, end)
        if here < there:
            with open(path, "rb") as file:
                file.seek(here - begin)
                while here < there and (block := file.read(min(_BLOCK, there - here))):
                    yield np.frombuffer(block, "uint8")
                    here += len(block)
        begin = end


def _load(name, files, home, cache) -> TextData:
    def encode():
        parts = spans(sum(path.stat().st_size for path in files))
        bar = progress.Bytes(f"{name}: encoding", 2 * parts["test"][1])

        def blocks(part):
            for block in read_blocks(files, *parts[part]):
                yield block
                bar.advance(block.nbytes)

        counts = [vocabulary.byte_counts(blocks(part)) for part in encoded.PARTS]
        tokens = vocabulary.byte_vocabulary(counts[0], counts[1] + counts[2])
        table = vocabulary.byte_table(tokens)
        return encoded.Encoding(
            tokens,
            {part: stop - start for part, (start, stop) in parts.items()},
            lambda part: (table[block] for block in blocks(part)),
        )

    folder = pathlib.Path(cache).expanduser() if cache else home / encoded.FOLDER
    tokens, parts = encoded.load(folder, name, files, encode)
    return TextData(**parts, vocabulary=tokens, unit=BYTE)


def _benchmark_file(name: str, data_dir: str) -> pathlib.Path:
    path = pathlib.Path(data_dir).expanduser()
    return path / name if path.is_dir() or not path.exists() else path


SOURCES = (
    *(
        TextSource(
            name,
            BYTE,
            functools.partial(check_benchmark, name),
            functools.partial(load_benchmark, name),
        )
        for name in ("enwik8", "text8")
    ),
    TextSource("bytes", BYTE, check_own, load_own),
)
