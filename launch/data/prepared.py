"""Data sets prepared by tensorflow-datasets, which are read and never downloaded.

DIR/NAME/VERSION/dataset_info.json      the splits and their sizes
                 NAME-SPLIT.tfrecord-*  the examples
"""

import importlib.util
import json
import os
import pathlib

import numpy as np

from launch.support.errors import UserError


def find(name: str, title: str, data_dir: str | None) -> pathlib.Path:
    """The folder of the newest prepared version, `DIR/NAME/VERSION`.

    Args:
      name: its name in tensorflow-datasets.
      title: its name in messages.
      data_dir: DIR; by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    Raises:
      UserError: if there is none; the message says how to prepare it.
    """
    # tensorflow-datasets reads the variable at import, and accesses the network for data
    # that it does not find. Looking for the files here avoids both.
    root = pathlib.Path(
        data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    ).expanduser()
    versions = {
        tuple(map(int, info.parent.name.split("."))): info.parent
        for info in root.glob(f"{name}/*.*.*/dataset_info.json")
        if info.parent.name.replace(".", "").isdigit()
    }
    if not versions:
        raise UserError(
            f"{title} is not prepared in {root}: pass its folder with --data_dir, or "
            f'prepare it once where there is a network with `python -c "{_recipe(name)}'
            f", data_dir='{root}').download_and_prepare()\"`."
        )
    return versions[max(versions)]


def check(name: str, title: str, data_dir: str | None) -> None:
    """Raises `UserError` if the data, a part of it, or the package is missing.

    It checks the number of files and their total size, and does not read them.

    Args:
      name, title, data_dir: as for `find`.
    """
    folder = find(name, title, data_dir)
    if importlib.util.find_spec("tensorflow_datasets") is None:
        raise UserError(
            f"--dataset={name} needs tensorflow-datasets, which is not installed: "
            "pip install tensorflow-datasets importlib_resources."
        )
    damage = _damage(folder)
    if damage:
        raise _damaged(folder, title, damage)


def read(folder: pathlib.Path, title: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels of a split, in the order of the files.

    Args:
      folder: from `find`.
      title: as for `find`.
      split: `train` or `test`.

    Returns:
      uint8 [examples, height, width, channels] and int64 [examples].

    Raises:
      UserError: if the files are damaged.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    # From the folder itself, without a catalogue of versions and without the network.
    builder = tfds.builder_from_directory(folder)
    # One file at a time, so that the order does not depend on the number of files.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        everything = builder.as_dataset(
            split=split, batch_size=-1, shuffle_files=False, read_config=config
        )
    except tf.errors.DataLossError:
        raise _damaged(
            folder, title, f"a record of its {split} part cannot be read"
        ) from None
    return everything["image"].numpy(), everything["label"].numpy()


def _recipe(name: str) -> str:
    return f"import tensorflow_datasets as tfds; tfds.builder('{name}'"


def _damaged(folder: pathlib.Path, title: str, damage: str) -> UserError:
    """The error for damaged data, with what to do."""
    return UserError(
        f"{title} in {folder} is damaged: {damage}; remove that folder and prepare the "
        f'data again with `python -c "{_recipe(folder.parent.name)}, '
        f"data_dir='{folder.parent.parent}').download_and_prepare()\"`."
    )


def _damage(folder: pathlib.Path) -> str:
    """The damage of the files, as part of a message; empty if there is none."""
    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        splits = [
            (split["name"], len(split["shardLengths"]), int(split["numBytes"]))
            for split in info["splits"]
        ]
    except (ValueError, KeyError, TypeError):
        return "its dataset_info.json cannot be read"
    try:
        json.loads((folder / "features.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "its features.json cannot be read"
    for name, count, size in splits:
        files = list(folder.glob(f"*-{name}.*-of-{count:05d}"))
        if len(files) != count:
            return f"expected {count} files of its {name} part, received {len(files)}"
        # The bytes of the records, to which a file adds a few per record.
        found = sum(file.stat().st_size for file in files)
        if found < size:
            return f"expected {size} bytes of its {name} part, received {found}"
    return ""
