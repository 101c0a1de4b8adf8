"""A word to those who decay sparse weights twice.

The exploration loss of Top-KAST is the weight decay of the sparse weights. A decay that an
optimizer or a `kernel_regularizer` adds is carried out, and changes what the method does.
"""

import contextlib
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from absl import logging

from topkast_tf import hooks, variables

_seen: weakref.WeakSet = weakref.WeakSet()  # weights
_lock = threading.Lock()


@contextlib.contextmanager
def warning_of_decay(update: hooks.Update) -> Iterator[None]:
    """Warns, at the first step of a weight, of a decay beside the exploration loss."""
    with _lock:
        found = [
            (variable, component.weight)
            for variable in update.variables
            if (component := variables.local_component(variable)) is not None
            and component.weight.method.has_penalty
            and not component.weight.exempt
            and component.weight not in _seen
        ]
        _seen.update(weight for _, weight in found)
    for message in _messages(found, update.optimizer):
        logging.warning(message)
    yield


def _messages(found: Sequence[tuple[Any, Any]], optimizer: Any) -> Iterable[str]:
    decayed = [w.path for v, w in found if _decays(optimizer, v)]
    if decayed:
        yield (
            f"Weight decay {optimizer.weight_decay} of the optimizer "
            f"{optimizer.name!r} is a second one for {_names(decayed)}: it pulls A and "
            "B \\ A to zero at one rate, where the exploration loss pulls B \\ A 1/D times "
            "as hard; C keeps its bits. To have one: exploration=0, or "
            "`optimizer.exclude_from_weight_decay` before the first step"
        )
    regularized = [w.path for v, w in found if w.regularizer is not None]
    if regularized:
        yield (
            f"The kernel_regularizer of {_names(regularized)} is a second weight decay: "
            "it pulls A and B \\ A to zero at one rate, where the exploration loss pulls "
            "B \\ A 1/D times as hard. C keeps its bits, but counts in the loss and moves "
            "the optimizer's momentum, with which its entries start when they enter B. "
            "To have one: exploration=0, or no kernel_regularizer"
        )
    replaced = [w.path for v, w in found if _is_replaced(v, w)]
    if replaced:
        yield (
            f"Expected the regularizer of {_names(replaced)} to be the exploration loss. "
            "Received: another, which was assigned to the variable and replaces it. Give "
            "the layer its kernel_regularizer, which is added"
        )


def _decays(optimizer: Any, variable: Any) -> bool:
    if not getattr(optimizer, "weight_decay", None):
        return False
    # Keras has no public way to ask what is excluded from weight decay.
    uses = getattr(optimizer, "_use_weight_decay", None)
    return uses is None or bool(uses(variable))


def _is_replaced(variable: Any, weight: Any) -> bool:
    made = weight.penalty_regularizer
    return made is not None and getattr(variable, "regularizer", made) is not made


def _names(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{len(paths)} weights such as {paths[0]}"
