"""CIFAR-10, prepared by tensorflow-datasets; it is read and never downloaded.

50,000 and 10,000 colour images of 32x32 pixels (Krizhevsky 2009).
"""

import functools
import pathlib

from launch.data import prepared as prepared_data
from launch.data.source import ImageData, Source

_NAME, _TITLE = "cifar10", "CIFAR-10"


def prepared(data_dir: str | None) -> pathlib.Path:
    """The folder of the newest prepared version, `DIR/cifar10/VERSION`.

    Args:
      data_dir: DIR; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: if there is none; the message says how to prepare it.
    """
    return prepared_data.find(_NAME, _TITLE, data_dir)


def load(data_dir: str | None) -> ImageData:
    """Reads all images into memory (180 MB), in the order of the files.

    Args:
      data_dir: as for `prepared`.

    Raises:
      UserError: if the data is missing or damaged.
    """
    folder = prepared(data_dir)
    return ImageData(
        *prepared_data.read(folder, _TITLE, "train"),
        *prepared_data.read(folder, _TITLE, "test"),
        classes=10,
        scale=255.0,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        padding=4,
        flip=True,
    )


check = functools.partial(prepared_data.check, _NAME, _TITLE)

SOURCE = Source(_NAME, 50_000, (32, 32, 3), 10, "resnet20", check, load)
