"""Warns of a second weight decay of sparse weights.

The exploration loss of Top-KAST is the weight decay of the sparse weights. A decay by an
optimizer or a `kernel_regularizer` is applied in addition, and changes the method.
"""

import contextlib
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from topkast_tf import compat
from topkast_tf.variables import hooks
from topkast_tf.variables.replica import local_replica

_warned: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
"""Weight -> the kinds of decay already warned about."""
_lock = threading.Lock()


@contextlib.contextmanager
def warning_of_decay(update: hooks.Update) -> Iterator[None]:
    """Warns, once per weight, of a decay in addition to the exploration loss."""
    found = [
        (variable, replica.weight)
        for variable in update.variables
        if (replica := local_replica(variable)) is not None
        and getattr(replica.weight.method, "exploration", 0) > 0
        and not replica.weight.exempt
    ]
    for says, is_so in _KINDS:
        with _lock:
            paths = []
            for variable, weight in found:
                known = _warned.setdefault(weight, set())
                if says not in known and is_so(update.optimizer, variable, weight):
                    known.add(says)
                    paths.append(weight.path)
        if paths:
            logging.warning(says(update.optimizer, _names(paths)))
    yield


def _of_optimizer(optimizer: Any, names: str) -> str:
    return (
        f"Weight decay {optimizer.weight_decay} of the optimizer {optimizer.name!r} is a "
        f"second one for {names}: it pulls A and B \\ A to zero at one rate, while the "
        "exploration loss pulls B \\ A 1/D times as hard; C keeps its bits. To keep one: "
        "exploration=0, or `optimizer.exclude_from_weight_decay` before the first step"
    )


def _of_regularizer(optimizer: Any, names: str) -> str:
    del optimizer
    return (
        f"The kernel_regularizer of {names} is a second weight decay: it pulls A and "
        "B \\ A to zero at one rate, while the exploration loss pulls B \\ A 1/D times "
        "as hard. C keeps its bits, but counts in the loss and moves the optimizer's "
        "momentum, with which its entries start when they enter B. To keep one: "
        "exploration=0, or no kernel_regularizer"
    )


def _of_replacement(optimizer: Any, names: str) -> str:
    del optimizer
    return (
        f"Expected the regularizer of {names} to be the exploration loss. Received: "
        "another, which was assigned to the variable and replaces it. Give the layer a "
        "kernel_regularizer, which is added"
    )


def _decays(optimizer: Any, variable: Any) -> bool:
    if not getattr(optimizer, "weight_decay", None):
        return False
    return compat.uses_weight_decay(optimizer, variable)


def _is_replaced(variable: Any, weight: Any) -> bool:
    made = weight.penalty_regularizer
    return made is not None and getattr(variable, "regularizer", made) is not made


_KINDS = (
    (_of_optimizer, lambda optimizer, variable, _: _decays(optimizer, variable)),
    (_of_regularizer, lambda _, __, weight: weight.regularizer is not None),
    (_of_replacement, lambda _, variable, weight: _is_replaced(variable, weight)),
)
"""The warning for each kind of second decay, and the test for that kind."""


def _names(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{len(paths)} weights such as {paths[0]}"
