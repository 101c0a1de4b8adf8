"""CIFAR-10 as tensorflow-datasets has prepared it; read, never downloaded.

50,000 and 10,000 colour images of 32x32 pixels (Krizhevsky 2009).
"""

import importlib.util
import os
import pathlib

from launch.data.source import ImageData, Source
from launch.errors import UserError


def prepared(data_dir: str | None) -> pathlib.Path:
    """The folder of the newest prepared version, `DIR/cifar10/VERSION`.

    Args:
      data_dir: DIR; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: if there is none; the sentence says how to get one.
    """
    # tensorflow-datasets reads the variable when it is imported, and asks the network
    # for data that it does not find: both are settled here, by looking at the files.
    root = pathlib.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    versions = {
        tuple(map(int, info.parent.name.split("."))): info.parent
        for info in root.glob("cifar10/*.*.*/dataset_info.json")
        if info.parent.name.replace(".", "").isdigit()
    }
    if not versions:
        raise UserError(
            f"CIFAR-10 is not prepared in {root}: pass its folder with --data_dir, or "
            'prepare it once where there is a network with `python -c "import '
            "tensorflow_datasets as tfds; tfds.builder('cifar10', data_dir="
            f"'{root}').download_and_prepare()\"`."
        )
    return versions[max(versions)]


def check(data_dir: str | None) -> None:
    """Raises `UserError` if the data or the package that reads it is missing."""
    prepared(data_dir)
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise UserError(
            "--dataset=cifar10 needs tensorflow-datasets, which is not installed: "
            "pip install tensorflow-datasets importlib_resources."
        )


def load(data_dir: str | None) -> ImageData:
    """Reads all images into memory (180 MB), in the order they were written.

    Args:
      data_dir: as for `prepared`.

    Raises:
      UserError: if the data is not there.
    """
    import tensorflow_datasets as tfds

    # From the folder itself: no version is compared with a catalogue, no network.
    builder = tfds.builder_from_directory(prepared(data_dir))

    def read(split: str):
        # One file at a time keeps the order the same however many files there are.
        config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
        everything = builder.as_dataset(
            split=split,
            batch_size=-1,
            shuffle_files=False,
            read_config=config,
        )
        return everything["image"].numpy(), everything["label"].numpy()

    train_images, train_labels = read("train")
    test_images, test_labels = read("test")
    return ImageData(
        train_images,
        train_labels,
        test_images,
        test_labels,
        classes=10,
        scale=255.0,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        padding=4,
        flip=True,
    )


SOURCE = Source("cifar10", 50_000, (32, 32, 3), 10, "resnet20", check, load)
