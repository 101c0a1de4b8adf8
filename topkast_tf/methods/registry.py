"""The sparse-training methods by name; the tests' conformance table iterates over them."""

from topkast_tf.methods.base import Method

METHODS: dict[str, type[Method]] = {}
"""Every registered method."""


def register(cls: type[Method]) -> type[Method]:
    """Class decorator: registers a method under its `name`.

    Raises:
      TypeError: for a method that computes alpha without dense updates.
    """
    if cls.computes_alpha is True and cls.dense_updates is False:
        raise TypeError(
            "Expected dense_updates=True of a method that computes alpha. Received: "
            f"{cls.__name__} with dense_updates=False"
        )
    METHODS[cls.name] = cls
    return cls
