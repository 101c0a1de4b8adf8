"""Turns TensorFlow's errors in training into errors that say what to do."""

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from launch.run import sparsity
from launch.support.errors import UserError
from topkast_tf.kernels.choice import NoNativeKernels


class Diverged(Exception):
    """Weights, loss or gradient are no longer finite; the message says which."""


@contextlib.contextmanager
def divergence_named() -> Iterator[None]:
    """Turns every error that a non-finite value causes into `Diverged`."""
    try:
        yield
    except (FloatingPointError, ValueError, tf.errors.OpError) as error:
        # A selection that meets NaN fails in the graph or, if the graph is compiled,
        # later in Python. Other errors of its types are faults of the program.
        met_nan = sparsity.met_nan(error)
        if not (met_nan or isinstance(error, FloatingPointError)):
            raise
        cause = "weights were not finite" if met_nan else str(error)
        raise Diverged(cause) from error


@contextlib.contextmanager
def memory_named() -> Iterator[None]:
    """Turns TensorFlow's error for exhausted memory, or a full disk, into a `UserError`."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        mapped = re.search(r"Expected [^\n]*mapped weight[^\n{]*", error.message)
        if mapped:
            raise UserError(f"{mapped[0].strip()}. See --theta.") from error
        wanted = re.search(r"tensor with shape(\[[\d,]*\])", error.message)
        raise UserError(
            "there is not enough memory"
            + (f" for a tensor of shape {wanted[1]}" if wanted else "")
            + ": take a smaller --batch_size, a larger --accumulate or a smaller model "
            "(launch/plan.py says what a run needs)."
        ) from error


@contextlib.contextmanager
def missing_kernels_named() -> Iterator[None]:
    """Turns the error for a layer without native kernels into a `UserError`."""
    try:
        yield
    except NoNativeKernels as error:
        # Keras adds the layer's arguments, and colours.
        found = re.search(r"Expected a layer[^\n\x1b]*", str(error))
        raise UserError(f"{found[0] if found else error}. See --kernels.") from error


@contextlib.contextmanager
def damaged_data_named(data_dir: str | None) -> Iterator[None]:
    """Turns TensorFlow's error for a corrupt record into a `UserError`."""
    try:
        yield
    except tf.errors.DataLossError as error:
        reason = error.message.splitlines()[0]
        raise UserError(
            f"the data at --data_dir={data_dir} is damaged ({reason}): restore a copy of "
            "it, and the same command resumes from the last checkpoint."
        ) from error
