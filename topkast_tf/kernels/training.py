"""What a training step does to sparse weights beside their products, by native operations.

Each gives the bits of the TensorFlow operations in whose place it is used; only the value
of the exploration loss is summed in another order.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from topkast_tf.kernels.library import library


class PackedVectors(NamedTuple):
    """The variables of a packed weight, of one length.

    Attributes:
      entries: float32, those of B.
      members: uint8, their codes.
      slots: float32, those of the optimizer.
    """

    entries: tf.Variable
    members: tf.Variable
    slots: Sequence[tf.Variable]


def refresh(
    thetas: Sequence[tf.Variable],
    sets: Sequence[tf.Variable],
    counters: Sequence[tf.Variable],
    *,
    every: int,
    stop: int | None,
    skipped: int | None = None,
    messages: Sequence[str],
    complete: tf.Tensor | None = None,
    packed: Sequence[PackedVectors] = (),
    folder: str | None = None,
    cpu: str | None = None,
) -> tf.Operation | None:
    """Counts the pending steps of weights, and selects the sets that are due.

    Where a step is pending and `complete` is true, the step t is counted. If then
    ``t mod every == 0`` or ``t == stop``, t is not `skipped`, and the sets are not frozen::

        A = the |A| largest entries of |theta|,  B = the |B| largest (|A| from `stop` on)

    exactly so many, of equal magnitudes those with the lower index. If theta has a NaN
    the sets stay, the weight is marked as faulty, and it is an error.

    Args:
      thetas: float32 variables of less than 2^31 entries.
      sets: for each its uint8 codes, a variable of its shape.
      counters: for each its counters (`topkast_tf.variables.counters`), which hold the
        step and the sizes |A| and |B|.
      every: the steps between two selections, at least 1.
      stop: the step at which exploration stops, or None.
      skipped: a step without a selection, or None.
      messages: for each the message of the error.
      complete: boolean scalar; None is True.
      packed: of packed weights the vectors of each: entries that leave B are written to
        theta, and those that enter it are read from there; slots follow their weights,
        and are zero where one enters.
      folder: as of `map_variables`, of packed weights: thetas and sets are mapped from
        files there, also those that are not yet.
      cpu: the instruction set; None for the one that the library chose.

    Raises:
      tf.errors.InvalidArgumentError: for a NaN.
      Unavailable: without native kernels.
    """
    native = library()
    return native.ops.topkast_refresh(
        thetas=[variable.handle for variable in thetas],
        sets=[variable.handle for variable in sets],
        counters=[variable.handle for variable in counters],
        complete=True if complete is None else complete,
        entries=[each.entries.handle for each in packed],
        members=[each.members.handle for each in packed],
        slots=[slot.handle for each in packed for slot in each.slots],
        slots_of=[i for i, each in enumerate(packed) for _ in each.slots],
        every=every,
        stop=-1 if stop is None else stop,
        skipped=-1 if skipped is None else skipped,
        messages=list(messages),
        folder=folder or "",
        cpu=cpu or native.cpu,
    )


def map_variables(variables: Sequence[tf.Variable], folder: str) -> tf.Operation | None:
    """Moves variables to files that are mapped into memory.

    A file has no name, and is gone with the value. An assignment gives a variable a value
    in memory again; `refresh` writes to the files. Variables that are in a file stay.

    From the first call on, the C library of the process (glibc) returns memory of 128 KiB
    and more to the system when it is freed, which is slower than keeping it.

    Args:
      variables: of numbers, with values.
      folder: on a disk with as many bytes to spare.

    Raises:
      tf.errors.ResourceExhaustedError: if there is no place for a file.
      tf.errors.InvalidArgumentError: for a folder whose files are in memory.
      Unavailable: without native kernels.
    """
    handles = [variable.handle for variable in variables]
    return library().ops.topkast_map_variables(variables=handles, folder=folder)


def step(
    kind: str,
    theta: tf.Variable,
    sets: tf.Variable,
    counters: tf.Variable,
    by: tf.Tensor,
    *,
    cpu: str | None = None,
) -> tf.Operation | None:
    """Updates theta on B, in place, and marks its step as pending.

    ``theta_i <- theta_i + by_i`` (``"add"``), ``theta_i - by_i`` (``"subtract"``) or
    ``by_i`` (``"assign"``) where i is in B. C stays as it is, bit for bit.

    Args:
      kind: one of these.
      theta: a float32 variable.
      sets: its uint8 codes.
      counters: its counters.
      by: float32, in its shape.
      cpu: as for `refresh`.

    Raises:
      Unavailable: without native kernels.
    """
    native = library()
    return native.ops.topkast_step(
        theta=theta.handle,
        sets=sets.handle,
        counters=counters.handle,
        by=by,
        step=kind,
        cpu=cpu or native.cpu,
    )


def mask(x: tf.Tensor, sets: tf.Tensor, *, cpu: str | None = None) -> tf.Tensor:
    """``x`` on B, zero elsewhere.

    Args:
      x: float32.
      sets: uint8 codes in its shape.
      cpu: as for `refresh`.

    >>> mask(tf.constant([1.0, 2.0]), tf.constant([0, 1], tf.uint8)).numpy()
    array([0., 2.], dtype=float32)
    """
    native = library()
    return native.ops.topkast_mask(x, sets, cpu=cpu or native.cpu)


def exploration_loss(
    theta: tf.Tensor,
    sets: tf.Tensor,
    density: tf.Tensor,
    coefficient: float,
    *,
    cpu: str | None = None,
) -> tf.Tensor:
    r"""The exploration loss in its l2 form, see `topkast_tf.core.exploration`.

    ``c * (1/2 sum_A theta^2 + 1/(2D) sum_{B\A} theta^2)``, summed in one order whatever
    the number of threads.

    Args:
      theta: float32.
      sets: uint8 codes in its shape.
      density: float32 scalar D.
      coefficient: c.
      cpu: as for `refresh`.

    Returns:
      A float32 scalar, differentiable in theta.

    >>> theta, sets = tf.constant([2.0, 1.0, 3.0]), tf.constant([2, 1, 0], tf.uint8)
    >>> float(exploration_loss(theta, sets, tf.constant(0.5), 1.0))
    3.0
    """
    native = library()
    return native.ops.topkast_exploration_loss(
        theta, sets, density, coefficient=coefficient, cpu=cpu or native.cpu
    )
