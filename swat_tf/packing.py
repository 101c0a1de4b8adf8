"""Sparse tensors stored as their values and one bit per entry."""

from typing import NamedTuple

import tensorflow as tf

from topkast_tf.core.chunks import map_in_chunks
from topkast_tf.core.trace_once import trace_once

STORAGES = ("dense", "packed")
_BITS = 8


class Packed(NamedTuple):
    """A sparse tensor: the values of its kept entries, and one bit per entry.

    Attributes:
      values: the kept entries, in order.
      bits: uint8, eight entries of the mask per byte.
      shape: the tensor's shape, an integer vector.
    """

    values: tf.Tensor
    bits: tf.Tensor
    shape: tf.Tensor


def pack(x: tf.Tensor, mask: tf.Tensor) -> Packed:
    """Packs the entries of a tensor on a mask.

    Args:
      x: tensor of any shape.
      mask: boolean tensor of the same shape.

    Returns:
      A `Packed`, of ``kept * itemsize + n / 8`` bytes.

    >>> unpack(pack(tf.constant([1.0, 2.0, 3.0]), tf.constant([True, False, True])))
    <tf.Tensor: shape=(3,), dtype=float32, numpy=array([1., 0., 3.], dtype=float32)>
    """
    flat, kept = tf.reshape(x, [-1]), tf.reshape(mask, [-1])
    return Packed(*_packed(flat, kept), tf.shape(x))


@tf.custom_gradient
def _packed(flat: tf.Tensor, kept: tf.Tensor):
    values, bits = _pack(flat, kept)

    def gradient(upstream, _):
        return _unpacked(upstream, bits, tf.size(flat)), None

    return (values, bits), gradient


@trace_once
def _pack(flat: tf.Tensor, kept: tf.Tensor) -> list[tf.Tensor]:
    # In parts: the indices of kept entries take twice the memory of their values.
    parts = map_in_chunks(
        lambda part, on: [tf.gather(part, tf.where(on)[:, 0]), pack_bits(on)],
        flat,
        kept,
    )
    return [tf.concat(made, 0) for made in zip(*parts, strict=True)]


def unpack(packed: Packed) -> tf.Tensor:
    """The inverse of `pack`; zero where nothing was kept."""
    size = tf.reduce_prod(packed.shape)
    return tf.reshape(_unpacked(packed.values, packed.bits, size), packed.shape)


@tf.custom_gradient
def _unpacked(values: tf.Tensor, bits: tf.Tensor, size: tf.Tensor):
    def gradient(upstream):
        return _packed(upstream, unpack_bits(bits, size))[0], None, None

    return _unpack(values, bits, size), gradient


@trace_once
def _unpack(values: tf.Tensor, bits: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    at = tf.where(unpack_bits(bits, size))
    return tf.scatter_nd(at, values, tf.cast(tf.reshape(size, [1]), tf.int64))


def pack_bits(mask: tf.Tensor) -> tf.Tensor:
    """Packs a boolean vector, eight entries per byte; the last byte is zero-padded.

    >>> pack_bits(tf.constant([True, False, True])).numpy().tolist()
    [5]
    """
    octets = tf.pad(tf.cast(mask, tf.uint8), [[0, -tf.size(mask) % _BITS]])
    octets = tf.reshape(octets, [-1, _BITS])
    return tf.reduce_sum(octets * _weights(), axis=1)


def unpack_bits(bits: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Unpacks a boolean vector of `size` entries.

    >>> unpack_bits(tf.constant([5], tf.uint8), 3).numpy().tolist()
    [True, False, True]
    """
    octets = tf.bitwise.bitwise_and(bits[:, None], _weights())
    return tf.reshape(octets > 0, [-1])[:size]


def _weights() -> tf.Tensor:
    return tf.constant([1 << i for i in range(_BITS)], tf.uint8)


def validate_storage(storage: object) -> None:
    """Raises a ValueError unless this is a way to store saved tensors.

    >>> validate_storage("packed")
    """
    if storage not in STORAGES:
        raise ValueError(
            f"`storage` must be one of {list(STORAGES)}. Received: storage={storage!r}"
        )
