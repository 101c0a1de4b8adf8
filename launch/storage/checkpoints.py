"""Checkpoints: whole or not there, and noticed when they are damaged.

    checkpoints/step-00000120.keras   the newest ones, by step
                best.keras            that of the best evaluation
                .part/                what is being written

A checkpoint is an ordinary `.keras` file, model and optimizer, with two members more:
the state of the run, and where the random numbers of dropout are, which Keras itself
does not save. One file, so that they cannot come from different moments.
Anyone can open it with `keras.models.load_model` (after `import topkast_tf`).
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
    """Writes a checkpoint of a model as it is now; arguments as for `write`."""
    return write(folder, snapshot(model), step, state, kept)


def write(
    folder: pathlib.Path,
    taken: Snapshot,
    step: int,
    state: dict[str, Any],
    kept: int = KEPT,
) -> pathlib.Path:
    """Writes `FOLDER/step-N.keras`, then removes all but the newest.

    It may run in another thread than the one that trains. Whenever it fails or dies,
    every checkpoint that there was before is whole, and there.

    Args:
      folder: where the checkpoints of the run lie; made if it is missing.
      taken: the model at that step.
      step: optimizer steps taken.
      state: what else the run needs to go on, as JSON can hold it. If its `best` names
        this step, the checkpoint is kept as `best.keras` too.
      kept: how many to keep, by step; at least 1.

    Returns:
      The path that was written.

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
    """Makes `best.keras` the checkpoint that a state calls the best.

    A kill may have come between the checkpoint and that. Nothing happens if it is
    already, or if the checkpoint is no longer there under its own name.

    Args:
      folder: where the checkpoints lie.
      state: of the newest checkpoint.
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
        except OSError:  # not every file system has a second name for a file
            shutil.copyfile(path, part)


def clear_unfinished(folder: pathlib.Path) -> None:
    """Removes what a killed process was writing; only for the process of the run."""
    shutil.rmtree(folder / files.TEMPORARY, ignore_errors=True)


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
    damaged: list[str] = []
    for path in _newest_first(folder):
        fault = _fault(path)
        if fault:
            damaged.append(f"checkpoint {path} is damaged ({fault})")
            continue
        return *_loaded(path), damaged
    if damaged:
        raise UserError(
            f"{'; '.join(damaged)}, and there is no other: put back a copy of it, or "
            "delete it to train this model from the start."
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
    """As `files.replacing`, in a folder apart, for `clear_unfinished` to remove."""
    # Keras puts a temporary file of its own beside what it writes, if that is large.
    parts = path.parent / files.TEMPORARY
    parts.mkdir(parents=True, exist_ok=True)
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
    return model, state


def _best_step(path: pathlib.Path) -> int | None:
    """The step that the state of `best.keras` says it is of."""
    with contextlib.suppress(OSError, zipfile.BadZipFile, KeyError, ValueError):
        with zipfile.ZipFile(path) as archive:
            best = json.loads(archive.read(STATE_MEMBER)).get("best")
        return best["step"] if best else None
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
