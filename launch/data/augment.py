"""Crops and flips of a batch: what is done, apart from what is drawn at random."""

import tensorflow as tf


def crop(images: tf.Tensor, offsets: tf.Tensor, padding: int) -> tf.Tensor:
    """Shifts each image inside a border of zeros and keeps its size.

    out[b, y, x] = padded[b, y + offsets[b, 0], x + offsets[b, 1]]

    Args:
      images: [batch, height, width, channels], any dtype.
      offsets: [batch, 2] integers from 0 to 2 * padding: down, right. `padding` is
        the image as it was.
      padding: pixels of zeros on each side.

    Returns:
      A tensor of the shape and dtype of `images`.

    >>> image = tf.reshape(tf.constant([1, 2, 3, 4]), [1, 2, 2, 1])
    >>> crop(image, tf.constant([[2, 1]]), padding=1)[0, :, :, 0].numpy().tolist()
    [[3, 4], [0, 0]]
    """
    height, width = images.shape[1], images.shape[2]
    border = [[0, 0], [padding, padding], [padding, padding], [0, 0]]
    padded = tf.pad(images, border)
    rows = offsets[:, :1] + tf.range(height, dtype=offsets.dtype)
    columns = offsets[:, 1:] + tf.range(width, dtype=offsets.dtype)
    padded = tf.gather(padded, rows, axis=1, batch_dims=1)
    return tf.gather(padded, columns, axis=2, batch_dims=1)


def flip(images: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
    """Mirrors the chosen images left to right.

    Args:
      images: [batch, height, width, channels], any dtype.
      chosen: [batch] booleans.

    Returns:
      A tensor of the shape and dtype of `images`.

    >>> image = tf.reshape(tf.constant([1, 2]), [1, 1, 2, 1])
    >>> flip(image, tf.constant([True]))[0, 0, :, 0].numpy().tolist()
    [2, 1]
    """
    return tf.where(chosen[:, None, None, None], images[:, :, ::-1], images)
