"""The hidden states of earlier segments, kept between the steps of `fit`."""

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from launch.distribute import replicas
from topkast_tf.variables.components import components

MODES = ("training", "evaluation")


class _Part(threading.local):
    index = 0


_part = _Part()


@contextlib.contextmanager
def part_of_batch(index: int) -> Iterator[None]:
    """Sets which of several equal parts of a batch is computed in the block.

    Each part has its own memory, because their rows belong to different streams.
    """
    before, _part.index = _part.index, index
    try:
        yield
    finally:
        _part.index = before


class _Slot(NamedTuple):
    """The key of a memory: mode, batch size (None: unknown), length, part of a batch."""

    mode: str
    batch: int | None
    length: int
    part: int = 0

    def name(self, layer: int) -> str:
        part = f"p{self.part}" if self.part else ""
        return f"{self.mode}_{self.batch or 'any'}x{self.length}{part}_{layer}"


_SAVED_NAME = re.compile(r"training_\w+x\d+(?:p\d+)?_(\d+)_(\d+)")  # layer, replica


class _Slots(dict):
    """{slot: variables of the layers}; a subclass, which Keras does not track."""


class SegmentMemory(keras.layers.Layer):
    """Variables for the memory of each layer, created at their first use.

    Training and evaluation have separate memories. So has each replica under a
    distribution strategy, which gets its own part of each batch, and each batch size. All
    memories start as zeros. Batches whose size is unknown when a function is traced share
    one memory, which is reset when the size changes.

    Only the training memory is saved. A Keras file holds the memory of all replicas, a
    `tf.train.Checkpoint` that of the first replica, which all get. Batches of a new size
    start with zeros.

    Args:
      count: number of layers with memory.
      width: width of their hidden states.
    """

    def __init__(self, count: int, width: int, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        self.width = width
        object.__setattr__(self, "_slots", _Slots())
        object.__setattr__(self, "_loaded", {})
        object.__setattr__(self, "_thread", threading.local())
        object.__setattr__(self, "_elsewhere", {})
        self._first_replica = 0
        self.built = True

    def read(self, mode: str, batch, length: int) -> list[tf.Tensor]:
        """The memory of each layer, [batch, length, width], in the compute dtype.

        Args:
          mode: `training` or `evaluation`.
          batch: examples in the batch of this replica: an integer or, if unknown, a
            scalar tensor.
          length: number of states; 0: no memory.
        """
        if not length:
            empty = tf.zeros((batch, 0, self.width), self.compute_dtype)
            return [empty] * self.count
        values = [v.read_value() for v in self._variables(mode, batch, length)]
        if not isinstance(batch, int):
            values = [_of_batch(value, batch) for value in values]
        return [tf.cast(value, self.compute_dtype) for value in values]

    def write(self, mode: str, batch, length: int, memory) -> None:
        """Replaces the memory of each layer; arguments as for `read`."""
        if not length:
            return
        variables = self._variables(mode, batch, length)
        for variable, value in zip(variables, memory, strict=True):
            variable.assign(tf.cast(value, variable.dtype))

    def reset(self, mode: str | None = None) -> None:
        """Sets the memory of a mode, or of both, to zeros.

        Raises:
          ValueError: for an unknown mode, or within a `tf.function`.
        """
        if mode not in (None, *MODES):
            raise ValueError(
                f"Expected `training`, `evaluation` or None. Received: {mode!r}"
            )
        if tf.inside_function():
            # It would reset only the memories that exist when the function is traced.
            raise ValueError(
                "Expected memory to be reset outside of a `tf.function`. Received: a "
                "reset in one that is being traced"
            )
        if mode != "evaluation":
            self._loaded.clear()
            self._elsewhere.clear()
        for slot, variables in self._slots.items():
            if mode in (None, slot.mode):
                for variable in variables:
                    for component in components(variable):
                        component.assign(self._nothing(slot))

    def values(self, mode: str) -> dict[str, np.ndarray]:
        """The memory of a mode as arrays, by names that end in layer and replica.

        A memory for batches of unknown size has no rows until it is written.
        """
        return {name: component.numpy() for name, component in self._named(mode)}

    def _named(self, mode: str) -> Iterator[tuple[str, tf.Variable]]:
        for slot, variables in self._slots.items():
            if slot.mode == mode:
                for layer, variable in enumerate(variables):
                    for replica, component in self._own(variable):
                        yield f"{slot.name(layer)}_{replica}", component

    def gather_replicas(self, strategy: tf.distribute.Strategy) -> None:
        """Fetches the training memory of all workers, before it is saved.

        All workers must call it. With one worker it does nothing.
        """
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return
        named = {
            slot.name(layer): variable
            for slot, variables in self._slots.items()
            if slot.mode == "training"
            for layer, variable in enumerate(variables)
        }
        found = replicas.gathered(strategy, list(named.values()))
        self._elsewhere.clear()
        for name, values in zip(named, found, strict=True):
            for replica, value in enumerate(values):
                self._elsewhere[f"{name}_{replica}"] = value

    def _own(self, variable) -> list:
        """(number, component) of each replica of this worker."""
        return list(enumerate(components(variable), start=self._first_replica))

    def _nothing(self, slot: _Slot) -> tf.Tensor:
        return tf.zeros((slot.batch or 0, slot.length, self.width), self.variable_dtype)

    def _variables(self, mode: str, batch, length: int) -> list[tf.Variable]:
        size = batch if isinstance(batch, int) else None
        slot = _Slot(mode, size, length, _part.index)
        if slot not in self._slots:
            # In a new thread, outside of the traced function, which may create variables
            # only when it is traced first, and outside of the replica.
            with futures.ThreadPoolExecutor(1) as thread:
                strategy = tf.distribute.get_strategy()
                made = thread.submit(self._all_made, slot, strategy).result()
            for layer, variable in enumerate(made):
                if mode == "training":  # so that `tf.train.Checkpoint` tracks it
                    setattr(self, slot.name(layer), variable)
            self._slots[slot] = made
        return self._slots[slot]

    def _all_made(
        self, slot: _Slot, strategy: tf.distribute.Strategy
    ) -> list[tf.Variable]:
        is_default = type(strategy) is type(tf.distribute.get_strategy())
        self._first_replica = replicas.first_replica(strategy)
        with contextlib.nullcontext() if is_default else strategy.scope():
            return [self._made(slot, layer) for layer in range(self.count)]

    def _made(self, slot: _Slot, layer: int) -> tf.Variable:
        name = slot.name(layer)
        variable = tf.Variable(
            self._nothing(slot),
            trainable=False,
            name=name,
            shape=(slot.batch, slot.length, self.width),
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        for replica, component in self._own(variable):
            value = self._loaded.pop(f"{name}_{replica}", None)
            if value is not None:
                component.assign(value)
        return variable

    # A checkpoint is saved in another thread while training continues; it holds the
    # memory at the time of the snapshot.

    def own_state(self) -> dict[str, tf.Tensor]:
        """The present state to be saved."""
        return {
            **{
                name: tf.constant(value)
                for name, value in (self._loaded | self._elsewhere).items()
            },
            **{name: c.read_value() for name, c in self._named("training")},
        }

    @contextlib.contextmanager
    def saving(self, state: Mapping[str, tf.Tensor]) -> Iterator[None]:
        """Within it, in this thread, `state` is saved instead of the present memory."""
        self._thread.saved = state
        try:
            yield
        finally:
            self._thread.saved = None

    def save_own_variables(self, store):
        state = getattr(self._thread, "saved", None)
        for name, value in (self.own_state() if state is None else state).items():
            if tf.size(value):
                store[name] = value.numpy()

    def load_own_variables(self, store):
        saved = {name: np.asarray(store[name]) for name in store.keys()}
        for name, value in saved.items():
            match = _SAVED_NAME.fullmatch(name)
            if match is None or int(match[1]) >= self.count:
                raise ValueError(
                    f"Expected the memory of a model of {self.count} layers. "
                    f"Received: {name}, of shape {value.shape}"
                )
        self.reset("training")
        for slot, variables in self._slots.items():
            for layer, variable in enumerate(variables):
                for replica, component in self._own(variable):
                    value = saved.pop(f"{slot.name(layer)}_{replica}", None)
                    if value is not None:
                        component.assign(value)
        self._loaded.update(saved)


def _of_batch(memory: tf.Tensor, batch) -> tf.Tensor:
    """The memory if it has the rows of the batch, otherwise zeros of that number of rows.

    Only for batches of unknown size: TensorFlow's graph optimizer assumes that a variable
    has the shape of the value assigned to it, and would otherwise remove this.
    """
    rows = tf.shape(memory)[0]
    # Not with `tf.cond`, because XLA requires the same shape from both branches.
    missing = tf.maximum(batch - rows, 0)
    fitted = tf.pad(memory[:batch], [[0, missing], [0, 0], [0, 0]])
    fitted = tf.where(tf.equal(rows, batch), fitted, tf.zeros([], memory.dtype))
    return tf.ensure_shape(fitted, (None, *memory.shape[1:]))


class ResetMemory(keras.callbacks.Callback):
    """Resets the memory before each evaluation, and optionally before each epoch.

    For models with a `reset_memory(mode)`, such as `TransformerXL`.

    Args:
      each_epoch: also reset the training memory at the beginning of each epoch, for data
        in which each epoch starts at the beginning of the text.
    """

    def __init__(self, each_epoch: bool = False):
        super().__init__()
        self.each_epoch = each_epoch

    def on_epoch_begin(self, epoch, logs=None):
        if self.each_epoch:
            self.model.reset_memory("training")

    def on_test_begin(self, logs=None):
        self.model.reset_memory("evaluation")

    def on_predict_begin(self, logs=None):
        self.model.reset_memory("evaluation")
