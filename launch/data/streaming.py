"""Batches of images that do not fit in memory, read from their files.

The order and the crops are functions of (seed, step), as for images in memory. Resuming
differs: files are read sequentially, so a resumed run reads again, without decoding, the
records of the epoch that it has already used. This takes time proportional to their
number.
"""

import tensorflow as tf

from launch.data import augment, sharding
from launch.data.randomness import CROP, FILES, FLIP, ORDER, seed_of
from launch.data.source import ImageStream

# The number of files that are interleaved, and of records that are shuffled together. For
# ImageNet a window, the next one and a copy take up to 1 GB.
_OPEN_FILES = 16
_WINDOW = 2048


def training_batches(
    data: ImageStream,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    steps: int,
    shard: tuple[int, int] = (0, 1),
    window: int = _WINDOW,
) -> tf.data.Dataset:
    """Random crops, resized and mirrored at random, of the steps from `first_step` on.

    An epoch consists of full batches. Each epoch shuffles the files, interleaves several
    of them, and shuffles the records in each window. All workers read all files; each
    decodes only its own images.

    Args:
      data: the files.
      batch_size: images per step, at most the number of training examples.
      seed: seed of the order and of the augmentation.
      first_step: step of the first batch, counted from 0 over the whole run.
      steps: number of batches.
      shard: (index of this worker, number of workers): it gets its rows of the batches
        that a single worker would get.
      window: number of records that are shuffled together.

    Returns:
      A data set of (images, labels): float32 [batch, height, width, channels],
      normalised, and float32 one-hot [batch, classes].

    Raises:
      UserError: if the batch cannot be divided evenly among the workers.
    """
    rows = sharding.rows(batch_size, shard)

    def is_own(position, record):
        row = position % batch_size
        return (rows.start <= row) & (row < rows.stop)

    def example(position, record):
        jpeg, label = _parse(record, data)
        place = position // batch_size, position % batch_size
        return _random_crop(jpeg, data, seed, place), label

    return (
        records(
            data,
            batch_size=batch_size,
            seed=seed,
            first_step=first_step,
            steps=steps,
            window=window,
        )
        .enumerate(start=first_step * batch_size)
        .filter(is_own)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(rows.stop - rows.start, drop_remainder=True)
        .apply(tf.data.experimental.assert_cardinality(steps))
        .prefetch(2)
    )


def records(
    data: ImageStream,
    *,
    batch_size: int,
    seed: int,
    first_step: int,
    steps: int,
    window: int = _WINDOW,
) -> tf.data.Dataset:
    """The serialised examples of the steps, in order, `batch_size` for each step.

    Arguments as for `training_batches`.
    """
    per_epoch = data.train_examples // batch_size
    first_epoch = first_step // per_epoch
    last_epoch = (first_step + steps - 1) // per_epoch

    def epoch_records(epoch):
        files = tf.random.experimental.stateless_shuffle(
            tf.constant(data.train_files), seed_of(seed, FILES, epoch)
        )

        # Not `Dataset.shuffle`, whose order depends on TensorFlow's global seed too.
        def mixed(index, some):
            return tf.random.experimental.stateless_shuffle(
                some, seed_of(seed, ORDER, epoch, index)
            )

        return (
            tf.data.Dataset.from_tensor_slices(files)
            .interleave(
                tf.data.TFRecordDataset,
                cycle_length=_OPEN_FILES,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .batch(window)
            .enumerate()
            .map(mixed)
            .prefetch(1)
            .unbatch()
            .take(per_epoch * batch_size)
        )

    return (
        tf.data.Dataset.range(first_epoch, last_epoch + 1)
        .flat_map(epoch_records)
        .skip((first_step - first_epoch * per_epoch) * batch_size)
        .take(steps * batch_size)
    )


def evaluation_batches(
    data: ImageStream, batch_size: int = 500, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """All test images in order, centrally cropped and normalised, with one-hot labels.

    Args:
      data: the files.
      batch_size: images per batch; the last batch may have fewer.
      shard: (index of this worker, number of workers): it decodes only its rows.
    """
    height, width, channels = data.image_shape
    rows = sharding.rows(batch_size, shard)

    def is_own(position, _):
        row = position % batch_size
        return (rows.start <= row) & (row < rows.stop)

    def example(_, record):
        jpeg, label = _parse(record, data)
        image = tf.io.decode_jpeg(jpeg, channels=channels)
        image = augment.central_crop(image, data.shorter_side, height, width)
        image.set_shape(data.image_shape)
        return _normalise(image, data), label

    return (
        tf.data.TFRecordDataset(list(data.test_files))
        .enumerate()
        .filter(is_own)
        .map(example, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .batch(rows.stop - rows.start)
        .prefetch(2)
    )


def _parse(record, data: ImageStream):
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }
    example = tf.io.parse_single_example(record, features)
    return example["image"], tf.one_hot(example["label"], data.classes)


def _random_crop(jpeg, data: ImageStream, seed: int, place):
    """A random crop of an image in the size of the model; `place` is (step, row)."""
    height, width, channels = data.image_shape
    shape = tf.io.extract_jpeg_shape(jpeg)
    box = augment.random_box(shape[0], shape[1], seed_of(seed, CROP, *place))
    image = tf.io.decode_and_crop_jpeg(jpeg, box, channels=channels)
    image = augment.resize(image, height, width)
    draw = tf.random.stateless_uniform([1], seed_of(seed, FLIP, *place))
    return _normalise(augment.flip(image[None], draw < 0.5)[0], data)


def _normalise(images, data: ImageStream):
    return augment.normalise(images, data.scale, data.mean, data.std)
