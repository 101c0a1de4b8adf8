"""The `tf.distribute` strategy that the flags name, started once per process."""

import contextlib
import functools
import pathlib
import signal
import tempfile
import threading
from collections.abc import Iterator

import tensorflow as tf
from absl import flags

from launch.distribute import devices
from launch.storage import run_folder
from launch.support.errors import UserError, WorkerLost

_VIRTUAL = 2


def start(settings: flags.FlagValues) -> tf.distribute.Strategy:
    """The strategy that the flags name; TensorFlow's default for a single device.

    Must be called before anything is computed, because TensorFlow then fixes its devices.
    Later calls return the same strategy.

    Args:
      settings: the resolved flags.

    Raises:
      UserError: if the devices do not exist, or the batch cannot be divided evenly among
        them.
    """
    if "strategy" not in settings or settings.strategy == "none":
        return tf.distribute.get_strategy()
    if settings.strategy == "mirrored":
        strategy = _mirrored(settings.devices)
    elif settings.strategy == "multiworker":
        strategy = _multiworker()
    else:
        strategy = _tpu(settings.tpu or "local")
    parts = strategy.num_replicas_in_sync * settings.accumulate
    if settings.batch_size % parts:
        raise UserError(
            "Expected --batch_size, the examples of a step over all devices, to be a "
            f"multiple of {parts}: {strategy.num_replicas_in_sync} devices x "
            f"--accumulate. Received: --batch_size={settings.batch_size}"
        )
    return strategy


@functools.cache
def _mirrored(count: int | None) -> tf.distribute.Strategy:
    found = tf.config.list_physical_devices("GPU")
    if found:
        if (count or 1) > len(found):
            raise UserError(
                f"Expected --devices of at most {len(found)}, the accelerators of this "
                f"machine. Received: {count}"
            )
        names = [f"GPU:{i}" for i in range(count or len(found))]
    else:
        names = [f"CPU:{i}" for i in range(count or _VIRTUAL)]
        _divide_cpu(len(names))
    return tf.distribute.MirroredStrategy(names)


def _divide_cpu(count: int) -> None:
    """Splits the CPU, which must not have been used yet, into virtual devices."""
    [cpu, *_] = tf.config.list_physical_devices("CPU")
    present = tf.config.get_logical_device_configuration(cpu) or []
    if len(present) < count:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * count
        )


@functools.cache
def _multiworker() -> tf.distribute.Strategy:
    handler = signal.getsignal(signal.SIGTERM)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    # TensorFlow installs its own handler, which only records the signal.
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
    return strategy


@functools.cache
def _tpu(name: str) -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(name)
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Expected a TPU with --strategy=tpu ({reason or type(error).__name__}): "
            f"name it with --tpu, or choose another --strategy. Received: --tpu={name}"
        ) from error


@contextlib.contextmanager
def claimed(run_dir: pathlib.Path, settings: flags.FlagValues) -> Iterator[None]:
    """As `run_folder.claim`, which only the chief of the job calls."""
    if not devices.worker_of(settings).is_chief:
        yield
        return
    with run_folder.claim(run_dir, settings):
        yield


@contextlib.contextmanager
def losses_named(settings: flags.FlagValues) -> Iterator[None]:
    """Turns TensorFlow's error for a lost worker into `WorkerLost`."""
    try:
        yield
    except tf.errors.OpError as error:
        of_a_loss = (tf.errors.UnavailableError, tf.errors.AbortedError)
        is_lost = isinstance(error, of_a_loss) or "ollective" in error.message
        if devices.worker_of(settings).count == 1 or not is_lost:
            raise
        raise WorkerLost(
            "another worker of the job cannot be reached any more "
            f"({type(error).__name__}): see its own output."
        ) from error


@contextlib.contextmanager
def folder_of(settings: flags.FlagValues, method: str) -> Iterator[pathlib.Path]:
    """The folder in which this process writes the files of a method.

    The chief writes to the folder of the run. The other workers do the same work, because
    reading some variables is a collective operation, but write to a temporary folder.
    """
    if devices.worker_of(settings).is_chief:
        folder = pathlib.Path(settings.run_dir) / method
        folder.mkdir(exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="worker-") as folder:
        yield pathlib.Path(folder)
