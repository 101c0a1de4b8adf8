"""Batches as functions of (seed, step): what a resumed run needs to be the same run.

No generator is carried along. The order of an epoch follows from the seed and the
epoch, crops and flips from the seed and the step.
"""

import numpy as np
import tensorflow as tf

from launch.data import augment
from launch.data.source import ImageData

# One stream of random numbers for each use.
_ORDER, _CROP, _FLIP = range(3)


def steps_per_epoch(train_examples: int, batch_size: int) -> int:
    """Full batches in an epoch; the examples left over differ from epoch to epoch."""
    return train_examples // batch_size


def training_batches(
    data: ImageData, *, batch_size: int, seed: int, first_step: int, steps: int
) -> tf.data.Dataset:
    """The augmented batches of steps `first_step` ... `first_step + steps - 1`.

    Args:
      data: the images.
      batch_size: images a step, at most the number of training examples.
      seed: of the order and of the augmentation.
      first_step: step of the first batch, counted from 0 over the whole run.
      steps: number of batches.

    Returns:
      A data set of (images, labels): float32 [batch, height, width, channels],
      normalised, and float32 one-hot [batch, classes].
    """
    images = tf.constant(data.train_images)
    labels = tf.constant(data.train_labels)

    def batch(step, chosen):
        x = tf.gather(images, chosen)
        x = _augment(x, data, seed, step)
        return normalise(x, data), tf.one_hot(tf.gather(labels, chosen), data.classes)

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
    """(step, indices of its examples): each epoch a new permutation, cut in batches.

    Arguments as for `training_batches`; `train_examples` is the number to permute.
    """
    per_epoch = steps_per_epoch(train_examples, batch_size)
    first_epoch = first_step // per_epoch
    last_epoch = (first_step + steps - 1) // per_epoch

    def epoch_batches(epoch):
        order = tf.random.experimental.stateless_shuffle(
            tf.range(train_examples), seed=_seed(seed, _ORDER, epoch)
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


def evaluation_batches(data: ImageData, batch_size: int = 500) -> tf.data.Dataset:
    """All test images in their order, normalised, not augmented; one-hot labels."""
    x, y = data.test_images, data.test_labels
    return (
        tf.data.Dataset.from_tensor_slices((x, y))
        .batch(batch_size)
        .map(
            lambda x, y: (normalise(x, data), tf.one_hot(y, data.classes)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        .prefetch(2)
    )


def normalise(images: tf.Tensor, data: ImageData) -> tf.Tensor:
    """(images / scale - mean) / std for each channel, in float32."""
    mean = np.asarray(data.mean, "float32")
    std = np.asarray(data.std, "float32")
    return (tf.cast(images, tf.float32) / data.scale - mean) / std


def _augment(images, data: ImageData, seed: int, step):
    count = tf.shape(images)[0]
    if data.padding:
        offsets = tf.random.stateless_uniform(
            [count, 2],
            seed=_seed(seed, _CROP, step),
            maxval=2 * data.padding + 1,
            dtype=tf.int32,
        )
        # Cropped before it is normalised: the border is black, not the mean.
        images = augment.crop(images, offsets, data.padding)
    if data.flip:
        draws = tf.random.stateless_uniform([count], seed=_seed(seed, _FLIP, step))
        images = augment.flip(images, draws < 0.5)
    return images


def _seed(seed: int, stream: int, time):
    """A stateless seed of its own for every use and every step or epoch."""
    start = tf.constant([seed, stream], tf.int64)
    return tf.random.experimental.stateless_fold_in(start, tf.cast(time, tf.int64))
