"""The models that a run has trained, read from its folder."""

import pathlib
from collections.abc import Iterator

import keras

from launch.config.methods import METHODS
from launch.run.training import MODEL_FILE
from launch.storage import checkpoints


def trained_models(
    run_dir: pathlib.Path, checkpoint: str = "last", method: str | None = None
) -> Iterator[tuple[str, keras.Model]]:
    """(method, model) of each method with a checkpoint, finished or not.

    Args:
      run_dir: the folder of the run.
      checkpoint: ``"last"``, or ``"best"``: that of the best evaluation.
      method: the only one to read; None: all.

    Raises:
      UserError: for a damaged checkpoint.
    """
    restore = checkpoints.restore_best if checkpoint == "best" else checkpoints.restore
    for name in METHODS:
        restored = None
        if method in (None, name):
            restored = restore(run_dir / name / "checkpoints")
        if restored is not None:
            yield name, restored[0]


def stripped_models(run_dir: pathlib.Path) -> Iterator[tuple[str, keras.Model]]:
    """(method, stripped model) of each method that is finished."""
    for name in METHODS:
        path = run_dir / name / MODEL_FILE
        if path.is_file():
            yield name, keras.models.load_model(path, compile=False)
