"""SWAT's realised densities of weights and activations."""

import csv as csv_module
import dataclasses
import pathlib
from typing import Any

import keras

from swat_tf.rule import STATE, SparseBackward
from topkast_tf.variables.lookup import sparse_weights


@dataclasses.dataclass(frozen=True)
class LayerDensity:
    """The realised densities of one layer in the last training step.

    Attributes:
      path: the path of its kernel.
      weights: fraction of its weights that are active.
      activations: fraction of its input activations that the backward pass used; 1 if
        they are not sparsified, and the nominal one before the first step.
    """

    path: str
    weights: float
    activations: float


def layer_densities(model: Any) -> list[LayerDensity]:
    """The realised densities of each layer whose product SWAT computes.

    Between two refreshes (``topk_period > 1``) they drift from the nominal ones.

    Args:
      model: a Keras model that was built in a `swat_tf.swat_scope`.

    >>> import keras
    >>> from swat_tf import swat_scope
    >>> with swat_scope(0.9):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> [(d.path.split("/")[-1], round(d.weights, 2)) for d in layer_densities(model)]
    [('kernel', 0.1)]
    """
    return [
        LayerDensity(
            weight.path,
            1 - weight.forward_sparsity,
            1 - weight.rule.realised(weight) if STATE in weight.auxiliary else 1.0,
        )
        for weight in sparse_weights(model)
        if isinstance(weight.rule, SparseBackward)
    ]


def densities(model: Any) -> tuple[float, float]:
    """Realised densities of weights and activations over all layers together.

    Args:
      model: a Keras model.

    Returns:
      Active weights over weights, and used activations over activations, of the layers
      whose product SWAT computes; (1, 1) if there are none.
    """
    active = weights = used = activations = 0.0
    for weight in sparse_weights(model):
        if not isinstance(weight.rule, SparseBackward):
            continue
        mask = weight.forward_mask()
        active, weights = active + mask.sum(), weights + mask.size
        if STATE in weight.auxiliary:
            _, kept, size = weight.replica().auxiliary_variable(STATE).numpy()
            used, activations = used + kept, activations + size
    return (
        float(active / weights) if weights else 1.0,
        float(used / activations) if activations else 1.0,
    )


class DensityLog(keras.callbacks.Callback):
    """Writes the realised densities of each layer to a CSV while a model is trained.

    The columns are ``step, path, weights, activations``, see `LayerDensity`. Lines are
    appended to an existing file; those of steps that are repeated after a resume are
    written again.

    Args:
      csv: path of the file. Missing folders are created.
      every: optimizer steps between two measurements, at least 1: one is made when a
        multiple of it is reached, or passed if Keras takes several steps at once.
        One less than a multiple of `topk_period` shows the largest drift.

    Raises:
      ValueError: for an `every` below 1.
    """

    def __init__(self, csv: str | pathlib.Path, every: int = 1):
        super().__init__()
        if type(every) is not int or every < 1:
            raise ValueError(
                "`every` must be a number of steps, an integer of at least 1. "
                f"Received: every={every!r}"
            )
        self._path, self._every = pathlib.Path(csv), every
        self._last = 0

    def on_train_begin(self, logs=None):
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._last = self._step()

    def on_train_batch_end(self, batch, logs=None):
        # A batch may be several steps, or none if gradients are accumulated.
        step, last = self._step(), self._last
        self._last = step
        if step // self._every == last // self._every:
            return
        is_new = not self._path.exists()
        with open(self._path, "a", newline="", encoding="utf-8") as file:
            writer = csv_module.writer(file, lineterminator="\n")
            if is_new:
                writer.writerow(("step", "path", "weights", "activations"))
            for layer in layer_densities(self.model):
                writer.writerow((step, *dataclasses.astuple(layer)))

    def _step(self) -> int:
        return int(self.model.optimizer.iterations.numpy())
