"""Segments of a text, in the order that a memory of earlier segments requires.

The text is split into one contiguous stream for each row of a batch. Row b of a batch is
the next segment of stream b, which continues row b of the previous batch, so that a model
may keep a memory for each row (Dai et al. 2019). Batches are functions of the step,
without other state. Of a memory-mapped text only the segments of a batch are read.
"""

import hashlib

import numpy as np
import tensorflow as tf

from launch.data import sharding
from launch.support.errors import UserError


def steps_per_epoch(tokens: int, batch_size: int, length: int) -> int:
    """Full segments in a stream: floor(floor((tokens - 1) / batch_size) / length).

    The last token is only a target. Less than a segment remains at the end of a stream.

    Args:
      tokens: number of tokens of the training part.
      batch_size: number of streams.
      length: tokens per segment.

    Raises:
      UserError: if the text is too short for one step.

    >>> steps_per_epoch(100_001, batch_size=10, length=64)
    156
    """
    steps = (tokens - 1) // batch_size // length
    if steps < 1:
        raise UserError(
            f"Expected a text of at least {batch_size * length + 1} tokens, a segment of "
            f"{length} for each of {batch_size} rows. Received: {tokens}"
        )
    return steps


def segment_batches(
    tokens: np.ndarray,
    batch_size: int,
    length: int,
    first_step: int,
    steps: int,
    *,
    shard: tuple[int, int] = (0, 1),
    offset_seed: int | None = None,
) -> tf.data.Dataset:
    """The batches of steps `first_step` ... `first_step + steps - 1`.

    With S = floor((tokens - 1) / batch_size) tokens per stream, at step t of an epoch

        inputs[b, i] = tokens[b * S + t * length + i],
        targets[b, i] = tokens[b * S + t * length + i + 1].

    After the last step of an epoch (see `steps_per_epoch`) each stream restarts: the
    first step of an epoch, when `step % steps_per_epoch == 0`, does not continue the
    previous step.

    Args:
      tokens: integers of shape [tokens], in memory or memory-mapped.
      batch_size: rows of the global batch.
      length: tokens per segment.
      first_step: step of the first batch, counted from 0 over the whole run.
      steps: number of batches.
      shard: (index of this worker, number of workers): it gets its rows of the batches
        that a single worker would get.
      offset_seed: if given, each epoch starts at a random token, sampled from
        (offset_seed, epoch), and wraps around at the end of the text, so that its
        segments differ from those of the previous epoch. By default all epochs are the
        same.

    Returns:
      A data set of (inputs, targets): int32 [rows, length].

    Raises:
      UserError: if the text is too short, or the batch cannot be divided evenly among
        the workers.
    """
    per_epoch = steps_per_epoch(len(tokens), batch_size, length)
    rows = sharding.rows(batch_size, shard)
    stream = (len(tokens) - 1) // batch_size
    starts = np.arange(batch_size)[rows, None] * stream + np.arange(length + 1)

    def batch(step):
        epoch, step = divmod(int(step), per_epoch)
        places = starts + step * length
        if offset_seed is not None:
            places = (places + _offset(offset_seed, epoch, len(tokens))) % len(tokens)
        found = np.asarray(tokens[places], "int32")
        return found[:, :-1], found[:, 1:]

    shape = (rows.stop - rows.start, length)
    return _read(batch, range(first_step, first_step + steps), [("int32", shape)] * 2)


def evaluation_steps(tokens: int, batch_size: int, length: int) -> int:
    """Batches of `evaluation_segments`: ceil(ceil((tokens - 1) / batch_size) / length)."""
    return -(-_evaluation_stream(tokens, batch_size) // length)


def evaluation_segments(
    tokens: np.ndarray, batch_size: int, length: int
) -> tf.data.Dataset:
    """Segments that predict each token exactly once, except the first one of the text.

    Streams and rows are as for training, but complete: after the end of a stream, ids and
    weights are 0. So

        sum(weights * loss(inputs, targets)) / sum(weights)

    is the mean over all tokens, for any `batch_size` and `length`. A row starts without
    memory; published results of models with memory use few rows.

    Args:
      tokens: integers of shape [tokens], in memory or memory-mapped.
      batch_size: number of rows.
      length: tokens per segment.

    Returns:
      A data set of (inputs, targets, weights): int32, int32 and float32, all
      [batch_size, length], `evaluation_steps` batches.

    Raises:
      UserError: if there is no token to predict.
    """
    stream = _evaluation_stream(len(tokens), batch_size)
    steps = evaluation_steps(len(tokens), batch_size, length)
    rows = np.arange(batch_size)[:, None] * stream

    def batch(step):
        within = int(step) * length + np.arange(length)
        places = rows + within
        valid = (within < stream) & (places < len(tokens) - 1)
        places = np.where(valid, places, 0)
        inputs = np.where(valid, tokens[places], 0)
        targets = np.where(valid, tokens[places + 1], 0)
        return (
            inputs.astype("int32"),
            targets.astype("int32"),
            valid.astype("float32"),
        )

    shape = (batch_size, length)
    return _read(
        batch, range(steps), [("int32", shape), ("int32", shape), ("float32", shape)]
    )


def _evaluation_stream(tokens: int, batch_size: int) -> int:
    if tokens < 2:
        raise UserError(f"Expected a text of at least 2 tokens. Received: {tokens}")
    return -(-(tokens - 1) // batch_size)


def _offset(seed: int, epoch: int, tokens: int) -> int:
    """The first token of an epoch; from a digest, independent of the NumPy version."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % tokens


def _read(batch, steps: range, specs) -> tf.data.Dataset:
    """A data set of `batch(step)` for each of the steps, in order."""

    def read(step):
        found = tf.numpy_function(batch, [step], [dtype for dtype, _ in specs])
        for part, (_, shape) in zip(found, specs, strict=True):
            part.set_shape(shape)
        return tuple(found)

    return tf.data.Dataset.range(steps.start, steps.stop).map(read).prefetch(8)
