"""CIFAR-100, prepared by tensorflow-datasets; it is read and never downloaded.

50,000 and 10,000 colour images of 32x32 pixels in 100 fine classes (Krizhevsky 2009).
"""

import functools

from launch.data import prepared
from launch.data.source import ImageData, Source

_NAME, _TITLE = "cifar100", "CIFAR-100"


def load(data_dir: str | None) -> ImageData:
    """Reads all images into memory (180 MB), in the order of the files.

    Args:
      data_dir: the folder that holds `cifar100/VERSION`; by default $TFDS_DATA_DIR,
        else ~/tensorflow_datasets.

    Raises:
      UserError: if the data is missing or damaged.
    """
    folder = prepared.find(_NAME, _TITLE, data_dir)
    return ImageData(
        *prepared.read(folder, _TITLE, "train"),
        *prepared.read(folder, _TITLE, "test"),
        classes=100,
        scale=255.0,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        padding=4,
        flip=True,
    )


check = functools.partial(prepared.check, _NAME, _TITLE)

SOURCE = Source(_NAME, 50_000, (32, 32, 3), 100, "resnet20", check, load)
