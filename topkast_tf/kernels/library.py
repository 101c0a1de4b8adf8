"""The loaded native kernels, and what the machine offers."""

import ctypes
import functools
import os
import threading
from typing import Any

import tensorflow as tf
from absl import logging

from topkast_tf.kernels import build, gradients
from topkast_tf.kernels.build import Unavailable

CPU_VARIABLE = "TOPKAST_CPU"
"""Environment variable: the instruction set that the kernels use."""
CPUS = ("avx512", "avx2", "portable")
"""The instruction sets that there are kernels for, the fastest first."""

BFLOAT16_UNITS = ("amx_bf16", "avx512_bf16", "none")
"""Units that multiply bfloat16 numbers, as the system names them, the fastest first."""

_loading = threading.Lock()


class Library:
    """The native kernels.

    Attributes:
      ops: the TensorFlow operations.
      cpu: the instruction set that they use, one of `CPUS`.
    """

    def __init__(self, path: str, forced: str):
        # TensorFlow must be the first to load the file: it registers the operations.
        self.ops: Any = tf.load_op_library(path)
        self._functions = ctypes.CDLL(path)
        gradients.register(self.ops)
        self._functions.topkast_kernels.restype = ctypes.c_char_p
        self._functions.topkast_plan_bytes.restype = ctypes.c_int64
        self._functions.topkast_generates_code.restype = ctypes.c_bool
        self._functions.topkast_multiplies_bfloat16.restype = ctypes.c_bool
        if forced and not self.runs(forced):
            raise Unavailable(
                f"this machine does not run {CPU_VARIABLE}={forced}: it runs "
                f"{', '.join(filter(self.runs, CPUS))}"
            )
        self.cpu: str = self._functions.topkast_kernels(forced.encode()).decode()

    def runs(self, cpu: str) -> bool:
        """Whether this machine runs the kernels of an instruction set."""
        return self._functions.topkast_kernels(cpu.encode()) is not None

    @property
    def generates_code(self) -> bool:
        """Whether products may be generated machine code: AVX-512, where it may run."""
        return self._functions.topkast_generates_code(self.cpu.encode())

    @property
    def multiplies_bfloat16(self) -> bool:
        """Whether weight gradients multiply bfloat16 numbers without converting them."""
        return self._functions.topkast_multiplies_bfloat16(self.cpu.encode())

    def plan_bytes(self, key: int) -> int:
        """The bytes that the plans of a weight take."""
        return self._functions.topkast_plan_bytes(ctypes.c_int64(key))

    def forget_plans(self, key: int) -> None:
        """Frees the plans of a weight."""
        self._functions.topkast_forget_plans(ctypes.c_int64(key))


@functools.cache
def _loaded(forced: str) -> Library | Unavailable:
    if forced and forced not in CPUS:
        return Unavailable(f"expected {CPU_VARIABLE} in {CPUS}; it is {forced!r}")
    try:
        return Library(str(build.built()), forced)
    except Unavailable as error:
        return error
    except (tf.errors.OpError, OSError, AttributeError) as error:
        return Unavailable(
            f"the library does not load ({error}): delete the files kernels-* in "
            f"{build.cache_folder()}, and it is built again"
        )


def library() -> Library:
    """The native kernels, which are built if they are not there.

    Raises:
      Unavailable: if they cannot be had; the message says why.
    """
    with _loading:  # threads that meet here first would build and register it twice
        found = _loaded(os.environ.get(CPU_VARIABLE, ""))
    if isinstance(found, Unavailable):
        raise found
    return found


@functools.cache
def fastest() -> str:
    """The instruction set that the kernels use here; known before they are built."""
    forced = os.environ.get(CPU_VARIABLE, "")
    if forced in CPUS:
        return forced
    flags = _flags()
    if flags >= {"avx512f", "avx512dq", "avx512vl"}:
        return "avx512"
    return "avx2" if flags >= {"avx2", "fma"} else "portable"


@functools.cache
def bfloat16_unit() -> str:
    """What multiplies bfloat16 numbers on this machine, one of `BFLOAT16_UNITS`."""
    flags = _flags()
    return next((unit for unit in BFLOAT16_UNITS[:-1] if unit in flags), "none")


def _flags() -> set[str]:
    """The features of the processor, as the system names them."""
    try:
        with open("/proc/cpuinfo") as file:
            return set(next(line for line in file if line.startswith("flags")).split())
    except (OSError, StopIteration):
        return set()


def load_kernels() -> str:
    """Loads the native operations into TensorFlow, and builds them if they are not there.

    Needed before `tf.saved_model.load` of what ``strip(model, kernels="native")`` has
    exported: `import topkast_tf` alone builds and loads nothing.

    Returns:
      The path of the library, which `tf.load_op_library` and TensorFlow's C API load
      without this package.

    Raises:
      RuntimeError: if there are no native kernels here; the message says why.

    >>> from topkast_tf import load_kernels
    >>> load_kernels().endswith(".so")
    True
    """
    try:
        library()
        return str(build.built())
    except Unavailable as error:
        raise RuntimeError(f"Expected native kernels to load: {error}") from error


def is_available() -> bool:
    """Whether there are native kernels here; if not, the log says why, once."""
    why = why_unavailable()
    if why is not None:
        logging.log_first_n(logging.WARNING, "No native kernels: %s.", 1, why)
    return why is None


def why_unavailable() -> str | None:
    """Why there are no native kernels here, or None if there are. May build them."""
    try:
        library()
    except Unavailable as error:
        return str(error)
    return None
