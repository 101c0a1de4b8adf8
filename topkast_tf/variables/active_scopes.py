"""The scopes that are active in a thread."""

import contextlib
from collections.abc import Iterator
from typing import Any

from topkast_tf.core.thread_stack import ThreadStack

_active: ThreadStack[Any] = ThreadStack()


def active_scope() -> Any:
    """The innermost `SparsityScope` that is active in this thread, or None."""
    return _active.top()


@contextlib.contextmanager
def activated(scope: Any) -> Iterator[None]:
    """Makes a scope the innermost one of this thread.

    Args:
      scope: a `SparsityScope`.
    """
    for outer in _active:
        outer.has_inner = True  # which may take everything that is made
    with _active.pushed(scope):
        yield


def joined(config: dict[str, Any]) -> Any:
    """The active scope, if a layer without decisions belongs to it.

    A wrapper such as Bidirectional copies the layer that it is given by its
    configuration.

    Args:
      config: of a scope.
    """
    scope = active_scope()
    if scope is None or scope.uid != config["uid"] or config["weights"] is not None:
        return None
    scope.set_aside(config.get("copy_of"))
    return scope
