"""The sparse-training methods by name; the conformance table of the tests iterates them."""

from topkast_tf.methods.base import Method

METHODS: dict[str, type[Method]] = {}
"""Every registered method."""


def register(cls: type[Method]) -> type[Method]:
    """Class decorator: makes a method known by its `name`."""
    METHODS[cls.name] = cls
    return cls
