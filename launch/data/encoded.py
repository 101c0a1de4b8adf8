"""Encoded text in files, so that a text is encoded once and memory-mapped afterwards.

    FOLDER/NAME-DIGEST/     index.json                  its sources, the vocabulary
                            train.npy, valid.npy, test.npy

A folder gets its name when it is complete, and is used until the size or the modification
time of the text changes.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from launch.support import terminal
from launch.support.files import TEMPORARY

FOLDER = ".topkast_tf"
PARTS = ("train", "valid", "test")
_INDEX = "index.json"
# To be increased when the encoding changes.
_FORMAT = 1
_ABANDONED = 24 * 3600


@dataclasses.dataclass(frozen=True)
class Encoding:
    """A text to be encoded.

    Attributes:
      vocabulary: the token of each id.
      lengths: number of tokens of each part.
      blocks: returns the ids of a part in blocks; may be called repeatedly.
    """

    vocabulary: Sequence[str]
    lengths: dict[str, int]
    blocks: Callable[[str], Iterator[np.ndarray]]

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer type that holds all ids."""
        return np.min_scalar_type(len(self.vocabulary) - 1)


def load(
    folder: pathlib.Path,
    name: str,
    inputs: Sequence[pathlib.Path],
    encode: Callable[[], Encoding],
    **settings: Any,
) -> tuple[Sequence[str], dict[str, np.ndarray]]:
    """The vocabulary and the ids of each part, mapped from files, which it may write.

    If the folder cannot be written, the ids are kept in memory, with a warning on stderr.

    Args:
      folder: the folder of encoded texts.
      name: name of the data set.
      inputs: the files of the text.
      encode: starts the encoding.
      settings: other parameters of the encoding.

    Returns:
      The token of each id, and {part: unsigned integers of shape [tokens]}.
    """
    files = [[str(path.resolve()), *_state(path)] for path in inputs]
    key = {"format": _FORMAT, "files": files, "settings": settings}
    same = json.dumps([[path for path, *_ in files], settings]).encode()
    entry = folder / f"{name}-{hashlib.sha256(same).hexdigest()[:12]}"
    found = _read(entry, key)
    if found is None:
        encoding = encode()
        try:
            _write(entry, key, encoding)
        except OSError as error:
            problem = error.strerror or str(error)
        else:
            problem = "it cannot be read back"
        # Another process may have written the same entry first.
        found = _read(entry, key)
        if found is None:
            terminal.warning(
                f"the encoded text cannot be kept in {folder} ({problem}); it is kept in "
                "memory, and the next run encodes it again."
            )
            found = in_memory(encoding)
    return found


def in_memory(encoding: Encoding) -> tuple[Sequence[str], dict[str, np.ndarray]]:
    """The vocabulary and the ids of each part, as arrays."""
    parts = {}
    for part in PARTS:
        ids = np.empty(encoding.lengths[part], encoding.dtype)
        done = 0
        for block in encoding.blocks(part):
            ids[done : done + len(block)] = block
            done += len(block)
        parts[part] = ids
    return encoding.vocabulary, parts


def _state(path: pathlib.Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _read(entry: pathlib.Path, key: dict[str, Any]):
    """The content of an entry; None if it is missing, damaged, or has another key."""
    try:
        index = json.loads((entry / _INDEX).read_text(encoding="utf-8"))
        if index["key"] != key:
            return None
        parts = {part: np.load(entry / f"{part}.npy", mmap_mode="r") for part in PARTS}
        if {part: len(ids) for part, ids in parts.items()} != index["lengths"]:
            return None
        return index["vocabulary"], parts
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _write(entry: pathlib.Path, key: dict[str, Any], encoding: Encoding) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(entry.parent)
    made = pathlib.Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=entry.parent))
    try:
        for part in PARTS:
            with open(made / f"{part}.npy", "wb") as file:
                # Written, not mapped, so that a full disk is an error and not a crash.
                header = {
                    "descr": np.lib.format.dtype_to_descr(encoding.dtype),
                    "fortran_order": False,
                    "shape": (encoding.lengths[part],),
                }
                np.lib.format.write_array_header_1_0(file, header)
                for block in encoding.blocks(part):
                    file.write(block.astype(encoding.dtype, copy=False).tobytes())
                _sync(file)
        index = {
            "key": key,
            "lengths": encoding.lengths,
            "vocabulary": list(encoding.vocabulary),
        }
        with open(made / _INDEX, "w", encoding="utf-8") as file:
            json.dump(index, file)
            _sync(file)
        if entry.exists():
            # A folder that is not empty cannot be replaced, but it can be moved.
            os.replace(entry, made / "replaced")
            shutil.rmtree(made / "replaced", ignore_errors=True)
        os.replace(made, entry)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def _remove_abandoned(folder: pathlib.Path) -> None:
    """Removes old folders of killed runs; those that another run writes are newer."""
    for path in folder.glob(f"{TEMPORARY}*"):
        try:
            newest = max(p.stat().st_mtime for p in [path, *path.iterdir()])
        except OSError:
            continue
        if newest < time.time() - _ABANDONED:
            shutil.rmtree(path, ignore_errors=True)
