"""The number of steps that a run has taken."""

import weakref
from collections.abc import MutableMapping

import keras

import topkast_tf


def steps_taken(model: keras.Model) -> int:
    """Steps since the beginning of the run, one per batch; a resumed run continues them.

    They are the steps of the optimizer and the mask updates that replaced one (RigL).
    """
    if model not in _replacing:
        found = topkast_tf.sparse_weights(model)
        _replacing[model] = [w for w in found if w.method.replaces_step][:1]
    replaced = sum(weight.calls - weight.step for weight in _replacing[model])
    return int(model.optimizer.iterations.numpy()) + replaced


_replacing: MutableMapping[keras.Model, list[topkast_tf.SparseWeight]] = (
    weakref.WeakKeyDictionary()
)
"""Model -> one of its weights whose mask updates replace steps, if there are any."""
