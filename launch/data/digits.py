"""Handwritten digits that are bundled with scikit-learn: real images, no download.

1,797 grey images of 8x8 pixels with values 0 to 16: the test part of the UCI
"Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998).
"""

import importlib.util

from launch.data.source import ImageData, Source
from launch.support.errors import UserError

TEST_EXAMPLES = 360


def check(data_dir: str | None) -> None:
    """Raises `UserError` if scikit-learn, which contains the images, is missing."""
    if importlib.util.find_spec("sklearn") is None:
        raise UserError(
            "--dataset=digits is part of scikit-learn, which is not installed: "
            "pip install scikit-learn."
        )


def load(data_dir: str | None) -> ImageData:
    """Reads the digits and splits them: 1,437 for training, 360 for testing.

    The split is fixed, and stratified by class.

    Args:
      data_dir: not used, because the images are part of the package.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train_images, test_images, train_labels, test_labels = train_test_split(
        digits.images.astype("uint8")[..., None],
        digits.target.astype("int64"),
        test_size=TEST_EXAMPLES,
        stratify=digits.target,
        random_state=0,
    )
    return ImageData(
        train_images,
        train_labels,
        test_images,
        test_labels,
        classes=10,
        scale=16.0,
        mean=(0.305,),
        std=(0.376,),
        padding=1,
    )


SOURCE = Source("digits", 1437, (8, 8, 1), 10, "resnet8", check, load)
