"""A snapshot of a model, to be saved while training continues."""

import contextlib
import functools
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import keras
import tensorflow as tf

from topkast_tf.compat import layers_within


@runtime_checkable
class HasOwnState(Protocol):
    """A layer that saves state outside of Keras variables.

    `own_state` is called in the training thread, `saving` in the thread that saves.
    """

    def own_state(self) -> Mapping[str, tf.Tensor]:
        """The state that it would save now."""

    def saving(
        self, state: Mapping[str, tf.Tensor]
    ) -> contextlib.AbstractContextManager:
        """Within it, in this thread, the layer saves `state` and not its present state."""


class Snapshot(NamedTuple):
    """The values of everything in a model that training changes.

    Attributes:
      model: the model.
      values: (variable, value) of all variables of model, optimizer and metrics.
      own: (layer, state) of the layers that hold other state.
    """

    model: keras.Model
    values: list[tuple[keras.Variable, tf.Tensor]]
    own: list[tuple[HasOwnState, Mapping[str, tf.Tensor]]]

    @contextlib.contextmanager
    def in_force(self) -> Iterator[keras.Model]:
        """Within it, in this thread only, the model has the values of the snapshot.

        Other threads read and write the variables in the meantime.

        Yields:
          The model.
        """
        with contextlib.ExitStack() as stack:
            if can_be_saved_apart():
                stack.enter_context(self._values_in_force())
            for layer, state in self.own:
                stack.enter_context(layer.saving(state))
            yield self.model

    @contextlib.contextmanager
    def _values_in_force(self) -> Iterator[None]:
        _skip_ordinary_attributes()
        with _Then(self.values):
            yield


def snapshot(model: keras.Model) -> Snapshot:
    """Takes the values of a compiled model, in the thread that trains it.

    This takes almost no time: TensorFlow returns the buffer of a variable, and the next
    update writes to a new one. It costs the memory of the variables until it is saved.

    Under a strategy every worker must take it, because reading a variable may be a
    collective operation; one worker saves it.

    Args:
      model: a compiled model that has taken a step.
    """
    found = {
        id(variable): variable
        for variable in (
            *model.variables,
            *model.optimizer.variables,
            *model.metrics_variables,
        )
    }
    layers = [layer for layer in layers_within(model) if isinstance(layer, HasOwnState)]
    return Snapshot(
        model,
        [(variable, tf.identity(variable.value)) for variable in found.values()],
        [(layer, layer.own_state()) for layer in layers],
    )


@functools.cache
def can_be_saved_apart() -> bool:
    """Whether this Keras saves a model within a `keras.StatelessScope`.

    If it does not, a snapshot must be saved before training continues.
    """
    model = keras.Sequential([keras.Input((1,)), keras.layers.Activation("linear")])
    model.compile("sgd", "mse")
    with tempfile.TemporaryDirectory() as folder:
        try:
            with snapshot(model)._values_in_force():
                model.save(pathlib.Path(folder) / "model.keras")
        except (ValueError, LookupError):
            return False
    return True


def _skip_ordinary_attributes() -> None:
    """Makes Keras cache, for this thread, the attributes that it need not save.

    Keras finds them by creating a layer, an optimizer and so on. An optimizer has
    variables, which may not be created within a `StatelessScope`. The cache has no public
    name. Keras 3.15 reads a different name than it writes, and therefore creates these
    objects again for each layer, which takes longer than the rest of saving.
    """
    with contextlib.suppress(ImportError, AttributeError, ValueError):
        from keras.src.backend.common import global_state
        from keras.src.saving import saving_lib

        for kind in (
            "Layer",
            "Functional",
            "Sequential",
            "Metric",
            "Optimizer",
            "Loss",
        ):
            name = f"saving_attr_skiplist_{kind}"
            if global_state.get_global_attribute(name) is None:
                found = saving_lib.get_attr_skipset(kind)
                global_state.set_global_attribute(name, found)


class _Then(keras.StatelessScope):
    """A scope that raises for a variable without a value, instead of the present value."""

    def get_current_value(self, variable: keras.Variable) -> Any:
        value = super().get_current_value(variable)
        if value is None:
            raise LookupError(
                "Expected a snapshot with the value of every variable that is saved. "
                f"Received: none of {variable.path}"
            )
        return value
