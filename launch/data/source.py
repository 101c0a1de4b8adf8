"""The description of a data set of images, and its images."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from launch.data.digest import digest
from launch.support.errors import UserError


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images in memory, as stored, and how to prepare them.

    Attributes:
      train_images, test_images: uint8, [examples, height, width, channels].
      train_labels, test_labels: int64, [examples].
      classes: number of classes.
      scale: maximum value of a pixel.
      mean, std: per channel, over the pixels of the training set divided by `scale`.
      padding: pixels of zeros on each side before the random crop; 0: no crop.
      flip: whether training images are mirrored left to right at random.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 0
    flip: bool = False

    @property
    def digest(self) -> str:
        """A digest that identifies the images."""
        return digest(
            *(self.train_images, self.train_labels),
            *(self.test_images, self.test_labels),
        )

    def cropped(self, padding: int) -> "ImageData":
        """The same data with another `padding`, which is less than the height."""
        height = self.train_images.shape[1]
        if padding >= height:
            raise UserError(
                f"Expected --crop_padding below {height}, the height of the images. "
                f"Received: {padding}"
            )
        return dataclasses.replace(self, padding=padding)

    def subset(self, train_examples: int) -> "ImageData":
        """The same data with the first N training examples of a fixed permutation.

        The permutation does not depend on the seed of the run, so that the N examples are
        the same in every run.

        Args:
          train_examples: N, from 1 to the number of training examples; if N is all of
            them, they are not permuted.
        """
        if train_examples == len(self.train_images):
            return self
        order = np.random.RandomState(0).permutation(len(self.train_images))
        chosen = order[:train_examples]
        return dataclasses.replace(
            self,
            train_images=self.train_images[chosen],
            train_labels=self.train_labels[chosen],
        )


@dataclasses.dataclass(frozen=True)
class ImageStream:
    """Images that are read from their files during training.

    Attributes:
      train_files, test_files: TFRecord files of examples with `image`, a JPEG file, and
        `label`, an integer.
      train_examples: number of records in `train_files`.
      classes: number of classes.
      image_shape: (height, width, channels) of an image after cropping.
      shorter_side: pixels of the shorter side of a test image before its central crop.
      scale: maximum value of a pixel.
      mean, std: per channel, over the pixels of the training set divided by `scale`.
    """

    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    train_examples: int
    classes: int
    image_shape: tuple[int, int, int]
    shorter_side: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def digest(self) -> str:
        """A digest of the names of the files and their number of examples, unread."""
        names = [pathlib.Path(file).name for file in self.train_files + self.test_files]
        return digest(names, [str(self.train_examples)])

    def cropped(self, padding: int) -> "ImageStream":
        """Raises `UserError`: streamed images are cropped and resized instead."""
        raise UserError(
            "Expected no --crop_padding for data that is streamed from files, of which "
            f"random parts are resized. Received: --crop_padding={padding}"
        )

    def subset(self, train_examples: int) -> "ImageStream":
        """This data; a part of it cannot be streamed.

        Args:
          train_examples: must be the number of all training examples.

        Raises:
          UserError: for any other number.
        """
        if train_examples != self.train_examples:
            raise UserError(
                "Expected no --train_examples for data that is streamed from files, or all "
                f"{self.train_examples} examples. Received: {train_examples}"
            )
        return self


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set of images that can be read, either by `load` or by `stream`.

    Attributes:
      kind: "image".
      unit: "image".
      name: the value of `--dataset`.
      train_examples: number of training images.
      image_shape: (height, width, channels).
      classes: number of classes.
      model: the default model.
      check: raises `UserError` with what to do if the data is not in `data_dir` (None:
        the default folder); quick and without a network.
      load: reads all of it from `data_dir`; never accesses a network.
      stream: describes how to read it from `data_dir` during training, if it is too
        large for memory.
    """

    name: str
    train_examples: int
    image_shape: tuple[int, int, int]
    classes: int
    model: str
    check: Callable[[str | None], None]
    load: Callable[[str | None], ImageData] | None = None
    stream: Callable[[str | None], ImageStream] | None = None
    kind: ClassVar[str] = "image"
    unit: ClassVar[str] = "image"

    def __post_init__(self):
        if (self.load is None) == (self.stream is None):
            raise ValueError(
                "Expected either load or stream. Received: "
                f"load={self.load}, stream={self.stream}"
            )

    def open(self, data_dir: str | None) -> ImageData | ImageStream:
        """Its images, loaded or streamed."""
        read = self.load or self.stream
        return read(data_dir)
