"""What `MaskDynamics` remembers: the sets, as bits, and a file of all measurements.

The file holds NumPy arrays (`np.save`), one after another, and is only added to: which
weights it is of and their reservoir, then for each measurement its step, its values and
what changed in A. From these the state at any step can be made again, however old the
checkpoint is that a run goes on from. A kill may leave the last arrays incomplete; it is
then as if they were not there.
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
    """What lies where `MaskDynamics` is to write is damaged, or not of this run."""


class Measurement(NamedTuple):
    """One measurement, as the file keeps it.

    Attributes:
      step: when.
      since: the step that it is compared with, or None.
      values: float64 of shape ``[weights + 1, measures]``; the last row is over all.
      changed: which entries of A are not as before, as bits, the weights one after
        another.
    """

    step: int
    since: int | None
    values: np.ndarray
    changed: np.ndarray


@dataclasses.dataclass
class Sets:
    """Three bits an entry, eight entries a byte, for each weight in a list.

    Attributes:
      reservoir: C_0, at the first measurement.
      forward: A at the last one.
      ever: what has been in A at any of them.
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
        """The next A of one weight, by the bits that are not as before."""
        self.forward[index] = self.forward[index] ^ changed
        self.ever[index] = self.ever[index] | self.forward[index]

    def equal(self, codes: Iterable[np.ndarray]) -> bool:
        """Whether A is that of these set codes."""
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
    """The file.

    Args:
      path: where it is, or will be.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._ends: list[int] = []

    def begin(self, identity: list, sets: Sets) -> None:
        """Writes a new file.

        Args:
          identity: what a run must have in common with the file, as JSON has it: a list
            of [path, shape] of its weights.
          sets: before the first measurement.
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
        """What was written up to a step.

        Args:
          until: the last step that counts.

        Returns:
          The identity, the sets after the last measurement, and the measurements; or
          None if there is no file, or no measurement in it.

        Raises:
          OtherFiles: if it is damaged, or something else.
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
                    f"beside it, to begin anew. Received: {self.path} ({error})"
                ) from error
            self._ends = [file.tell()]
            while (found := _read_measurement(file)) and found.step <= until:
                for index, changed in enumerate(_split(found.changed, sizes)):
                    sets.change(index, changed)
                past.append(found)
                self._ends.append(file.tell())
        if found is not None:
            logging.info(
                "%s: what was measured after step %d, where training goes on, will be "
                "measured again",
                self.path,
                until,
            )
        elif not past:
            return None
        return identity, sets, past

    def forget_after(self, count: int) -> None:
        """Keeps the first `count` of the measurements that were loaded, and no more."""
        os.truncate(self.path, self._ends[count])


def _read_measurement(file: Any) -> Measurement | None:
    try:
        step, since = np.load(file).tolist()
        values, changed = np.load(file), _expanded(np.load(file))
    except (ValueError, TypeError, EOFError, zlib.error):
        return None  # the end, or a write that was cut short
    return Measurement(step, None if since < 0 else since, values, changed)


def _compressed(bits: np.ndarray) -> np.ndarray:
    return np.frombuffer(zlib.compress(bits.tobytes()), np.uint8)


def _expanded(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(zlib.decompress(array.tobytes()), np.uint8)


def _split(bits: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """The bits of each weight; every weight begins with a new byte."""
    ends = np.cumsum([(size + 7) // 8 for size in sizes])
    if len(bits) != ends[-1]:
        raise ValueError(f"{len(bits)} bytes for weights of {sizes} entries")
    return np.split(bits, ends[:-1])
