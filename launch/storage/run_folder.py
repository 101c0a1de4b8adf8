"""The folder of a run: which run it belongs to, and which process may write to it.

    RUN_DIR/flags.cfg       the resolved flags; --flagfile=RUN_DIR/flags.cfg resumes
            data.digest     a digest of the data, which must not change
            environment.json  versions and machine of each start
            results.csv     one line for each finished method
            METHOD/         metrics.csv, events, checkpoints, model.keras

A folder belongs to the flags that it was created with. The same flags resume the run;
other flags are refused. A folder is never overwritten.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from launch.config import flags as launch_flags
from launch.config.flag import Groups
from launch.config.flag_table import GROUPS
from launch.config.methods import METHODS
from launch.support import files
from launch.support.errors import UserError
from launch.tasks.metrics import Metric

try:
    import fcntl
except ImportError:  # Windows, where a second process in a folder is not detected.
    fcntl = None

FLAGS_FILE = "flags.cfg"
# Part of the format: a flagfile that begins with it belongs to a run.
_HEAD = (
    "# The resolved flags of this run, written by the launcher.\n"
    "# --flagfile=<this file> goes on with it, or shows its table once finished.\n"
)
_LOCK_FILE = ".lock"
_DATA_FILE = "data.digest"
_RESULT_FILE = "result.json"
_LINKS_REFUSED = ("", "checkpoints", "checkpoints/.part", "events", "events/dynamics")
# The longest path in the folder of a run.
_LONGEST = f"{max(METHODS, key=len)}/checkpoints/.part/.part-step-0000000000.keras"
_COLUMNS = (
    *("forward_sparsity", "backward_sparsity", "forward_sparsity_network"),
    *("backward_sparsity_network", "parameters", "kept_parameters", "inference_flops"),
    *("inference_flops_ratio", "training_flops_total", "training_flops_ratio"),
    *("step", "seconds"),
)
"""The numbers in a result, in addition to the metrics of its task."""


def check(
    run_dir: pathlib.Path, ours: flags.FlagValues, groups: Groups = GROUPS
) -> None:
    """Raises `UserError` unless a run with these flags may start or resume here.

    Nothing is created. A folder is accepted if it does not exist and can be created, is
    empty, or holds a run with the same flags. It may be a symbolic link, but the folders
    in it may not, because old checkpoints and events are removed there.

    Args:
      run_dir: the folder.
      ours: the resolved flags of the run.
      groups: the known flags.
    """
    _check_length(run_dir)
    parent = files.existing_parent(run_dir)
    if not parent.is_dir():
        raise UserError(
            f"--run_dir={run_dir} cannot be created, because {parent} is not a folder: "
            "choose another --run_dir."
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(
            f"--run_dir={run_dir} cannot be written to, because this user may not "
            f"write to {parent}: choose another --run_dir."
        )
    if not run_dir.is_dir():
        return
    _check_links(run_dir)
    if (run_dir / FLAGS_FILE).is_file():
        _check_same(run_dir, ours, groups)
    elif any(not _is_ours(path) for path in run_dir.iterdir()):
        raise UserError(
            f"--run_dir={run_dir} holds files and no {FLAGS_FILE}, so it is not a run "
            "of this program: choose another --run_dir."
        )


@contextlib.contextmanager
def claim(
    run_dir: pathlib.Path, ours: flags.FlagValues, groups: Groups = GROUPS
) -> Iterator[None]:
    """Locks the folder for this process within the block.

    A folder that does not exist is created, and the flags are written to a new folder.

    Args:
      run_dir: the folder.
      ours: the resolved flags of the run.
      groups: the known flags.

    Raises:
      UserError: as `check`, or if another process uses the folder.
    """
    check(run_dir, ours, groups)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = open(run_dir / _LOCK_FILE, "a")
    except OSError as error:
        raise UserError(
            f"--run_dir={run_dir} cannot be written to ({error.strerror}): choose "
            "another --run_dir."
        ) from None
    with lock:
        _lock(lock, run_dir)
        # Another process may have started a run here in the meantime.
        check(run_dir, ours, groups)
        if not (run_dir / FLAGS_FILE).is_file():
            files.write_text(run_dir / FLAGS_FILE, _flags_text(ours, groups))
        yield


def check_data(run_dir: pathlib.Path, digest: str, first: bool) -> None:
    """Raises `UserError` if the run was trained on other data.

    Args:
      run_dir: the folder.
      digest: digest of the present data.
      first: whether to record it if no digest is recorded yet.
    """
    path = run_dir / _DATA_FILE
    if path.is_file():
        noted = path.read_text(encoding="utf-8").strip()
        if noted != digest:
            raise UserError(
                f"Expected the data that --run_dir={run_dir} was trained on ({noted}). "
                f"Received: other data ({digest}); pass its own with --data_dir"
            )
    elif first:
        files.write_text(path, f"{digest}\n")


def check_flagfiles(argv: Sequence[str], settings: flags.FlagValues) -> None:
    """Raises `UserError` for the flagfile of a run that would start another one.

    This happens if the run was moved, or if --run_dir in the file is relative to another
    working directory, so that it is not the folder of the file.

    Args:
      argv: the program's name, then its arguments.
      settings: the resolved flags.
    """
    if any(re.match("--?run_dir(=|$)", argument) for argument in argv):
        return
    for path in launch_flags.flagfiles(argv):
        is_of_a_run = path.is_file() and path.read_text().startswith(_HEAD)
        if is_of_a_run and not _is_same(path.parent, settings.run_dir):
            raise UserError(
                f"Expected --run_dir={path.parent} with --flagfile={path}, to resume the "
                "run in that folder, or another --run_dir for a new one. Received: none, "
                f"and the file says --run_dir={settings.run_dir}"
            )


def finished(
    run_dir: pathlib.Path, method: str, metrics: Sequence[Metric] = ()
) -> dict[str, Any] | None:
    """The result of a method that has been trained to its end, or None.

    Args:
      run_dir: the folder.
      method: the name of the method.
      metrics: the metrics of the task, which a result must hold.

    Raises:
      UserError: if the file is damaged, or is not such a result.
    """
    path = run_dir / method / _RESULT_FILE
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        _check_result(result, method, [metric.column for metric in metrics])
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it, and launch/train.py with the same "
            "flags writes it again from the last checkpoint."
        ) from None
    return result


def _check_result(result: Any, method: str, metrics: Sequence[str]) -> None:
    if not isinstance(result, dict):
        raise ValueError(f"it holds {json.dumps(result):.40}, not an object")
    if result.get("method") != method:
        raise ValueError(f"its method is {result.get('method')!r:.40}, not {method!r}")
    for name in (*metrics, *_COLUMNS):
        value = result.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"its {name} is {value!r:.40}, not a number")


def settings_of(run_dir: pathlib.Path) -> flags.FlagValues:
    """The flags of an existing run.

    Raises:
      UserError: for a folder without a run, and as `flags_of`.
    """
    if not (run_dir / FLAGS_FILE).is_file():
        raise UserError(
            f"Expected the folder of a run, which holds {FLAGS_FILE}. Received: {run_dir}"
        )
    return flags_of(run_dir)


def flags_of(run_dir: pathlib.Path, groups: Groups = GROUPS) -> flags.FlagValues:
    """The flags of the run in a folder.

    Raises:
      UserError: if the file is damaged, or from another version.
    """
    path = run_dir / FLAGS_FILE
    try:
        return launch_flags.parse(["flags", f"--flagfile={path}"], groups)
    except UserError as error:
        raise UserError(
            f"{path} is not a flagfile of this version ({error}): choose another "
            "--run_dir."
        ) from None


def write_result(folder: pathlib.Path, result: dict[str, Any]) -> None:
    """Marks a method as finished; must be called last, after all other files.

    Args:
      folder: folder of the method.
      result: the values of the table at the end, which must be valid JSON.
    """
    files.write_text(folder / _RESULT_FILE, json.dumps(result, indent=2) + "\n")


def _check_length(run_dir: pathlib.Path) -> None:
    try:
        os.lstat(os.path.abspath(run_dir / _LONGEST))
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(
                "Expected a --run_dir short enough for this file system, with the names "
                f"of the files in it. Received: one of {len(str(run_dir))} characters"
            ) from None
        # Other errors are reported when the folder is used.


def _check_links(run_dir: pathlib.Path) -> None:
    for method in METHODS:
        for name in _LINKS_REFUSED:
            path = run_dir / method / name
            if path.is_symlink():
                raise UserError(
                    "Expected no symbolic links in the folder of a run, because files are "
                    f"removed there. Received: the symbolic link {path}; replace it by the "
                    "folder itself, or make --run_dir the link"
                )


def _lock(lock, run_dir: pathlib.Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"--run_dir={run_dir} is in use by another process: wait for it to end, "
            "or choose another --run_dir."
        ) from None
    except OSError:
        # Some network file systems have no locks; the run continues without one.
        return


def _check_same(run_dir: pathlib.Path, ours: flags.FlagValues, groups: Groups) -> None:
    theirs = flags_of(run_dir, groups)
    different = launch_flags.differences(ours, theirs, groups)
    if different:
        shown = "; ".join(
            f"--{name} is {there!r} there, {here!r} now"
            for name, here, there in different
        )
        raise UserError(
            f"--run_dir={run_dir} belongs to a run with other flags ({shown}): choose "
            "another --run_dir, or the same flags to resume that run."
        )


def _flags_text(ours: flags.FlagValues, groups: Groups) -> str:
    return _HEAD + launch_flags.to_text(ours, groups)


def _is_same(folder: pathlib.Path, other: str) -> bool:
    return os.path.exists(other) and folder.samefile(other)


def _is_ours(path: pathlib.Path) -> bool:
    """Whether a file was left by a run that was killed before it wrote its flags."""
    return path.name == _LOCK_FILE or path.name.startswith(files.TEMPORARY)
