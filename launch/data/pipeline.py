"""Batches as functions of (seed, step), so that a resumed run is bitwise the same.

There is no generator state. The order of an epoch depends on the seed and the epoch,
crops and flips on the seed and the step.
"""

import tensorflow as tf

from launch.data import augment, sharding, streaming
from launch.data.randomness import CROP, FLIP, ORDER, seed_of
from launch.data.shares import share
from launch.data.source import ImageData, ImageStream


def steps_per_epoch(train_examples: int, batch_size: int) -> int:
    """Full batches in an epoch; the remaining examples differ between epochs."""
    return train_examples // batch_size


def training_batches(
    data: ImageData | ImageStream,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    steps: int,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """The augmented batches of steps `first_step` ... `first_step + steps - 1`.

    Args:
      data: the images, in memory or streamed.
      batch_size: images per step, at most the number of training examples.
      seed: seed of the order and of the augmentation.
      first_step: step of the first batch, counted from 0 over the whole run.
      steps: number of batches.
      shard: (index of this worker, number of workers): it gets its rows of the batches
        that a single worker would get, with the same augmentation.

    Returns:
      A data set of (images, labels): float32 [batch, height, width, channels],
      normalised, and float32 one-hot [batch, classes].

    Raises:
      UserError: if the batch cannot be divided evenly among the workers.
    """
    if isinstance(data, ImageStream):
        return streaming.training_batches(
            data,
            batch_size=batch_size,
            seed=seed,
            first_step=first_step,
            steps=steps,
            shard=shard,
        )
    images = tf.constant(data.train_images)
    labels = tf.constant(data.train_labels)
    rows = sharding.rows(batch_size, shard)

    def batch(step, chosen):
        mine = chosen[rows]
        x = tf.gather(images, mine)
        x = _augment(x, data, seed, step, batch_size, rows)
        return normalise(x, data), tf.one_hot(tf.gather(labels, mine), data.classes)

    return (
        indices(
            len(data.train_images),
            batch_size=batch_size,
            seed=seed,
            first_step=first_step,
            steps=steps,
        )
        .map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(2)
    )


def indices(
    train_examples: int, *, batch_size: int, seed: int, first_step: int, steps: int
) -> tf.data.Dataset:
    """(step, indices of its examples), from a new permutation in each epoch.

    Arguments as for `training_batches`; `train_examples` are permuted.
    """
    per_epoch = steps_per_epoch(train_examples, batch_size)
    first_epoch = first_step // per_epoch
    last_epoch = (first_step + steps - 1) // per_epoch

    def epoch_batches(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(train_examples), seed=seed_of(seed, ORDER, epoch)
        )
        cut = tf.reshape(order[: per_epoch * batch_size], [per_epoch, batch_size])
        return tf.data.Dataset.from_tensor_slices(cut)

    return (
        tf.data.Dataset.range(first_epoch, last_epoch + 1)
        .flat_map(epoch_batches)
        .skip(first_step - first_epoch * per_epoch)
        .take(steps)
        .enumerate(start=first_step)
    )


def evaluation_batches(
    data: ImageData | ImageStream,
    batch_size: int = 500,
    shard: tuple[int, int] = (0, 1),
) -> tf.data.Dataset:
    """All test images in order, normalised and not augmented, with one-hot labels.

    Args:
      data: the images, in memory or streamed.
      batch_size: images per batch; the last batch may have fewer.
      shard: (index of this worker, number of workers): it gets its rows of the batches.
    """
    if isinstance(data, ImageStream):
        return streaming.evaluation_batches(data, batch_size, shard)
    x, y = data.test_images, data.test_labels
    return (
        tf.data.Dataset.from_tensor_slices((x, y))
        .batch(batch_size)
        .map(lambda *batch: share(batch, shard))
        .map(
            lambda x, y: (normalise(x, data), tf.one_hot(y, data.classes)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .prefetch(2)
    )


def normalise(images: tf.Tensor, data: ImageData) -> tf.Tensor:
    """(images / scale - mean) / std for each channel, in float32."""
    return augment.normalise(images, data.scale, data.mean, data.std)


def _augment(images, data: ImageData, seed: int, step, batch_size: int, rows: slice):
    # Sampled for the global batch, so that the images do not depend on the number of
    # workers.
    if data.padding:
        offsets = tf.random.stateless_uniform(
            [batch_size, 2],
            seed=seed_of(seed, CROP, step),
            maxval=2 * data.padding + 1,
            dtype=tf.int32,
        )
        # Cropped before normalisation, so that the border is black and not the mean.
        images = augment.crop(images, offsets[rows], data.padding)
    if data.flip:
        draws = tf.random.stateless_uniform(
            [batch_size], seed=seed_of(seed, FLIP, step)
        )
        images = augment.flip(images, draws[rows] < 0.5)
    return images
