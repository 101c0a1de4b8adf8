"""Segments of a text in the order that a memory of earlier segments needs.

The text is cut into as many contiguous streams as a batch has rows. Row b of a batch is
the next segment of stream b: it goes on where row b of the batch before has ended, so a
model may keep what it has seen of each row (Dai et al. 2019). Batches are functions of
the step; nothing is carried along, and a text that is mapped from a file is read where
a batch needs it.
"""

import hashlib

import numpy as np
import tensorflow as tf

from launch.data import sharding
from launch.support.errors import UserError


def steps_per_epoch(tokens: int, batch_size: int, length: int) -> int:
    """Full segments in a stream: floor(floor((tokens - 1) / batch_size) / length).

    The last token is only predicted. What is left over at the end of each stream is
    less than a segment.

    Args:
      tokens: of the training part.
      batch_size: streams.
      length: tokens of a segment.

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

    With S = floor((tokens - 1) / batch_size) tokens a stream, at step t of an epoch

        inputs[b, i] = tokens[b * S + t * length + i],
        targets[b, i] = tokens[b * S + t * length + i + 1].

    After the last step of an epoch (see `steps_per_epoch`) each stream begins again: the
    first step of an epoch, when `step % steps_per_epoch == 0`, does not go on from the
    step before.

    Args:
      tokens: integers of shape [tokens], in memory or mapped from a file.
      batch_size: rows of the global batch.
      length: tokens of a segment.
      first_step: step of the first batch, counted from 0 over the whole run.
      steps: number of batches.
      shard: (index of this worker, number of workers): it gets its rows of the batches
        that one worker alone would get.
      offset_seed: if given, the text of each epoch begins at a token of its own, drawn
        from (offset_seed, epoch), and after its end goes on with its beginning; other
        segments than those of the epoch before. By default all epochs are the same.

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
    """Segments that predict each token exactly once, but the first, which none precedes.

    Streams and rows as for training, but that nothing is left over: where a stream ends
    before its last segment does, ids are 0 and weights 0. So

        sum(weights * loss(inputs, targets)) / sum(weights)

    is the mean over all tokens, whatever `batch_size` and `length` are. A row begins with
    no memory: of a model with memory the figures published are those of few rows.

    Args:
      tokens: integers of shape [tokens], in memory or mapped from a file.
      batch_size: rows.
      length: tokens of a segment.

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
    """Where the text of an epoch begins; from a digest, the same in every NumPy."""
    digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % tokens


def _read(batch, steps: range, specs) -> tf.data.Dataset:
    """A data set of what `batch` gives for each of the steps, in their order."""

    def read(step):
        found = tf.numpy_function(batch, [step], [dtype for dtype, _ in specs])
        for part, (_, shape) in zip(found, specs, strict=True):
            part.set_shape(shape)
        return tuple(found)

    return tf.data.Dataset.range(steps.start, steps.stop).map(read).prefetch(8)
