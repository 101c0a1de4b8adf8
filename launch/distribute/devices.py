"""The flags of the devices, checked together, and the index of this worker.

Nothing here imports TensorFlow, so that a mistake is reported before its slow import.
"""

import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from launch.support.errors import UserError

CLUSTER = "TF_CONFIG"


class Worker(NamedTuple):
    """The place of this process in a job.

    Attributes:
      index: index of the worker; 0 is the chief, which alone writes to the run's folder.
      count: number of workers.
    """

    index: int = 0
    count: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes the files and the messages of the run."""
        return self.index == 0


def worker_of(settings: flags.FlagValues) -> Worker:
    """The place of this process; it is the only one unless --strategy=multiworker.

    Raises:
      UserError: if TF_CONFIG is needed and missing, or does not name this worker.
    """
    if "strategy" not in settings or settings.strategy != "multiworker":
        return Worker()
    text = os.environ.get(CLUSTER)
    if not text:
        raise UserError(
            f"Expected {CLUSTER} in the environment with --strategy=multiworker: start "
            "the workers of one host with `python launch/multiworker.py --workers=2 -- "
            f"...`, or set {CLUSTER} on each host as docs/distributed.md says. "
            "Received: none"
        )
    try:
        return _worker(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Expected {CLUSTER} such as "
            '{"cluster": {"worker": ["HOST:PORT", "HOST:PORT"]}, '
            '"task": {"type": "worker", "index": 0}} with all workers of the job and no '
            f"other tasks ({error}). Received: {text}"
        ) from None


def workers_named(settings: flags.FlagValues) -> int:
    """The number of workers in TF_CONFIG; 1 if it is not set or does not apply."""
    is_set = bool(os.environ.get(CLUSTER))
    return worker_of(settings).count if is_set else 1


def _worker(config: dict[str, Any]) -> Worker:
    workers, task = config["cluster"]["worker"], config["task"]
    if set(config["cluster"]) != {"worker"} or task["type"] != "worker":
        raise ValueError("there are tasks of other types")
    index, count = int(task["index"]), len(workers)
    if not isinstance(workers, list) or not 0 <= index < count:
        raise ValueError(f"worker {index} is not one of {count}")
    return Worker(index, count)


def cluster(addresses: Sequence[str], index: int) -> str:
    """TF_CONFIG of one worker.

    Args:
      addresses: HOST:PORT of each worker, the chief first.
      index: index of the worker.

    >>> cluster(["a:1", "b:1"], 1)
    '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
    """
    return json.dumps(
        {
            "cluster": {"worker": list(addresses)},
            "task": {"type": "worker", "index": index},
        }
    )


def check(settings: flags.FlagValues) -> None:
    """Raises `UserError` for flags of devices that contradict each other."""
    strategy = settings.strategy
    for name, of in (("devices", "mirrored"), ("tpu", "tpu")):
        if settings[name].value is not None and strategy != of:
            raise UserError(
                f"Expected --{name} only with --strategy={of}. "
                f"Received: --{name}={settings[name].value}, --strategy={strategy}"
            )
    if settings.jit and strategy in ("mirrored", "multiworker"):
        raise UserError(
            f"Expected no --jit with --strategy={strategy}, because collective "
            "operations are not compiled there. Received: --jit"
        )
    parts = settings.accumulate * workers_named(settings) * (settings.devices or 1)
    if settings.batch_size % parts:
        raise UserError(
            "Expected --batch_size, the examples of a step over all devices, to be a "
            f"multiple of {parts}: workers x --devices x --accumulate. "
            f"Received: --batch_size={settings.batch_size}"
        )
