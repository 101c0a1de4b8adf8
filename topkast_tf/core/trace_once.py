"""Graph functions that are called, not inlined into each layer."""

import functools
import os
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from topkast_tf import compat

_is_forked = False


def _mark_as_forked() -> None:
    global _is_forked
    _is_forked = True


# A forked process has none of TensorFlow's threads: a function that runs eagerly would
# wait for them forever. Single ops on small tensors need none.
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_mark_as_forked)


def is_forked() -> bool:
    """Whether this process was forked from one that had imported this library."""
    return _is_forked


def trace_once(function: Callable) -> Callable:
    """A tensor function traced into its own graph, one graph for tensors of any size.

    Its ops are in memory once, not once per layer (otherwise the graph of a step that
    selects and packs in fifty layers takes hundreds of megabytes). Its temporaries, such
    as tensors captured by a loop, are freed when it returns.

    Args:
      function: takes tensors, and Python constants by keyword; returns tensors. It must
        read sizes with `tf.shape` and `tf.size`. No gradient passes through it.

    Returns:
      A function with the same arguments.

    >>> double = trace_once(lambda x: [x + x])
    >>> [int(double(tf.ones([n], tf.int32))[0][0]) for n in (1, 2)]
    [2, 2]
    """

    @functools.cache
    def traced(
        compiled: bool, *signature: tuple[int, tf.DType], **constants: Any
    ) -> Any:
        del compiled  # only a cache key: the two kinds are traced separately
        return tf.function(
            functools.partial(function, **constants),
            input_signature=[
                tf.TensorSpec([None] * rank, dtype) for rank, dtype in signature
            ],
            autograph=False,
            experimental_attributes={"_noinline": True},
        )

    @functools.wraps(function)
    def called(*arguments: tf.Tensor, **constants: Any) -> Any:
        tensors = [_unwatched(tf.convert_to_tensor(x)) for x in arguments]
        if _is_forked and tf.executing_eagerly():
            return function(*tensors, **constants)
        signature = [(x.shape.rank, x.dtype) for x in tensors]
        return traced(is_compiled(), *signature, **constants)(*tensors)

    return called


def is_compiled() -> bool:
    """Whether XLA will compile the graph being traced."""
    graph = tf.compat.v1.get_default_graph()
    return compat.is_compiled(graph)


def _unwatched(x: tf.Tensor) -> tf.Tensor:
    # A tape that watches an argument would keep every intermediate result.
    return tf.stop_gradient(x) if x.dtype.is_floating else x
