"""Splits batches of any number of rows among workers and replicas."""

import tensorflow as tf


def share(batch: tuple[tf.Tensor, ...], shard) -> tuple[tf.Tensor, ...]:
    """The rows of a batch that belong to one shard; all shards together have the batch.

    Shard i of n gets the rows from ``floor(i * rows / n)`` up to
    ``floor((i + 1) * rows / n)``, possibly none if there are fewer rows than shards.

    Args:
      batch: tensors with the same number of rows.
      shard: (index, number of shards).

    >>> [int(n) for n in share((tf.range(5),), (1, 2))[0]]
    [2, 3, 4]
    """
    index, count = shard
    rows, known = tf.shape(batch[0], tf.int64)[0], batch[0].shape[0]
    begin, end = (rows * i // count for i in (index, index + 1))
    cut = tuple(x[begin:end] for x in batch)
    if known is None or known % count:
        return cut
    return tuple(tf.ensure_shape(x, [known // count, *x.shape[1:]]) for x in cut)


def shares(count: int, *batch: tf.Tensor) -> tf.data.Dataset:
    """The shares of a batch, one after another.

    Args:
      count: number of shards.
      *batch: tensors with the same number of rows.
    """
    return tf.data.Dataset.range(count).map(lambda index: share(batch, (index, count)))
