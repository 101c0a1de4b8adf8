"""Whether native operations select the sets of weights and apply their updates.

They give the same bits as the TensorFlow operations in whose place they run; only the
reported value of the exploration loss is summed in another order.
"""

import weakref
from typing import Any

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.core.trace_once import is_forked
from topkast_tf.kernels import library

MANY_ENTRIES = 100_000
"""Sparse entries of a scope from which on the native library is built for them."""


class SharedSize:
    """The size of a scope, and of the scopes that the layers of a saved one make.

    Attributes:
      entries: of all sparse weights.
      has_native_layer: whether the product of a layer has been computed natively, so that
        the library is there.
    """

    def __init__(self):
        self.entries = 0
        self.has_native_layer = False


_sizes: "weakref.WeakValueDictionary[str, SharedSize]" = weakref.WeakValueDictionary()


def shared_size(uid: str) -> SharedSize:
    """The size that the scopes with one unique id share."""
    size = _sizes.get(uid)
    if size is None:
        size = _sizes[uid] = SharedSize()
    return size


def wants_native(kernels: str, entries: int) -> bool:
    """Whether a scope uses the native operations, where they can be had.

    Small models do not: they would wait for the library to be built.

    Args:
      kernels: what the scope asks for (`topkast_tf.kernels.choice`).
      entries: of its sparse weights.

    >>> wants_native("auto", 2_000_000), wants_native("auto", 100)
    (True, False)
    """
    return kernels != "masked" and (kernels == "native" or entries >= MANY_ENTRIES)


def serves(replica: Any, *, same_bits: bool = True) -> bool:
    """Whether native operations serve one copy of a weight in what runs or is traced now.

    Args:
      replica: a `WeightReplica`.
      same_bits: whether they give the bits of the operations in whose place they run. If
        not, what has been traced before has no say, or a resumed run could differ.
    """
    return (
        replica.weight.wants_native(same_bits)
        and replica.theta.dtype == tf.float32
        and not is_elsewhere()
        and library.is_available()
    )


def is_elsewhere() -> bool:
    """Whether what is traced now cannot have native operations."""
    if compat.has_accelerator():
        return True
    if compat.is_saving_graphs() or is_forked():  # without TensorFlow's threads
        return True
    if tf.executing_eagerly():
        return False
    # A graph of TensorFlow 1 does not order the operations on a variable.
    graph = tf.compat.v1.get_default_graph()
    return not tf.inside_function() or compat.is_compiled(graph)
