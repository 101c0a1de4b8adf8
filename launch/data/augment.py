"""Crops, flips and normalisation, as functions of given random numbers or seeds."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

# Area of a random crop as a fraction of the image, and its width over its height.
_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_ATTEMPTS = 10


def crop(images: tf.Tensor, offsets: tf.Tensor, padding: int) -> tf.Tensor:
    """Shifts each image within a border of zeros, and keeps its size.

    out[b, y, x] = padded[b, y + offsets[b, 0], x + offsets[b, 1]]

    Args:
      images: [batch, height, width, channels], any dtype.
      offsets: [batch, 2] integers from 0 to 2 * padding: down, right. At `padding` the
        image is unchanged.
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


def normalise(
    images: tf.Tensor, scale: float, mean: Sequence[float], std: Sequence[float]
) -> tf.Tensor:
    """(images / scale - mean) / std for each channel, in float32.

    Args:
      images: [..., channels], any dtype.
      scale: maximum value of a pixel.
      mean, std: per channel, of pixels divided by `scale`.
    """
    mean = np.asarray(mean, "float32")
    std = np.asarray(std, "float32")
    return (tf.cast(images, tf.float32) / scale - mean) / std


def random_box(height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A random part of an image, to be cropped and resized (Szegedy et al. 2015).

    area ~ U(0.08, 1) * height * width,  log(w / h) ~ U(log 3/4, log 4/3),
    w = round(sqrt(area * w/h)),  h = round(sqrt(area / (w/h))),

    with a uniformly distributed position. The first of ten samples that fits is used; if
    none fits, the largest centred box with an aspect ratio in the range. The paper gives
    only the ranges; the log-uniform aspect ratio, for which wide and tall boxes are
    equally likely, is common practice.

    Args:
      height, width: integers, of the image.
      seed: seed of stateless random numbers, shape [2].

    Returns:
      int32 [4]: top, left, height, width.
    """
    draws = tf.random.stateless_uniform([_ATTEMPTS + 1, 2], seed)
    full_height, full_width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    low, high = _AREA
    area = (low + (high - low) * draws[:-1, 0]) * full_height * full_width
    low, high = np.log(_ASPECT).astype("float32")
    aspect = tf.exp(low + (high - low) * draws[:-1, 1])
    sizes = tf.round(tf.sqrt(tf.stack([area / aspect, area * aspect], axis=1)))
    fits = tf.reduce_all((sizes >= 1) & (sizes <= [full_height, full_width]), axis=1)
    # An image that is too tall is cropped in its height, one too wide in its width.
    middle = tf.stack(
        [
            tf.minimum(full_height, tf.round(full_width / _ASPECT[0])),
            tf.minimum(full_width, tf.round(full_height * _ASPECT[1])),
        ]
    )
    free = [full_height, full_width] - middle
    chosen = sizes[tf.argmax(fits)]
    # floor(u * (n + 1)) is uniform on 0 ... n; float32 may round u * (n + 1) up to n + 1.
    room = [full_height, full_width] - chosen
    corner = tf.minimum(tf.floor(draws[-1] * (room + 1)), room)
    found = tf.where(
        tf.reduce_any(fits),
        tf.concat([corner, chosen], 0),
        tf.concat([tf.floor(free / 2), middle], 0),
    )
    return tf.cast(found, tf.int32)


def resize(image: tf.Tensor, height: int | tf.Tensor, width: int | tf.Tensor):
    """The image resized bilinearly, with antialiasing if it shrinks.

    Args:
      image: [height, width, channels], any dtype.
      height, width: size of the result.

    Returns:
      float32 [height, width, channels].
    """
    return tf.image.resize(image, [height, width], "bilinear", antialias=True)


def central_crop(
    image: tf.Tensor, shorter_side: int, height: int, width: int
) -> tf.Tensor:
    """The central crop of an image, after its shorter side is resized.

    The longer side becomes floor(shorter_side * longer / shorter). If the border is odd,
    the crop is half a pixel up and left of the centre.

    Args:
      image: [height, width, channels], any dtype.
      shorter_side: pixels of the shorter side, at least `height` and `width`.
      height, width: size of the crop.

    Returns:
      float32 [height, width, channels].
    """
    shape = tf.shape(image)
    sides = shorter_side * shape[:2] // tf.reduce_min(shape[:2])
    resized = resize(image, sides[0], sides[1])
    top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
    return resized[top : top + height, left : left + width]
