"""The sparse-training methods by name; the tests' conformance table iterates over them."""

from topkast_tf.methods.base import Method

METHODS: dict[str, type[Method]] = {}
"""Every registered method."""


def register(cls: type[Method]) -> type[Method]:
    """Class decorator: registers a method under its `name`."""
    METHODS[cls.name] = cls
    return cls
