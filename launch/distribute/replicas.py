"""The state that differs between replicas, and how a checkpoint holds it.

Weights, sets and optimizer are the same on all replicas. Each replica has its own running
metrics, statistics of batch normalisation, memory of a text, and random state of dropout.
A checkpoint is one file, and a resumed run must be bitwise the same as an uninterrupted
one. Therefore

* metrics and statistics are made equal on all replicas when a checkpoint is taken, both
  in the run that takes it and in the one that resumes from it. Statistics are made equal
  before an evaluation, too, so that all replicas evaluate one model;
* memories are gathered into the file, each under the number of its replica;
* random states are derived from that of the first replica and the replica's number.

All workers of a job must call the functions that read values of all replicas.
"""

import functools
import weakref
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from launch.support.errors import UserError
from topkast_tf.compat import raw_variable
from topkast_tf.variables.components import components

_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio, whose multiples are well spread


def count_of(model: keras.Model) -> int:
    """The number of replicas that train the model, over all workers."""
    return model.distribute_strategy.num_replicas_in_sync


def first_replica(strategy: tf.distribute.Strategy) -> int:
    """The number, over all workers, of this worker's first replica."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0
    return strategy.cluster_resolver.task_id * len(strategy.extended.worker_devices)


def part_seeds(model: keras.Model) -> None:
    """Derives a separate random seed for each replica from that of the first one.

    Otherwise dropout would drop the same units in the first example of each replica, in
    the second, and so on. Must be called after a model is built or restored.
    """
    if count_of(model) == 1:
        return
    first = first_replica(model.distribute_strategy)
    for variable in model.non_trainable_variables:
        if not variable.path.endswith("seed_generator_state"):
            continue
        seed, used = (int(n) for n in components(raw_variable(variable))[0].numpy())
        for index, component in enumerate(components(raw_variable(variable))):
            own = (seed + (first + index) * _GOLDEN) % 2**32
            component.assign(tf.constant([own, used], component.dtype))


def running_totals(model: keras.Model) -> list[float]:
    """The sums and counts of the metrics over all replicas, then divided evenly among them.

    They are exact as JSON numbers, because they are float32.
    """
    totals = [float(variable.numpy()) for variable in model.metrics_variables]
    count = count_of(model)
    if count > 1:
        for variable, total in zip(model.metrics_variables, totals, strict=True):
            for component in components(raw_variable(variable)):
                component.assign(total / count)
    return totals


def add_totals(model: keras.Model, totals: list[float]) -> None:
    """Adds sums and counts to those of the metrics, divided evenly among the replicas."""
    count = count_of(model)
    for variable, total in zip(model.metrics_variables, totals, strict=True):
        for component in components(raw_variable(variable)):
            component.assign_add(total / count)


def prepare_to_save(model: keras.Model) -> None:
    """Prepares a model for a snapshot of its values.

    Each replica gets the mean of the statistics over the replicas; memories are gathered.
    """
    if count_of(model) == 1:
        return
    average_statistics(model)
    for layer in model.layers:
        if hasattr(layer, "gather_replicas"):
            layer.gather_replicas(model.distribute_strategy)


def average_statistics(model: keras.Model) -> None:
    """Gives each replica the mean of the statistics of layers over all replicas.

    These are the moving mean and variance of batch normalisation. Keras updates them on
    each replica separately, and would save those of the first one.
    """
    if count_of(model) == 1:
        return
    if model not in _averagers:
        _averagers[model] = _averager(model)
    _averagers[model]()


_averagers: MutableMapping[keras.Model, Callable[[], Any]] = weakref.WeakKeyDictionary()


def _averager(model: keras.Model) -> Callable[[], Any]:
    # The state of sparse weights has another aggregation and is the same on all replicas.
    # Random states are integers.
    raw = [raw_variable(variable) for variable in model.non_trainable_variables]
    counted = [
        variable
        for variable in raw
        if variable.dtype.is_floating
        and variable.aggregation == tf.VariableAggregation.NONE
    ]
    strategy = model.distribute_strategy

    def of_replica():
        replica = tf.distribute.get_replica_context()
        own = [_own_copy(variable) for variable in counted]
        values = [copy.read_value() for copy in own]
        means = replica.all_reduce(tf.distribute.ReduceOp.MEAN, values)
        for copy, mean in zip(own, means, strict=True):
            copy.assign(mean)

    if not counted:
        return lambda: None
    return tf.function(lambda: strategy.run(of_replica))


def _own_copy(variable: Any) -> tf.Variable:
    """The copy of a variable on the replica that calls this."""
    replica = tf.distribute.get_replica_context()
    copies = components(variable)
    number = int(tf.get_static_value(replica.replica_id_in_sync_group))
    return copies[number % len(copies)]


def gathered(
    strategy: tf.distribute.Strategy, variables: Sequence[Any]
) -> list[list[np.ndarray]]:
    """The value of each variable on each replica of all workers, in order.

    Args:
      strategy: the strategy under which they were made.
      variables: variables that differ between replicas, of the same shape on all.
    """

    def own():
        replica = tf.distribute.get_replica_context()
        return [
            replica.all_gather(_own_copy(variable).read_value()[None], axis=0)
            for variable in variables
        ]

    found = tf.function(lambda: strategy.run(own))()
    return [list(strategy.experimental_local_results(v)[0].numpy()) for v in found]


def agreed(model: keras.Model, number: int | None) -> int | None:
    """The largest number of any worker, or None if no worker has one.

    With it, all workers act at the same step, for example end because one of them has
    received a signal. With one worker the number is returned unchanged.
    """
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return number
    found = int(_of_all_workers(strategy, -1 if number is None else number).max())
    return None if found < 0 else found


def check_same_step(strategy: tf.distribute.Strategy, step: int) -> None:
    """Raises `UserError` unless all workers resume from the same step."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    found = _of_all_workers(strategy, step).tolist()
    if len(set(found)) > 1:
        raise UserError(
            "Expected all workers to see the same --run_dir, on a shared file system, and "
            f"to resume from the same checkpoint. Received: steps {found}"
        )


def _of_all_workers(strategy: tf.distribute.Strategy, number: int) -> np.ndarray:
    """The numbers of the replicas of all workers; `number` is that of this worker."""
    found = _gatherer(strategy)(tf.constant(number, tf.int64))
    return strategy.experimental_local_results(found)[0].numpy()


@functools.cache
def _gatherer(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], Any]:
    def of_replica(number):
        replica = tf.distribute.get_replica_context()
        return replica.all_gather(number[None], axis=0)

    return tf.function(lambda number: strategy.run(of_replica, args=(number,)))
