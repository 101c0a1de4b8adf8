"""Checkpoints: whole or not there, and noticed when they are damaged.

A checkpoint is an ordinary `.keras` file, model and optimizer, with two members more:
the state of the run, and where the random numbers of dropout are, which Keras itself
does not save. One file, so that they cannot come from different moments.
Anyone can open it with `keras.models.load_model` (after `import topkast_tf`).
"""

import json
import pathlib
import re
import zipfile
import zlib
from typing import Any

import keras

from launch import files
from launch.errors import UserError

STATE_MEMBER = "launch_state.json"
SEEDS_MEMBER = "launch_seeds.json"
KEPT = 2


def save(
    folder: pathlib.Path, model: keras.Model, step: int, state: dict[str, Any]
) -> pathlib.Path:
    """Writes `FOLDER/step-N.keras`, then removes all but the newest two.

    Args:
      folder: where the checkpoints of the run lie; made if it is missing.
      model: a compiled model.
      step: optimizer steps taken.
      state: what else the run needs to go on, as JSON can hold it.

    Returns:
      The path that was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:08d}.keras"
    with files.replacing(path) as part:
        model.save(part)
        with zipfile.ZipFile(part, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(STATE_MEMBER, json.dumps(state))
            seeds = [variable.numpy().tolist() for variable in _seeds(model)]
            archive.writestr(SEEDS_MEMBER, json.dumps(seeds))
    for old in _newest_first(folder)[KEPT:]:
        old.unlink()
    return path


def restore(
    folder: pathlib.Path,
) -> tuple[keras.Model, dict[str, Any], list[str]] | None:
    """Reads the newest checkpoint that is whole.

    A damaged one is passed over for the one before it: training is deterministic, so
    going back costs time and changes nothing.

    Returns:
      The compiled model, the state, and a sentence on each file that was passed over;
      None if there is no checkpoint.

    Raises:
      UserError: if there are checkpoints and none is whole, or if a whole one cannot
        be loaded.
    """
    paths = _newest_first(folder)
    damaged: list[str] = []
    for path in paths:
        fault = _fault(path)
        if fault:
            damaged.append(f"checkpoint {path} is damaged ({fault})")
            continue
        try:
            model = keras.models.load_model(path)
        except (ValueError, TypeError, KeyError, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error) else repr(error)
            raise UserError(
                f"checkpoint {path} is whole but cannot be loaded ({reason}): use the "
                "versions of keras and topkast_tf that wrote it, or another --run_dir."
            ) from error
        with zipfile.ZipFile(path) as archive:
            state = json.loads(archive.read(STATE_MEMBER))
            # Files from before there were models with dropout have no such member.
            if SEEDS_MEMBER in archive.namelist():
                seeds = json.loads(archive.read(SEEDS_MEMBER))
                for variable, value in zip(_seeds(model), seeds, strict=True):
                    variable.assign(value)
        return model, state, damaged
    if damaged:
        raise UserError(
            f"{'; '.join(damaged)}, and there is no other: put back a copy of it, or "
            "delete it to train this model from the start."
        )
    return None


def _seeds(model: keras.Model) -> list[keras.Variable]:
    """The states of the model's random number generators, in the order of its layers.

    Each is a pair, the seed and how often it was used.
    """
    return [
        variable
        for variable in model.non_trainable_variables
        if variable.path.endswith("seed_generator_state")
    ]


def _fault(path: pathlib.Path) -> str | None:
    """Why a checkpoint cannot be used, or None: every byte is read and checked."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
            if broken:
                return f"its member {broken} does not match its checksum"
            if STATE_MEMBER not in archive.namelist():
                return f"it has no member {STATE_MEMBER}"
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        return str(error) or type(error).__name__
    return None


def _newest_first(folder: pathlib.Path) -> list[pathlib.Path]:
    found = [
        path for path in folder.glob("*.keras") if re.fullmatch(r"step-\d+", path.stem)
    ]
    return sorted(found, key=lambda path: int(path.stem[5:]), reverse=True)
