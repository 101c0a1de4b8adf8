"""Sums gradients over replicas, only for the entries that an update can use.

The gradient of a sparse weight is zero on C, and its update is masked by B. So the sum
over replicas, which sends gradients between devices or machines, needs only the entries
of B. Those of all sparse weights are packed in one vector, followed by the gradients of
dense weights. One collective operation sums it, and its entries are scattered back.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.core.sets import RESERVOIR
from topkast_tf.methods.base import Method
from topkast_tf.variables.lookup import sparse_weights
from topkast_tf.variables.replica import local_replica
from topkast_tf.variables.steps import REDUCED


class Bytes(NamedTuple):
    """The size of the sum over replicas in one step, in bytes.

    Attributes:
      packed: of the vectors of `pack_gradients`.
      dense: of the whole gradient.
    """

    packed: int
    dense: int


class Packed(NamedTuple):
    """Gradients packed into vectors.

    Attributes:
      vectors: dtype -> the entries, a tensor whose size is the same at each step.
      places: for each gradient the indices of its entries in the flat weight, or None
        for all of it.
      like: for each gradient its shape and dtype; None where there is no gradient.
    """

    vectors: dict[tf.DType, tf.Tensor]
    places: list[tf.Tensor | None]
    like: list[tuple[tf.TensorShape, tf.DType] | None]


def capacity(variable: Any) -> int | None:
    """The maximum number of sent entries of a variable's gradient; None for all.

    All entries of a dense weight are sent, and of a sparse one in which every entry is
    updated (SWAT), whose slots need the whole gradient (SNFS), or of which the size of B
    is not known beforehand (masked updates with thresholds used for several steps, a budget
    that follows the momentum, a sparsity that grows). Otherwise
    ``kept(n, bwd)``; for blocks the most entries that the kept ones can have.

    Args:
      variable: a trainable variable, sparse or not.
    """
    replica = local_replica(variable)
    if replica is None:
        return None
    weight = replica.weight
    if weight.exempt or weight.packed is not None or _varies(weight.method):
        return None
    sent = weight.most_in_b
    # With a shared budget any weight may get more than planned.
    return sent if sent < math.prod(weight.shape) or len(weight.peers()) > 1 else None


def _varies(method: Method) -> bool:
    return method.dense_updates or method.dense_slots or method.varying_counts


def pack_gradients(
    gradients: Sequence[tf.Tensor | None], of: Sequence[Any], packed: bool = True
) -> Packed:
    """Packs gradients into vectors, those of sparse weights without C.

    Each replica reads its own current sets; they are the same on all. A shared budget
    moves entries between weights but keeps their total, so that the vector has a fixed
    size; entries that are missing, as after `stop_exploring_at`, are zeros behind those
    of the sparse weights.

    Args:
      gradients: a gradient for each variable, or None.
      of: the trainable variables.
      packed: if false, all entries are taken.

    Returns:
      The `Packed`, with one vector per dtype.

    >>> from topkast_tf import topkast_scope
    >>> with topkast_scope(fwd=0.75, bwd=0.5):
    ...     w = tf.Variable([[4.0, 3.0], [2.0, 1.0]], name="w")
    >>> found = pack_gradients([tf.constant([[5.0, 6.0], [0.0, 0.0]])], [w])
    >>> found.vectors[tf.float32].numpy()
    array([5., 6.], dtype=float32)
    >>> unpack_gradients(found)[0].numpy()
    array([[5., 6.],
           [0., 0.]], dtype=float32)
    """
    places: list[tf.Tensor | None] = []
    like: list[tuple[tf.TensorShape, tf.DType] | None] = []
    pieces: dict[tf.DType, list[tf.Tensor]] = {}
    dense: dict[tf.DType, list[tf.Tensor]] = {}
    sizes: dict[tf.DType, int] = {}
    for gradient, variable in zip(gradients, of, strict=True):
        if gradient is None:
            places.append(None)
            like.append(None)
            continue
        gradient = tf.convert_to_tensor(gradient)
        like.append((gradient.shape, gradient.dtype))
        flat = tf.reshape(gradient, [-1])
        limit = capacity(variable) if packed else None
        if limit is None:
            places.append(None)
            dense.setdefault(gradient.dtype, []).append(flat)
            continue
        sets = local_replica(variable).sets.read_value()
        backward = tf.not_equal(tf.reshape(sets, [-1]), RESERVOIR)
        places.append(tf.where(backward)[:, 0])
        pieces.setdefault(gradient.dtype, []).append(tf.gather(flat, places[-1]))
        sizes[gradient.dtype] = sizes.get(gradient.dtype, 0) + limit
    vectors = {}
    for dtype in {**pieces, **dense}:
        parts = dense.get(dtype, [])
        if dtype in pieces:
            entries = tf.concat(pieces[dtype], 0)
            # If there are more entries than the capacity, this fails and sends nothing.
            entries = tf.pad(entries, [[0, sizes[dtype] - tf.size(entries)]])
            parts = [tf.ensure_shape(entries, [sizes[dtype]]), *parts]
        vectors[dtype] = tf.concat(parts, 0)
    return Packed(vectors, places, like)


def unpack_gradients(packed: Packed) -> list[tf.Tensor | None]:
    """The inverse of `pack_gradients`; zero where nothing was taken.

    Args:
      packed: with vectors of the same sizes, possibly with other values.
    """
    starts: dict[tf.DType, Any] = {}
    found: list[tf.Tensor | None] = [None] * len(packed.like)
    for takes_all in (False, True):  # first the sparse ones, in order
        for dtype in packed.vectors:
            if takes_all:
                starts[dtype] = _first_dense(packed, dtype)
            else:
                starts[dtype] = tf.constant(0, tf.int32)
        for index, (place, like) in enumerate(
            zip(packed.places, packed.like, strict=True)
        ):
            if like is None or (place is None) != takes_all:
                continue
            shape, dtype = like
            count = shape.num_elements() if place is None else tf.size(place)
            start = starts[dtype]
            entries = packed.vectors[dtype][start : start + count]
            starts[dtype] = start + count
            if place is not None:
                size = tf.constant([shape.num_elements()], tf.int64)
                entries = tf.scatter_nd(place[:, None], entries, size)
            found[index] = tf.reshape(entries, shape)
    return found


def _first_dense(packed: Packed, dtype: tf.DType) -> int:
    """The index at which the gradients with all entries start."""
    dense = sum(
        like[0].num_elements()
        for place, like in zip(packed.places, packed.like, strict=True)
        if like is not None and place is None and like[1] == dtype
    )
    return packed.vectors[dtype].shape[0] - dense


def all_reduce_gradients(
    gradients: Sequence[tf.Tensor | None], of: Sequence[Any], packed: bool = True
) -> list[tf.Tensor | None]:
    """Sums gradients over all replicas, by one collective operation per dtype.

    ``g_i = sum over replicas of g_i if i in B, else 0``. For two replicas the entries of
    B equal the dense sum bitwise; for more they may differ from it by rounding, as the
    order in which a collective adds depends on the position in the vector. With one
    replica the gradients are returned unchanged.

    Call it on each replica, between the backward pass and the optimizer, which must not
    sum again (`leave_reduced`).

    Args:
      gradients: a replica's gradient for each variable, or None.
      of: the trainable variables.
      packed: if false, all entries are summed.
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise ValueError(
            "Expected a call on each replica, within `strategy.run`. "
            "Received: a call from outside"
        )
    if context.num_replicas_in_sync == 1:
        return list(gradients)
    found = pack_gradients(gradients, of, packed)
    dtypes = sorted(found.vectors, key=lambda dtype: dtype.name)
    # No hints are needed: there is one vector per dtype.
    summed = [
        context.all_reduce(tf.distribute.ReduceOp.SUM, found.vectors[dtype])
        for dtype in dtypes
    ]
    return unpack_gradients(
        found._replace(vectors=dict(zip(dtypes, summed, strict=True)))
    )


def leave_reduced(optimizer: Any) -> None:
    """Makes an optimizer use gradients unchanged, as already summed over replicas.

    Keras's optimizers sum gradients over the replicas after they have clipped them. After
    this call they clip the sum, by its own norm.

    Args:
      optimizer: a Keras 3 optimizer; changed in place, permanently.

    Raises:
      NotImplementedError: for an optimizer that does not sum by the known method.
    """
    if not compat.sums_over_replicas(optimizer):
        raise NotImplementedError(
            "Expected an optimizer of Keras 3 on TensorFlow, whose own reduction can be "
            f"disabled. Received: {type(optimizer).__module__}."
            f"{type(optimizer).__name__}"
        )
    compat.take_gradients_as_they_are(optimizer)
    setattr(optimizer, REDUCED, True)


def needs_all(model: Any) -> bool:
    """Whether the next step uses the gradient outside B, so that all of it is summed.

    If so, call `all_reduce_gradients` with ``packed=False``: a method such as RigL grows
    where the gradient of the whole batch is largest. Call this before the step, from
    Python.

    Args:
      model: a built Keras model.
    """
    return any(weight.looks_at_gradient for weight in sparse_weights(model))


def bytes_reduced(model: Any) -> Bytes:
    """The size of each replica's part in the sum of gradients, per step. Counted.

    In a ring of N replicas, each sends and receives ``2 (N - 1) / N`` of it.

    Args:
      model: a built Keras model.

    >>> import keras
    >>> from topkast_tf import topkast_scope
    >>> with topkast_scope(fwd=0.9, bwd=0.8):
    ...     model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(5)])
    >>> bytes_reduced(model)  # 20 of 100 entries of the kernel, 5 biases, 4 bytes each
    Bytes(packed=100, dense=420)
    """
    for weight in sparse_weights(model):
        weight.prepare()
    packed = dense = 0
    for variable in model.trainable_variables:
        each = tf.as_dtype(variable.dtype).size
        size = math.prod(variable.shape)
        limit = capacity(variable)
        packed += each * (size if limit is None else limit)
        replica = local_replica(variable)
        # Of a packed weight the variable is the vector of its entries in B.
        whole = size if replica is None else math.prod(replica.weight.shape)
        dense += each * whole
    return Bytes(packed, dense)
