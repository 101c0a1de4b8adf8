"""The memory of a machine: on-chip buffers, a bandwidth, and the traffic of a product."""

from __future__ import annotations

import dataclasses
import math

from swat_tf.simulator.checks import check_rates, check_sizes

METADATA = ("mask", "select")


@dataclasses.dataclass(frozen=True)
class Memory:
    """On-chip buffers and the bandwidth to the memory behind them.

    Args:
      activations: bytes of the buffer of activations, and of errors in the input
        gradient.
      weights: bytes of the buffer of weights, and of errors in the weight gradient.
      outputs: bytes of the buffer of sums, at least 4 for each sum that is under way.
      bandwidth: bytes per second between the buffers and the memory.

    Raises:
      ValueError: for a size below 1, or a bandwidth that is not above 0.
    """

    activations: int
    weights: int
    outputs: int
    bandwidth: float

    def __post_init__(self) -> None:
        check_sizes(
            activations=self.activations, weights=self.weights, outputs=self.outputs
        )
        check_rates(bandwidth=self.bandwidth)


def check_memory(memory: object) -> None:
    """Raises a ValueError for what is no `Memory`."""
    if not isinstance(memory, Memory):
        raise ValueError(
            f"Expected `memory` to be a Memory. Received: memory={memory!r}"
        )


def stored_bytes(entries: int, kept: int, value_bits: int, metadata_bits: int) -> int:
    """Bytes of a tensor whose zeros are left out; dense where that takes less.

    ``min(n v, k v + n)`` bits with a bit mask, ``min(n v, k (v + m))`` bits with m bits
    for each value.

    Args:
      entries: n, entries of the tensor.
      kept: k, those that are not zero.
      value_bits: v, bits of a value.
      metadata_bits: m, bits that say where a value belongs; 0: a bit mask.

    >>> stored_bytes(1000, 100, 16, 0), stored_bytes(1000, 100, 16, 3)
    (325, 238)
    >>> stored_bytes(1000, 1000, 16, 0)
    2000
    """
    positions = kept * metadata_bits if metadata_bits else entries
    return math.ceil(min(entries * value_bits, kept * value_bits + positions) / 8)


def traffic(
    first: int, second: int, result: int, *, first_buffer: int, second_buffer: int
) -> int:
    """Bytes between the memory and the buffers for one product, at the least.

    ``result + min(a + b ceil(a / A), b + a ceil(b / B))``

    One operand is read once, in blocks that fill its buffer; the other is read once for
    each block. The better order counts. Sums stay on the chip until they are complete.

    Args:
      first: a, bytes of one operand.
      second: b, bytes of the other.
      result: bytes of the result, written once.
      first_buffer: A, bytes of the buffer of `first`.
      second_buffer: B, bytes of the buffer of `second`.

    >>> traffic(100, 100, 10, first_buffer=1000, second_buffer=1)
    210
    >>> traffic(1000, 50, 10, first_buffer=250, second_buffer=10)
    1210
    """
    return result + min(
        first + second * math.ceil(first / first_buffer),
        second + first * math.ceil(second / second_buffer),
    )
