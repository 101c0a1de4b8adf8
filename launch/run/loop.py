"""A training loop around `strategy.run`, for cases that Keras's `fit` does not support.

Keras 3's `fit` fails under MultiWorkerMirroredStrategy: to build the model it passes the
batch of a worker (a `PerReplica`) to an operation, and it reduces the metrics of a step,
which are scalars, along their first axis. It also gives no access to a gradient between
the backward pass and the optimizer. This loop calls the same callbacks as `fit`, at the
same times and with the same logs.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from launch.data.shares import shares
from launch.distribute import replicas
from launch.run.gradient_step import train_step
from topkast_tf.gradients import needs_all
from topkast_tf.methods import GRADIENT
from topkast_tf.variables.lookup import sparse_weights

Batches = Callable[[tuple[int, int]], tf.data.Dataset]
"""Maps a shard, (index, number of shards), to its rows of the batches."""


class Loop:
    """Trains and evaluates a model under the strategy that it was built in.

    Args:
      model: compiled, built in the scope of its strategy, or without one.
      accumulate: number of parts of a batch; must divide the rows of a replica.
      packed: whether replicas exchange only the entries of the backward sets.
    """

    def __init__(self, model: keras.Model, accumulate: int = 1, packed: bool = True):
        self._model = model
        self._strategy = model.distribute_strategy
        self._is_built = False
        self._train_packed = self._compiled(train_step(model, accumulate, packed))
        self._train_whole = self._compiled(train_step(model, accumulate, False))
        self._looks_at_gradients = packed and any(
            GRADIENT in weight.method.inputs for weight in sparse_weights(model)
        )
        self._test = tf.function(
            functools.partial(self._on_replicas, model.test_step),
            jit_compile=model.jit_compile,
        )

    def fit(
        self,
        batches: Batches,
        evaluation: Batches,
        *,
        first_round: int,
        rounds: int,
        round_steps: int,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> dict[str, float]:
        """Trains rounds of equal length, with an evaluation after each.

        As `fit` with `initial_epoch=first_round`, `epochs=first_round + rounds`,
        `steps_per_epoch=round_steps` and `validation_data`.

        Args:
          batches: the `rounds * round_steps` training batches.
          evaluation: the batches to evaluate on.
          first_round: number of the first round.
          rounds: number of rounds.
          round_steps: steps per round.
          callbacks: Keras callbacks.

        Returns:
          The logs of the last round; those of its evaluation begin with `val_`.
        """
        model = self._model
        last = first_round + rounds
        self._build(batches)
        callback_list = keras.callbacks.CallbackList(
            list(callbacks),
            add_history=True,
            model=model,
            verbose=0,
            epochs=last,
            steps=round_steps,
        )
        iterator = iter(self._distributed(batches, static=True))
        held_out = self._distributed(evaluation, static=False)
        model.stop_training = False
        callback_list.on_train_begin()
        logs: dict[str, Any] = {}
        for number in range(first_round, last):
            model.reset_metrics()
            callback_list.on_epoch_begin(number)
            for batch in range(round_steps):
                callback_list.on_train_batch_begin(batch)
                callback_list.on_train_batch_end(batch, self._take_step(iterator))
                if model.stop_training:
                    break
            logs = self._results()
            found = self._evaluate(held_out, callback_list)
            logs |= {f"val_{name}": value for name, value in found.items()}
            callback_list.on_epoch_end(number, logs)
            if model.stop_training:
                break
        model.optimizer.finalize_variable_values(model.trainable_weights)
        callback_list.on_train_end(logs)
        return logs

    def _compiled(self, step: Callable[[Any], dict]) -> Callable[[Any], dict]:
        compiled = tf.function(
            functools.partial(self._on_replicas, step),
            jit_compile=self._model.jit_compile,
            reduce_retracing=True,
        )
        return tf.function(lambda iterator: compiled(next(iterator)))

    def _take_step(self, iterator: Any) -> dict:
        if self._looks_at_gradients and needs_all(self._model):
            return self._train_whole(iterator)
        return self._train_packed(iterator)

    def _evaluate(
        self, batches: Any, callback_list: keras.callbacks.CallbackList
    ) -> dict[str, float]:
        replicas.average_statistics(self._model)
        callback_list.on_test_begin()
        self._model.reset_metrics()
        for number, batch in enumerate(batches):
            callback_list.on_test_batch_begin(number)
            callback_list.on_test_batch_end(number, self._test(batch))
        found = self._results()
        callback_list.on_test_end(found)
        return found

    def _results(self) -> dict[str, float]:
        """The metrics over all replicas of all workers, which must all call this."""
        found = self._model.get_metrics_result()
        return {name: float(value) for name, value in found.items()}

    def _on_replicas(self, step: Callable[[Any], dict], data: Any) -> dict:
        """Runs a step on each replica; returns the mean of the metrics on this worker."""
        results = self._strategy.run(step, args=(data,))
        return {
            name: tf.reduce_mean(
                tf.stack(self._strategy.experimental_local_results(value))
            )
            for name, value in results.items()
        }

    def _distributed(self, batches: Batches, static: bool) -> Any:
        """The batches, with contiguous rows for each replica."""
        if self._strategy is tf.distribute.get_strategy():  # none
            return batches((0, 1))

        def own(context):
            here = context.num_replicas_in_sync // context.num_input_pipelines
            rows = batches((context.input_pipeline_id, context.num_input_pipelines))
            if not static:
                return rows.flat_map(functools.partial(shares, here))
            if here > 1:
                rows = rows.map(functools.partial(_cut, here)).unbatch()
            # Endless, because workers agree on the end of finite data before each step.
            return rows.repeat()

        return self._strategy.distribute_datasets_from_function(own)

    def evaluate(
        self, batches: Batches, called: keras.callbacks.CallbackList
    ) -> dict[str, float]:
        """The metrics of the model on all batches, as Keras's `evaluate` gives them.

        Args:
          batches: the batches to evaluate on.
          called: the callbacks to call.
        """
        self._build(batches)
        return self._evaluate(self._distributed(batches, static=False), called)

    def _build(self, batches: Batches) -> None:
        """Creates the variables of metrics and optimizer, which a replica cannot."""
        if self._is_built:
            return
        self._is_built = True
        model, strategy = self._model, self._strategy
        with strategy.scope():
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            spec = batches((0, 1)).element_spec
            x, y, weights = keras.utils.unpack_x_y_sample_weight(
                tf.nest.map_structure(
                    lambda s: tf.zeros([size or 1 for size in s.shape], s.dtype), spec
                )
            )
            inputs = tf.nest.map_structure(
                lambda t: keras.KerasTensor(t.shape, t.dtype.name), x
            )
            outputs = tf.nest.map_structure(
                lambda t: tf.zeros(t.shape, t.dtype), model.compute_output_spec(inputs)
            )
            # Assignments in this scope are discarded; new variables remain.
            with keras.StatelessScope():
                model.compute_metrics(x, y, outputs, weights)


def _cut(parts: int, *batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Each tensor with its rows split into parts, along a new first axis."""
    return tuple(tf.stack(tf.split(x, parts)) for x in batch)
