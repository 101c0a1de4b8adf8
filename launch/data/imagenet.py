"""ImageNet (ILSVRC 2012), prepared by tensorflow-datasets; it is never downloaded.

1,281,167 and 50,000 colour images in 1,000 classes (Russakovsky et al. 2015): 140 GB of
JPEG files, which are read during training.
"""

import functools

from launch.data import prepared
from launch.data.source import ImageStream, Source

_NAME, _TITLE = "imagenet2012", "ImageNet"
_SHAPE = (224, 224, 3)


def stream(data_dir: str | None) -> ImageStream:
    """The files and how to prepare their images; reads only the number of images.

    Args:
      data_dir: the folder that holds `imagenet2012/VERSION`; by default
        $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: if the data is missing.
    """
    folder = prepared.find(_NAME, _TITLE, data_dir)
    import tensorflow_datasets as tfds

    splits = tfds.builder_from_directory(folder).info.splits
    return ImageStream(
        tuple(map(str, splits["train"].filepaths)),
        tuple(map(str, splits["validation"].filepaths)),
        train_examples=splits["train"].num_examples,
        classes=1000,
        image_shape=_SHAPE,
        shorter_side=256,
        scale=255.0,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


check = functools.partial(prepared.check, _NAME, _TITLE)

SOURCE = Source(_NAME, 1_281_167, _SHAPE, 1000, "resnet50", check, stream=stream)
