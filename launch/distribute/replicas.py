"""What differs from replica to replica, and how a checkpoint holds it nevertheless.

Weights, sets and optimizer are the same on all replicas. Each has its own running
metrics, statistics of batch normalisation, memory of a text, and random state of dropout.
A checkpoint is one file, and a resumed run must equal the undisturbed one bit for bit. So

* metrics and statistics are made equal on all replicas when a checkpoint is taken, by the
  run that takes it as by the one that goes on from it; statistics before an evaluation
  too, so that all replicas evaluate one model;
* memories are brought together in the file, each under the number of its replica;
* random states follow from that of the first replica and the replica's number.

Where a value is read that all replicas share in, all workers of a job must call.
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

_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: multiples of it lie far apart


def count_of(model: keras.Model) -> int:
    """How many replicas train the model, over all workers."""
    return model.distribute_strategy.num_replicas_in_sync


def first_replica(strategy: tf.distribute.Strategy) -> int:
    """The number, over all workers, of this worker's first replica."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 0
    return strategy.cluster_resolver.task_id * len(strategy.extended.worker_devices)


def part_seeds(model: keras.Model) -> None:
    """Gives the random numbers of each replica a seed of its own, from the first one's.

    Otherwise dropout would drop the same units of the first example of each replica, of
    the second, and so on. To be called when a model has been built or restored.
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
    """The sums and counts of the metrics over all replicas, which then share them evenly.

    Exact as JSON numbers, because they are float32.
    """
    totals = [float(variable.numpy()) for variable in model.metrics_variables]
    count = count_of(model)
    if count > 1:
        for variable, total in zip(model.metrics_variables, totals, strict=True):
            for component in components(raw_variable(variable)):
                component.assign(total / count)
    return totals


def add_totals(model: keras.Model, totals: list[float]) -> None:
    """Adds sums and counts to those of the metrics, each replica its even share."""
    count = count_of(model)
    for variable, total in zip(model.metrics_variables, totals, strict=True):
        for component in components(raw_variable(variable)):
            component.assign_add(total / count)


def prepare_to_save(model: keras.Model) -> None:
    """What is to be done just before the values of a model are read for a checkpoint.

    Statistics become the mean over the replicas on each; memories are brought together.
    """
    if count_of(model) == 1:
        return
    average_statistics(model)
    for layer in model.layers:
        if hasattr(layer, "gather_replicas"):
            layer.gather_replicas(model.distribute_strategy)


def average_statistics(model: keras.Model) -> None:
    """Gives each replica the mean of what layers have counted on all of them.

    These are the moving mean and variance of batch normalisation, which Keras lets each
    replica update for itself, and of which it would save those of the first one.
    """
    if count_of(model) == 1:
        return
    if model not in _averagers:
        _averagers[model] = _averager(model)
    _averagers[model]()


_averagers: MutableMapping[keras.Model, Callable[[], Any]] = weakref.WeakKeyDictionary()


def _averager(model: keras.Model) -> Callable[[], Any]:
    # State that belongs to sparse weights says how it is aggregated, and is the same on
    # all replicas; random states are no floating numbers.
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
    """A replica's copy of a variable, where the replica calls."""
    replica = tf.distribute.get_replica_context()
    copies = components(variable)
    number = int(tf.get_static_value(replica.replica_id_in_sync_group))
    return copies[number % len(copies)]


def gathered(
    strategy: tf.distribute.Strategy, variables: Sequence[Any]
) -> list[list[np.ndarray]]:
    """The value of each variable on each replica, over all workers, in their order.

    Args:
      strategy: under which they were made.
      variables: what differs from replica to replica, each of one shape on all.
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
    """The largest number that any worker has, or None if none has one.

    So that all workers do the same at the same step, such as to end because one of them
    has been asked to. With one worker it is what that has.
    """
    strategy = model.distribute_strategy
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return number
    found = int(_of_all_workers(strategy, -1 if number is None else number).max())
    return None if found < 0 else found


def check_same_step(strategy: tf.distribute.Strategy, step: int) -> None:
    """Raises `UserError` unless all workers go on from the same step."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    found = _of_all_workers(strategy, step).tolist()
    if len(set(found)) > 1:
        raise UserError(
            "Expected all workers to see the same --run_dir, on a file system that they "
            f"share, and to go on from one checkpoint. Received: steps {found}"
        )


def _of_all_workers(strategy: tf.distribute.Strategy, number: int) -> np.ndarray:
    """A number of each replica, over all workers, where this worker has this one."""
    found = _gatherer(strategy)(tf.constant(number, tf.int64))
    return strategy.experimental_local_results(found)[0].numpy()


@functools.cache
def _gatherer(strategy: tf.distribute.Strategy) -> Callable[[tf.Tensor], Any]:
    def of_replica(number):
        replica = tf.distribute.get_replica_context()
        return replica.all_gather(number[None], axis=0)

    return tf.function(lambda number: strategy.run(of_replica, args=(number,)))
