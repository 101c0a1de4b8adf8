"""Lets workers agree on the first values of sets.

Under MultiWorkerMirroredStrategy the chief broadcasts the first value of every variable,
by operations that know no single bytes, of which sets are made. TensorFlow fails where
these are asked for; once `install` has been called they are sent as 32-bit integers.
"""

import functools
from typing import Any

import tensorflow as tf

from topkast_tf.compat import collective_ops

_SMALL = tf.uint8
_SENT_AS = tf.int32


def install() -> None:
    """Wraps TensorFlow's two functions; does nothing where they are missing or wrapped."""
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
