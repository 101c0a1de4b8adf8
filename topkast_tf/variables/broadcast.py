"""Broadcasts the initial sets to all workers.

Under MultiWorkerMirroredStrategy the chief broadcasts the initial value of every variable,
by operations that do not support uint8, the dtype of sets: TensorFlow raises an error.
After `install`, uint8 values are sent as int32.
"""

import functools
from typing import Any

import tensorflow as tf

from topkast_tf.compat import collective_ops

_SMALL = tf.uint8
_SENT_AS = tf.int32


def install() -> None:
    """Wraps TensorFlow's two functions, unless they are missing or wrapped already."""
    for name, wrapped in (("broadcast_send", _send), ("broadcast_recv", _receive)):
        original = getattr(collective_ops, name, None)
        if original is not None and not hasattr(original, "__wrapped__"):
            setattr(collective_ops, name, wrapped(original))


def _send(original: Any) -> Any:
    @functools.wraps(original)
    def send(t, shape, dtype, *args, **kwargs):
        if dtype != _SMALL:
            return original(t, shape, dtype, *args, **kwargs)
        sent = tf.cast(t, _SENT_AS)
        return tf.cast(original(sent, shape, _SENT_AS, *args, **kwargs), dtype)

    return send


def _receive(original: Any) -> Any:
    @functools.wraps(original)
    def receive(shape, dtype, *args, **kwargs):
        if dtype != _SMALL:
            return original(shape, dtype, *args, **kwargs)
        return tf.cast(original(shape, _SENT_AS, *args, **kwargs), dtype)

    return receive
