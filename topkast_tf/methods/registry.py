"""The sparse-training methods by name; the tests' conformance table iterates over them."""

from collections.abc import Callable

from topkast_tf.methods.base import Method
from topkast_tf.methods.checks import check_class

METHODS: dict[str, type[Method]] = {}
"""Every registered method."""
SETTINGS: dict[str, Callable[..., Method]] = {}
"""Name -> what makes a registered method with defaults that another paper gives it."""


def register(cls: type[Method]) -> type[Method]:
    """Class decorator: registers a method under its `name`.

    Raises:
      TypeError: for a class that the contract excludes (`topkast_tf.methods.checks`).
      ValueError: if another class has this name; a class that is defined again, as in a
        notebook, replaces itself.
    """
    check_class(cls)
    known = METHODS.get(cls.name)
    if known is not None and _place(known) != _place(cls):
        raise ValueError(
            f"Expected a name that no other method has. Received: {cls.name!r}, which is "
            f"that of {'.'.join(_place(known))}"
        )
    METHODS[cls.name] = cls
    return cls


def register_setting(make: Callable[..., Method]) -> Callable[..., Method]:
    """Decorator: registers a function that makes a method, under the function's name."""
    SETTINGS[make.__name__] = make
    return make


def _place(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__
