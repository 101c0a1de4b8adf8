"""The folder of a run: whose it is, and who may write to it.

    RUN_DIR/flags.cfg       the resolved flags; --flagfile=RUN_DIR/flags.cfg goes on
            data.digest     a name for the data, which is not to change
            results.csv     one line for each method that is finished
            METHOD/         metrics.csv, events, checkpoints, model.keras

A folder belongs to the flags it was made with. It is resumed with the same flags,
refused with others, and never overwritten.
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
except ImportError:  # Windows: two processes in one folder go unnoticed there.
    fcntl = None

FLAGS_FILE = "flags.cfg"
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
"""What a result has of numbers, beside the figures of its task."""


def check(
    run_dir: pathlib.Path, ours: flags.FlagValues, groups: Groups = GROUPS
) -> None:
    """Raises `UserError` unless a run with these flags may start or go on here.

    Looks only: nothing is created. A folder is accepted if it does not exist and can
    be made, is empty, or holds a run with the same flags. It may be a symbolic link, but
    none of the folders in it: old checkpoints and events are removed there.

    Args:
      run_dir: the folder.
      ours: the resolved flags of the run that wants it.
      groups: the flags there are.
    """
    _check_length(run_dir)
    parent = run_dir
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(
            f"--run_dir={run_dir} cannot be made, because {parent} is not a folder: "
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
    """Makes the folder this process's own for the time of the block.

    The folder is created if need be and the flags are written to it if it is new.

    Args:
      run_dir: the folder.
      ours: the resolved flags of the run.
      groups: the flags there are.

    Raises:
      UserError: as `check`, or if another process has the folder.
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
        # Whoever had the folder until now may have made it a run of its own.
        check(run_dir, ours, groups)
        if not (run_dir / FLAGS_FILE).is_file():
            files.write_text(run_dir / FLAGS_FILE, _flags_text(ours, groups))
        yield


def check_data(run_dir: pathlib.Path, digest: str, first: bool) -> None:
    """Raises `UserError` for other data than that which the run was trained on.

    Args:
      run_dir: the folder.
      digest: of the data that is there now.
      first: whether to note it where nothing is noted yet.
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
    """Raises `UserError` for the flagfile of a run that would begin another one.

    So it would where the run has been moved, or is named from another folder, and the
    file's own --run_dir is not where it lies.

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
                f"Expected --run_dir={path.parent} beside --flagfile={path}, to go on with "
                "the run that lies there, or another --run_dir for a new one. Received: "
                f"none, and the file says --run_dir={settings.run_dir}"
            )


def finished(
    run_dir: pathlib.Path, method: str, metrics: Sequence[Metric] = ()
) -> dict[str, Any] | None:
    """The result of a method that was trained to its end, or None.

    Args:
      run_dir: the folder.
      method: whose.
      metrics: of the task, which a result has.

    Raises:
      UserError: if the file is damaged, or holds something else.
    """
    path = run_dir / method / _RESULT_FILE
    if not path.is_file():
        return None
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        _check_result(result, method, [metric.column for metric in metrics])
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): remove it, and the same command makes it again "
            "from the last checkpoint."
        ) from None
    return result


def _check_result(result: Any, method: str, metrics: Sequence[str]) -> None:
    if not isinstance(result, dict):
        raise ValueError(f"it holds no object but {json.dumps(result):.40}")
    if result.get("method") != method:
        raise ValueError(f"its method is {result.get('method')!r:.40}, not {method!r}")
    for name in (*metrics, *_COLUMNS):
        value = result.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"its {name} is {value!r:.40}, not a number")


def flags_of(run_dir: pathlib.Path, groups: Groups = GROUPS) -> flags.FlagValues:
    """The flags of the run in a folder.

    Raises:
      UserError: if the file is damaged, or of another version.
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
    """Marks a method as finished; written last, when all else is there.

    Args:
      folder: of the method.
      result: what the table at the end shows, as JSON can hold it.
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
        # Whatever else is wrong with it is said where it is needed.


def _check_links(run_dir: pathlib.Path) -> None:
    for method in METHODS:
        for name in _LINKS_REFUSED:
            path = run_dir / method / name
            if path.is_symlink():
                raise UserError(
                    f"Expected the folders of a run to lie in it, as files are removed "
                    f"there. Received: the symbolic link {path}; put the folder itself in "
                    "its place, or let all of --run_dir be a link"
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
        # Some network file systems have no locks; the run is not worse off than there.
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
            "another --run_dir, or the same flags to go on with that run."
        )


def _flags_text(ours: flags.FlagValues, groups: Groups) -> str:
    return _HEAD + launch_flags.to_text(ours, groups)


def _is_same(folder: pathlib.Path, other: str) -> bool:
    return os.path.exists(other) and folder.samefile(other)


def _is_ours(path: pathlib.Path) -> bool:
    """What a run that was killed before it had written its flags leaves behind."""
    return path.name == _LOCK_FILE or path.name.startswith(files.TEMPORARY)
