"""Classes with a mixin, for objects that change theirs in place."""

import functools


@functools.cache
def mixed(mixin: type, base: type, prefix: str) -> type:
    """The subclass of a class with a mixin in front; made once.

    Args:
      mixin: what overrides methods of `base`, without a state of its own.
      base: the class of the objects.
      prefix: of its name.

    >>> class Loud:
    ...     def __str__(self):
    ...         return super().__str__().upper()
    >>> str(mixed(Loud, str, "Loud")("word"))
    'WORD'
    """
    return type(base)(f"{prefix}{base.__name__}", (mixin, base), {})
