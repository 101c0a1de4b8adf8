"""What the launcher knows of a data set: before it is read, and once it is."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from launch.data.digest import digest
from launch.support.errors import UserError


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Images in memory, as they were stored, with how to prepare them.

    Attributes:
      train_images, test_images: uint8, [examples, height, width, channels].
      train_labels, test_labels: int64, [examples].
      classes: number of classes.
      scale: the highest value a pixel can have.
      mean, std: of the training set for each channel, of pixels divided by `scale`.
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
        """A name that other images do not have."""
        return digest(
            *(self.train_images, self.train_labels),
            *(self.test_images, self.test_labels),
        )

    def subset(self, train_examples: int) -> "ImageData":
        """The same data with the first N training examples of a fixed permutation.

        The permutation does not depend on the run's seed, so that N examples are the
        same N in every run.

        Args:
          train_examples: N, from 1 to the number of training examples; all of them
            are left in their order.
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
    """Images that are read from their files as training goes on.

    Attributes:
      train_files, test_files: TFRecord files of examples with `image`, a JPEG file, and
        `label`, an integer.
      train_examples: records in `train_files`.
      classes: number of classes.
      image_shape: (height, width, channels) that an image is cropped to.
      shorter_side: pixels of the shorter side of a test image before its central crop.
      scale: the highest value a pixel can have.
      mean, std: of the training set for each channel, of pixels divided by `scale`.
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
        """A name that files of other names do not have; they are not read."""
        names = [pathlib.Path(file).name for file in self.train_files + self.test_files]
        return digest(names, [str(self.train_examples)])

    def subset(self, train_examples: int) -> "ImageStream":
        """The same data, if all of it is asked for; nothing less can be streamed.

        Args:
          train_examples: the number of training examples.

        Raises:
          UserError: for any other number.
        """
        if train_examples != self.train_examples:
            raise UserError(
                "Expected no --train_examples for data that is read from its files, or "
                f"all {self.train_examples} of them. Received: {train_examples}"
            )
        return self


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set of images that can be read: `load` or `stream`, one of the two.

    Attributes:
      kind: "image".
      unit: "image".
      name: what `--dataset` calls it.
      train_examples: images to train on.
      image_shape: (height, width, channels).
      classes: number of classes.
      model: the model that is trained on it if none is named.
      check: raises `UserError` with what to do if the data is not in `data_dir`
        (None: the default place); quick and without a network.
      load: reads all of it from `data_dir`; never touches a network.
      stream: says how to read it from `data_dir` bit by bit, where it is too large for
        memory.
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
        """Its images, loaded or to be streamed, whichever this source does."""
        read = self.load or self.stream
        return read(data_dir)
