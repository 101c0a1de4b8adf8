"""The optimizer of packed weights in files: as that of dense storage, in both directions.

A file holds slots in the shape of the whole weight, zero outside B. So it does not matter
whether the model that wrote it and the one that reads it are packed.
"""

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import numpy as np
import tensorflow as tf

from topkast_tf import compat
from topkast_tf.core import packing
from topkast_tf.variables.components import components
from topkast_tf.variables.hooks import wrap_method

Store = MutableMapping[str, Any]


def install(optimizer_class: type) -> None:
    """Wraps how the optimizers of Keras 3 are saved and loaded, once."""
    wrap_method(optimizer_class, "save_own_variables", _saving)
    wrap_method(optimizer_class, "load_own_variables", _loading)


def _saving(original: Callable) -> Callable:
    def save_own_variables(self: Any, store: Store) -> None:
        of_entries = dict(_of_entries(self))
        if not of_entries:
            original(self, store)
            return
        found: Store = {}
        original(self, found)
        for key, value in found.items():
            each = of_entries.get(key)
            store[key] = value if each is None else each.whole(value)

    return save_own_variables


def _loading(original: Callable) -> Callable:
    def load_own_variables(self: Any, store: Store) -> None:
        of_entries = dict(_of_entries(self))
        if not of_entries or len(store.keys()) != len(self.variables):
            original(self, store)  # which says what is wrong
            return
        found = {}
        for key in store.keys():  # noqa: SIM118, stores of Keras are no iterables
            each = of_entries.get(key)
            found[key] = store[key] if each is None else each.packed(store[key])
        original(self, found)

    return load_own_variables


class _OfEntries:
    """A variable of an optimizer with a number for each entry of a packed weight.

    Args:
      weight: the weight.
      is_average: whether it is an average of the weight (`use_ema`), which has values
        outside B, too: those of theta.
    """

    def __init__(self, weight: Any, is_average: bool):
        self._weight, self._is_average = weight, is_average

    def whole(self, value: np.ndarray) -> np.ndarray:
        """In the shape of the weight."""
        theta, sets = map(tf.constant, self._weight.saved_values())
        if self._is_average:
            return packing.merged(theta, tf.constant(value), sets).numpy()
        return packing.unpacked(tf.constant(value), sets).numpy()

    def packed(self, value: Any) -> np.ndarray:
        """The entries of B alone."""
        value = np.asarray(value)
        expected = tuple(self._weight.shape)
        if value.shape != expected:
            raise ValueError(
                "Expected a variable of the optimizer in the shape of "
                f"{self._weight.path}, {expected}. Received: {value.shape}"
            )
        size = self._weight.packed.size
        return packing.packed(value, self._weight.saved_values()[1], size).numpy()


def _of_entries(optimizer: Any) -> Iterator[tuple[str, _OfEntries]]:
    """The variables of an optimizer that belong to packed entries, by key of its file."""
    key_of = {id(variable): str(i) for i, variable in enumerate(optimizer.variables)}
    optimizer = compat.innermost_optimizer(optimizer)
    variables = compat.trainable_variables(optimizer)
    lists = [
        (name, kept)
        for name, kept in vars(optimizer).items()
        if isinstance(kept, list)
        and len(kept) == len(variables)
        and name not in (compat.ALL_VARIABLES, compat.TRAINABLE_VARIABLES)
    ]
    for i, variable in enumerate(variables):
        raw = compat.raw_variable(variable)
        replica = None if raw is None else getattr(components(raw)[0], "_topkast", None)
        if replica is None or replica.entries is None:
            continue
        for name, kept in lists:
            own = kept[i]
            key = key_of.get(id(own))
            if key is not None and tuple(own.shape) == tuple(variable.shape):
                yield key, _OfEntries(replica.weight, name == compat.AVERAGES)
