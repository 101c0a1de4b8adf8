"""Checkpoints, written atomically, with detection of damage.

    checkpoints/step-00000120.keras   the newest ones, by step
                best.keras            that of the best evaluation
                .part/                incomplete files

A checkpoint is an ordinary `.keras` file of model and optimizer with two more members:
the state of the run, and the state of the random numbers of dropout, which Keras itself
does not save. They share one file so that they belong to the same step.
`keras.models.load_model` opens it (after `import topkast_tf`).
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import keras

import swat_tf  # noqa: F401  registers its methods, which a checkpoint may be of
from launch.storage.snapshots import Snapshot, snapshot
from launch.support import files
from launch.support.errors import UserError

STATE_MEMBER = "launch_state.json"
SEEDS_MEMBER = "launch_seeds.json"
BEST_FILE = "best.keras"
KEPT = 2


def save(
    folder: pathlib.Path,
    model: keras.Model,
    step: int,
    state: dict[str, Any],
    kept: int = KEPT,
) -> pathlib.Path:
    """Writes a checkpoint of the present model; arguments as for `write`."""
    return write(folder, snapshot(model), step, state, kept)


def write(
    folder: pathlib.Path,
    taken: Snapshot,
    step: int,
    state: dict[str, Any],
    kept: int = KEPT,
) -> pathlib.Path:
    """Writes `FOLDER/step-N.keras`, then removes all but the newest.

    It may run in another thread than training. If it fails or the process dies, all
    previous checkpoints remain complete.

    Args:
      folder: the folder of the checkpoints; created if it is missing.
      taken: the model at that step.
      step: optimizer steps taken.
      state: the other state that the run needs to resume; must be valid JSON. If its
        `best` is this step, the checkpoint is also kept as `best.keras`.
      kept: number of checkpoints to keep, newest first; at least 1.

    Returns:
      The path of the checkpoint.

    Raises:
      OSError: if it cannot be written.
      ValueError: if a sparse weight has met a NaN.
    """
    path = _path(folder, step)
    with _replacing(path) as part:
        with taken.in_force() as model:
            model.save(part)
            seeds = [variable.numpy().tolist() for variable in _seeds(model)]
        with zipfile.ZipFile(part, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(STATE_MEMBER, json.dumps(state))
            archive.writestr(SEEDS_MEMBER, json.dumps(seeds))
    mend_best(folder, state)
    for old in _newest_first(folder)[kept:]:
        old.unlink(missing_ok=True)
    return path


def mend_best(folder: pathlib.Path, state: dict[str, Any]) -> None:
    """Makes `best.keras` the checkpoint that a state names as the best.

    A kill may have prevented this after the checkpoint was written. Nothing happens if it
    is done already, or if the checkpoint no longer exists under its own name.

    Args:
      folder: the folder of the checkpoints.
      state: the state of the newest checkpoint.
    """
    if not state.get("best"):
        return
    step = state["best"]["step"]
    best, path = folder / BEST_FILE, _path(folder, step)
    if not path.is_file() or _best_step(best) == step:
        return
    with _replacing(best) as part:
        try:
            os.link(path, part)
        except OSError:  # not every file system has hard links
            shutil.copyfile(path, part)


def clear_unfinished(folder: pathlib.Path) -> None:
    """Removes incomplete files; must be called in the folder of this process only."""
    shutil.rmtree(folder / files.TEMPORARY, ignore_errors=True)


def restore(
    folder: pathlib.Path,
) -> tuple[keras.Model, dict[str, Any], list[str]] | None:
    """Reads the newest undamaged checkpoint.

    Damaged ones are skipped. Training is deterministic, so an older checkpoint costs time
    but does not change the result.

    Returns:
      The compiled model, the state, and a sentence on each skipped file; None if there is
      no checkpoint.

    Raises:
      UserError: if all checkpoints are damaged, or if an undamaged one cannot be loaded.
    """
    damaged: list[str] = []
    for path in _newest_first(folder):
        fault = _fault(path)
        if fault:
            damaged.append(f"checkpoint {path} is damaged ({fault})")
            continue
        return *_loaded(path), damaged
    if damaged:
        raise UserError(
            f"{'; '.join(damaged)}, and there is no other: restore a copy of it, or delete "
            "it to train this model from the start."
        )
    return None


def restore_best(folder: pathlib.Path) -> tuple[keras.Model, dict[str, Any]] | None:
    """Reads the checkpoint of the best evaluation so far.

    Returns:
      The compiled model and the state; None if there has been no evaluation.

    Raises:
      UserError: if it is damaged or cannot be loaded.
    """
    path = folder / BEST_FILE
    if not path.is_file():
        return None
    fault = _fault(path)
    if fault:
        raise UserError(
            f"checkpoint {path} is damaged ({fault}): use --checkpoint=last."
        )
    return _loaded(path)


def newest(folder: pathlib.Path) -> pathlib.Path | None:
    """The checkpoint of the highest step in a folder, unread; None if there is none."""
    return next(iter(_newest_first(folder)), None)


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """As `files.replacing`, in a separate folder, which `clear_unfinished` removes."""
    # For a large file, Keras puts its own temporary file in the same folder.
    parts = path.parent / files.TEMPORARY
    # No more than these: a folder of the run that has gone, such as that of a file system
    # that is no longer mounted, is not made again somewhere else.
    path.parent.mkdir(exist_ok=True)
    parts.mkdir(exist_ok=True)
    try:
        with files.replacing(path, within=parts) as part:
            yield part
    finally:
        with contextlib.suppress(OSError):
            parts.rmdir()


def _path(folder: pathlib.Path, step: int) -> pathlib.Path:
    return folder / f"step-{step:08d}.keras"


def _loaded(path: pathlib.Path) -> tuple[keras.Model, dict[str, Any]]:
    try:
        model = keras.models.load_model(path)
    except (ValueError, TypeError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else repr(error)
        raise UserError(
            f"checkpoint {path} is undamaged but cannot be loaded ({reason}): use the "
            "versions of keras and topkast_tf that wrote it, or another --run_dir."
        ) from error
    with zipfile.ZipFile(path) as archive:
        state = json.loads(archive.read(STATE_MEMBER))
        # Files of older versions, without dropout, have no such member.
        if SEEDS_MEMBER in archive.namelist():
            seeds = json.loads(archive.read(SEEDS_MEMBER))
            for variable, value in zip(_seeds(model), seeds, strict=True):
                variable.assign(value)
    return model, state


def _best_step(path: pathlib.Path) -> int | None:
    """The step in the state of `best.keras`."""
    with contextlib.suppress(OSError, zipfile.BadZipFile, KeyError, ValueError):
        with zipfile.ZipFile(path) as archive:
            best = json.loads(archive.read(STATE_MEMBER)).get("best")
        return best["step"] if best else None
    return None


def _seeds(model: keras.Model) -> list[keras.Variable]:
    """The states of the model's random number generators, in the order of its layers.

    Each is a pair of the seed and the number of its uses.
    """
    return [
        variable
        for variable in model.non_trainable_variables
        if variable.path.endswith("seed_generator_state")
    ]


def _fault(path: pathlib.Path) -> str | None:
    """Why a checkpoint cannot be used, or None; reads and checks every byte."""
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
