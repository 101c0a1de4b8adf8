"""The history of `MaskDynamics`: the sets, as bits, and a file of all measurements.

The file is append-only and holds NumPy arrays (`np.save`): the identity of the weights and
their reservoir, then for each measurement its step, its values and the changes in A. From
these the state at any step can be rebuilt, however old the checkpoint from which a run
resumes. A killed run may leave the last arrays incomplete; they are then ignored.
"""

import dataclasses
import io
import json
import math
import os
import pathlib
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from topkast_tf.core.sets import FORWARD, RESERVOIR


class OtherFiles(ValueError):
    """The existing files of `MaskDynamics` are damaged, or belong to another run."""


class Measurement(NamedTuple):
    """One measurement, as stored in the file.

    Attributes:
      step: the step of the measurement.
      since: the step that it is compared with, or None.
      values: float64 of shape ``[weights + 1, measures]``; the last row is over all.
      changed: the entries of A that have changed, as bits, the weights concatenated.
    """

    step: int
    since: int | None
    values: np.ndarray
    changed: np.ndarray


@dataclasses.dataclass
class Sets:
    """Three bits per entry, eight entries per byte, one list item per weight.

    Attributes:
      reservoir: C_0, at the first measurement.
      forward: A at the last one.
      ever: the entries that have been in A at any of them.
    """

    reservoir: list[np.ndarray]
    forward: list[np.ndarray]
    ever: list[np.ndarray]

    @classmethod
    def of(cls, reservoir: list[np.ndarray]) -> "Sets":
        """The sets before the first measurement, with an empty A."""
        return cls(
            reservoir,
            [np.zeros_like(bits) for bits in reservoir],
            [np.zeros_like(bits) for bits in reservoir],
        )

    def change(self, index: int, changed: np.ndarray) -> None:
        """Updates A of one weight by its changed bits."""
        self.forward[index] = self.forward[index] ^ changed
        self.ever[index] = self.ever[index] | self.forward[index]

    def equal(self, codes: Iterable[np.ndarray]) -> bool:
        """Whether A equals that of these set codes."""
        return all(
            np.array_equal(bits, forward_bits(code))
            for bits, code in zip(self.forward, codes, strict=True)
        )


def forward_bits(codes: np.ndarray) -> np.ndarray:
    """A of set codes, as bits."""
    return np.packbits(codes == FORWARD)


def reservoir_bits(codes: np.ndarray) -> np.ndarray:
    """C of set codes, as bits."""
    return np.packbits(codes == RESERVOIR)


def unpacked(bits: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Bits as a boolean array.

    >>> unpacked(np.packbits([[True, False, True]]), (1, 3)).tolist()
    [[True, False, True]]
    """
    return np.unpackbits(bits, count=math.prod(shape)).reshape(shape).view(bool)


class Memory:
    """The history file.

    Args:
      path: its path; the file may not exist yet.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._ends: list[int] = []

    def begin(self, identity: list, sets: Sets) -> None:
        """Writes a new file.

        Args:
          identity: the part that must match between a run and the file: a list, as read
            from JSON, of [path, shape] of the weights.
          sets: the sets before the first measurement.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        np.save(file, np.frombuffer(json.dumps(identity).encode(), np.uint8))
        np.save(file, _compressed(np.concatenate(sets.reservoir)))
        part = self.path.with_name(f".part-{self.path.name}")
        part.write_bytes(file.getvalue())
        os.replace(part, self.path)

    def add(self, measurement: Measurement) -> None:
        """Adds a measurement at the end."""
        since = -1 if measurement.since is None else measurement.since
        record = io.BytesIO()
        np.save(record, np.array([measurement.step, since], np.int64))
        np.save(record, measurement.values)
        np.save(record, _compressed(measurement.changed))
        with open(self.path, "ab") as file:
            file.write(record.getvalue())

    def load(self, until: int) -> tuple[list, Sets, list[Measurement]] | None:
        """Reads the history up to a step.

        Args:
          until: the last step to read.

        Returns:
          The identity, the sets after the last measurement, and the measurements; or
          None if there is no file, or no measurement in it.

        Raises:
          OtherFiles: if the file is damaged, or of another kind.
        """
        if not self.path.exists():
            return None
        past: list[Measurement] = []
        with open(self.path, "rb") as file:
            try:
                identity = json.loads(np.load(file).tobytes())
                sizes = [math.prod(shape) for _, shape in identity]
                sets = Sets.of(_split(_expanded(np.load(file)), sizes))
            except (ValueError, TypeError, EOFError, zlib.error) as error:
                raise OtherFiles(
                    "Expected a file that `MaskDynamics` wrote. Delete it, and the CSV "
                    f"next to it, to start anew. Received: {self.path} ({error})"
                ) from error
            self._ends = [file.tell()]
            while (found := _read_measurement(file)) and found.step <= until:
                for index, changed in enumerate(_split(found.changed, sizes)):
                    sets.change(index, changed)
                past.append(found)
                self._ends.append(file.tell())
        if found is not None:
            logging.info(
                "%s: the measurements after step %d, at which training resumes, will be "
                "repeated",
                self.path,
                until,
            )
        elif not past:
            return None
        return identity, sets, past

    def forget_after(self, count: int) -> None:
        """Keeps only the first `count` of the loaded measurements."""
        os.truncate(self.path, self._ends[count])


def _read_measurement(file: Any) -> Measurement | None:
    try:
        step, since = np.load(file).tolist()
        values, changed = np.load(file), _expanded(np.load(file))
    except (ValueError, TypeError, EOFError, zlib.error):
        return None  # the end, or an interrupted write
    return Measurement(step, None if since < 0 else since, values, changed)


def _compressed(bits: np.ndarray) -> np.ndarray:
    return np.frombuffer(zlib.compress(bits.tobytes()), np.uint8)


def _expanded(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(zlib.decompress(array.tobytes()), np.uint8)


def _split(bits: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """The bits of each weight; every weight begins at a new byte."""
    ends = np.cumsum([(size + 7) // 8 for size in sizes])
    if len(bits) != ends[-1]:
        raise ValueError(f"{len(bits)} bytes for weights of {sizes} entries")
    return np.split(bits, ends[:-1])
