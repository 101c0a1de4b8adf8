"""The scopes and the product rules that are active in a thread, the innermost last."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from topkast_tf.layers.products import ProductRule
    from topkast_tf.variables.scope_state import SparsityScope


class _Active(threading.local):
    def __init__(self):
        self.scopes: list[SparsityScope] = []
        self.rules: list[ProductRule | None] = []


_active = _Active()


def active_scope() -> SparsityScope | None:
    """The innermost scope that is active in this thread, or None."""
    return _active.scopes[-1] if _active.scopes else None


@contextlib.contextmanager
def activated(scope: SparsityScope) -> Iterator[None]:
    """Makes a scope the innermost one of this thread."""
    for outer in _active.scopes:
        outer.has_inner = True  # which may take everything that is made
    _active.scopes.append(scope)
    try:
        yield
    finally:
        _active.scopes.pop()


def active_rule() -> ProductRule | None:
    """The innermost product rule that is active in this thread, or None."""
    return _active.rules[-1] if _active.rules else None


@contextlib.contextmanager
def activated_rule(rule: ProductRule | None) -> Iterator[None]:
    """Makes a product rule (or none) the innermost one of this thread."""
    _active.rules.append(rule)
    try:
        yield
    finally:
        _active.rules.pop()
