"""What a run was trained with: versions and machine, in a small JSON of its folder.

The file is a list with one entry for each different environment that the run has been
started or resumed in, the oldest first. It holds nothing that names a person or a place:
no host name, no user name, no path.
"""

import json
import os
import pathlib
import platform
from typing import Any

from launch.support import files

ENVIRONMENT_FILE = "environment.json"
_CPUS = pathlib.Path("/proc/cpuinfo")
_GIGABYTE = 2**30

Environment = dict[str, dict[str, Any]]
"""`versions` and `machine`, each name -> value."""


def present() -> Environment:
    """The environment of this process; imports TensorFlow.

    Returns:
      `versions`: of Python and of the packages that compute. `machine`: the system, the
      processor, its cores that this process may use, the memory in GiB, the threads
      within an operation (0: TensorFlow's choice), and the accelerators.

    >>> sorted(present())
    ['machine', 'versions']
    """
    import keras
    import numpy as np
    import tensorflow as tf

    import topkast_tf

    return {
        "versions": {
            "python": platform.python_version(),
            "topkast_tf": topkast_tf.__version__,
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "numpy": np.__version__,
        },
        "machine": {
            "system": platform.system(),
            "processor": _processor(),
            "cores": _cores(),
            "memory_gib": _memory(),
            "threads": tf.config.threading.get_intra_op_parallelism_threads()
            or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0),
            "accelerators": _accelerators(),
        },
    }


def record(run_dir: pathlib.Path) -> None:
    """Adds the environment of this process to a folder, unless it is there already.

    A damaged file is replaced, because a run must not fail for its sake.

    Args:
      run_dir: the folder of the run.
    """
    known, now = recorded(run_dir), present()
    if now not in known:
        text = json.dumps([*known, now], indent=2)
        files.write_text(run_dir / ENVIRONMENT_FILE, f"{text}\n")


def recorded(run_dir: pathlib.Path) -> list[Environment]:
    """The environments of a run, the oldest first.

    Args:
      run_dir: the folder of the run.

    Returns:
      An empty list for a run of an earlier version, or if the file is damaged.

    >>> recorded(pathlib.Path("no such folder"))
    []
    """
    try:
        found = json.loads((run_dir / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [one for one in found if _is_one(one)] if isinstance(found, list) else []


def _is_one(found: Any) -> bool:
    return isinstance(found, dict) and all(
        isinstance(found.get(part), dict) for part in ("versions", "machine")
    )


def _processor() -> str:
    """The model of the processor, or its architecture if the system does not say."""
    if _CPUS.is_file():
        for line in _CPUS.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return f"{value.strip()} ({platform.machine()})"
    return platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on every system
        return None
    return round(size / _GIGABYTE, 1)


def _accelerators() -> list[str]:
    import tensorflow as tf

    found = []
    for kind in ("GPU", "TPU"):
        for device in tf.config.list_physical_devices(kind):
            details = {}
            if kind == "GPU":
                details = tf.config.experimental.get_device_details(device)
            found.append(details.get("device_name", kind))
    return found
