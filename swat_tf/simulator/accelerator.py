"""The parameters of an accelerator of tiles of multipliers that may skip zeros."""

from __future__ import annotations

import dataclasses
import math

from swat_tf.simulator.checks import (
    check_choice,
    check_counts,
    check_rates,
    check_sizes,
)
from swat_tf.simulator.memory import METADATA, Memory, check_memory
from swat_tf.simulator.scheduler import MOST_LANES
from swat_tf.simulator.search_space import SHAPES, search_space

INTERCONNECTS = ("none", "window", "ideal")
SKIPS = ("swat", "sparser")
_SUM_BYTES = 4
_MOST_AHEAD = 2**16


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Tiles of rows x columns groups of multipliers; each group multiplies `lanes` pairs.

    A row holds a vector of the operand whose zeros are skipped (a filter), a column one
    of the other operand (a window). Every cycle each group of a row and a column
    multiplies one line of both and adds it to their sum. The rows of a tile share the
    lines of the columns.

    Args:
      tiles: tiles, each with vectors of its own; at least 1.
      rows: vectors of the skipped side of a tile (filters).
      columns: vectors of the other side (windows).
      lanes: products of a group in a cycle; 1 to 64.
      clock: cycles per second.
      value_bits: bits of a value in memory.
      memory: buffers and bandwidth.
      interconnect: ``"none"``: zeros are multiplied, as in a dense machine;
        ``"window"``: look-ahead and look-aside, `look_ahead`, `look_aside` and `shape`
        as in `search_space`, which no other kind reads; ``"ideal"``: a row packs its
        values without gaps.
      look_ahead: h, lines ahead from which a value may come, at most 65,536; a tile is at
        most h + 1 times as fast as a dense one.
      look_aside: d, places in other lanes.
      shape: ``"T"`` or ``"L"``.
      synchronised: whether the rows of a tile advance together. Free rows take lines of
        their own, which needs a stream of the other operand for each row.
      skips: ``"swat"``: zeros of the weights in the forward pass and in the input
        gradient, of the activations in the weight gradient; ``"sparser"``: in the
        forward pass those of the activations where they have more zeros.
      skips_padding: whether zeros that only fill up are skipped, too: lanes without a
        channel, and positions outside of the image. If not, they are multiplied as in the
        dense machine, so that only zeros of the operands make a difference.
      metadata: what tells where stored values belong: ``"mask"``, one bit for each entry,
        or ``"select"``, ceil(log2(h + d)) bits for each value. The zeros that are left in
        scheduled lines are not counted, so that the latter is a lower bound.

    Raises:
      ValueError: for a parameter out of range, and for a buffer of sums that is smaller
        than 4 bytes for each group.

    >>> from swat_tf.simulator import preset
    >>> machine = preset("tensordash")
    >>> machine.multipliers, machine.metadata_bits
    (4096, 0)

    Source: DaDianNao, Bit-Tactical, TensorDash and their simulator DNNsim; see
    `swat_tf.simulator.presets`.
    """

    tiles: int
    rows: int
    columns: int
    lanes: int
    clock: float
    value_bits: int
    memory: Memory
    interconnect: str = "none"
    look_ahead: int = 2
    look_aside: int = 5
    shape: str = "T"
    synchronised: bool = True
    skips: str = "swat"
    skips_padding: bool = False
    metadata: str = "mask"

    def __post_init__(self) -> None:
        check_sizes(
            tiles=self.tiles,
            rows=self.rows,
            columns=self.columns,
            lanes=self.lanes,
            value_bits=self.value_bits,
        )
        check_rates(clock=self.clock)
        check_choice("interconnect", self.interconnect, INTERCONNECTS)
        check_choice("shape", self.shape, SHAPES)
        check_choice("skips", self.skips, SKIPS)
        check_choice("metadata", self.metadata, METADATA)
        check_counts(look_ahead=self.look_ahead, look_aside=self.look_aside)
        if self.lanes > MOST_LANES:
            raise ValueError(
                f"Expected `lanes` of at most {MOST_LANES}, the bits of an integer. "
                f"Received: lanes={self.lanes}"
            )
        check_memory(self.memory)
        for name in ("synchronised", "skips_padding"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"Expected `{name}` to be True or False. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        needed = _SUM_BYTES * self.tiles * self.rows * self.columns
        if self.memory.outputs < needed:
            raise ValueError(
                f"Expected a buffer of sums of at least {needed} bytes, 4 for each group "
                f"of multipliers. Received: outputs={self.memory.outputs}"
            )
        if self.interconnect == "window":
            self._check_places()

    def _check_places(self) -> None:
        if self.look_ahead > _MOST_AHEAD:
            raise ValueError(
                f"Expected `look_ahead` of at most {_MOST_AHEAD} lines. "
                f"Received: look_ahead={self.look_ahead}"
            )
        if self.look_aside and not self.look_ahead:
            raise ValueError(
                "Expected `look_aside` to be 0 without look-ahead: values come from lines "
                f"ahead. Received: look_ahead=0, look_aside={self.look_aside}"
            )
        # So many that they cannot be are not listed.
        are_apart = (
            self.look_aside < self.look_ahead * self.lanes or not self.look_ahead
        )
        if are_apart:
            wrapped = {(time, lane % self.lanes) for time, lane in self._places()}
            are_apart = len(wrapped) == self.look_ahead + self.look_aside
        if not are_apart:
            raise ValueError(
                "Expected a look-aside whose places are in different lanes. Received: "
                f"look_ahead={self.look_ahead}, look_aside={self.look_aside}, "
                f"shape={self.shape!r}, lanes={self.lanes}"
            )

    def _places(self) -> list[tuple[int, int]]:
        return search_space(self.look_ahead, self.look_aside, self.shape)

    @property
    def places(self) -> list[tuple[int, int]]:
        """Where a lane may take a value from; none unless the interconnect is a window."""
        return self._places() if self.interconnect == "window" else []

    @property
    def multipliers(self) -> int:
        """Products in a cycle, at most."""
        return self.tiles * self.rows * self.columns * self.lanes

    @property
    def metadata_bits(self) -> int:
        """Bits of metadata for each stored value; 0 for a bit mask of the entries."""
        if self.metadata == "mask":
            return 0
        return max(1, math.ceil(math.log2(max(1, self.look_ahead + self.look_aside))))
