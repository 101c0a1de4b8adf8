"""The sum of gradients over replicas, of those entries alone that an update can use.

The gradient of a sparse weight is zero on C, and its update is masked by B. So a sum
over the replicas, for which their gradients travel between devices or machines, needs
the entries of B only. They are laid one after another, those of all weights in one
vector, after which come the gradients of dense weights; the vector is summed by one
collective operation, and its entries go back to their places.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from topkast_tf import compat
from topkast_tf.core.blocks import Blocks
from topkast_tf.core.sets import RESERVOIR
from topkast_tf.methods.base import Method
from topkast_tf.variables.lookup import sparse_weights
from topkast_tf.variables.replica import local_replica
from topkast_tf.variables.steps import REDUCED


class Bytes(NamedTuple):
    """The size of what replicas sum in one step.

    Attributes:
      packed: of the vectors of `pack_gradients`.
      dense: of the whole gradient.
    """

    packed: int
    dense: int


class Packed(NamedTuple):
    """Gradients laid one after another.

    Attributes:
      vectors: dtype -> the entries, a tensor of a size that is the same at each step.
      places: for each gradient where its entries belong: indices into the flat weight,
        or None for all of it.
      like: for each gradient its shape and dtype; None where there is no gradient.
    """

    vectors: dict[tf.DType, tf.Tensor]
    places: list[tf.Tensor | None]
    like: list[tuple[tf.TensorShape, tf.DType] | None]


def capacity(variable: Any) -> int | None:
    """How many entries of a variable's gradient are sent at most; None: all of them.

    All of a dense weight, and of a sparse one whose every entry is updated (SWAT), or
    whose B has no size that is known beforehand (masked updates with thresholds that
    serve for several steps, a budget that follows the momentum). Otherwise
    ``kept(n, bwd)``; for blocks as many entries as the kept ones can have.

    Args:
      variable: a trainable variable, sparse or not.
    """
    replica = local_replica(variable)
    if replica is None:
        return None
    weight = replica.weight
    if weight.exempt or _varies(weight.method):
        return None
    size = math.prod(weight.shape)
    each = -(-size // weight.units)
    if isinstance(weight.blocks, Blocks):  # those at the edges are smaller
        each = math.prod(weight.blocks.block)
    sent = weight.kept_backward * each
    # Of a common budget any weight may get more than it was planned to have.
    return sent if sent < size or len(weight.peers()) > 1 else None


def _varies(method: Method) -> bool:
    return method.dense_updates or method.varying_counts


def pack_gradients(
    gradients: Sequence[tf.Tensor | None], of: Sequence[Any], packed: bool = True
) -> Packed:
    """Lays gradients one after another, those of sparse weights without C.

    The sets are read as they are, on each replica its own; they are the same on all.
    A common budget moves entries from weight to weight but not their total, so that the
    vector has one size; entries that are missing, as after `stop_exploring_at`, are zeros
    at its end.

    Args:
      gradients: a gradient for each variable, or None.
      of: the trainable variables.
      packed: if false, all entries are taken.

    Returns:
      The `Packed`, with one vector for each dtype.

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
            # Where more come than there is room for, this fails and sends nothing.
            entries = tf.pad(entries, [[0, sizes[dtype] - tf.size(entries)]])
            parts = [tf.ensure_shape(entries, [sizes[dtype]]), *parts]
        vectors[dtype] = tf.concat(parts, 0)
    return Packed(vectors, places, like)


def unpack_gradients(packed: Packed) -> list[tf.Tensor | None]:
    """The gradients of `pack_gradients` again, zero where nothing was taken.

    Args:
      packed: with vectors of the same sizes, which may have other entries.
    """
    starts: dict[tf.DType, Any] = {}
    found: list[tf.Tensor | None] = [None] * len(packed.like)
    for takes_all in (False, True):  # first the sparse ones, in their order
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
    """Where the gradients begin of which all entries were taken."""
    dense = sum(
        like[0].num_elements()
        for place, like in zip(packed.places, packed.like, strict=True)
        if like is not None and place is None and like[1] == dtype
    )
    return packed.vectors[dtype].shape[0] - dense


def all_reduce_gradients(
    gradients: Sequence[tf.Tensor | None], of: Sequence[Any], packed: bool = True
) -> list[tf.Tensor | None]:
    """The sum of the gradients over all replicas, by one collective operation a dtype.

    ``g_i = sum over replicas of g_i if i in B, else 0``. For two replicas the entries of
    B have the bits of the dense sum; for more they may differ from it by rounding, as a
    collective adds the parts of a vector in an order that depends on where they lie.
    With one replica the gradients are returned as they are.

    To be called by each replica, between its backward pass and the optimizer, which is
    not to sum once more (`leave_reduced`).

    Args:
      gradients: a replica's gradient for each variable, or None.
      of: the trainable variables.
      packed: if false, all entries are summed.
    """
    context = tf.distribute.get_replica_context()
    if context is None:
        raise ValueError(
            "Expected a call by each replica, within `strategy.run`. "
            "Received: one from outside"
        )
    if context.num_replicas_in_sync == 1:
        return list(gradients)
    found = pack_gradients(gradients, of, packed)
    dtypes = sorted(found.vectors, key=lambda dtype: dtype.name)
    # Hints are needed neither here nor there: there is one vector a dtype.
    summed = [
        context.all_reduce(tf.distribute.ReduceOp.SUM, found.vectors[dtype])
        for dtype in dtypes
    ]
    return unpack_gradients(
        found._replace(vectors=dict(zip(dtypes, summed, strict=True)))
    )


def leave_reduced(optimizer: Any) -> None:
    """Has an optimizer take gradients as they are, already summed over the replicas.

    Keras's optimizers sum what they are given over the replicas, and do so after they
    have clipped it. With this they clip the sum, by its own norm.

    Args:
      optimizer: of Keras 3; changed in place, for good.

    Raises:
      NotImplementedError: for an optimizer that does not sum in a way that is known.
    """
    if not compat.sums_over_replicas(optimizer):
        raise NotImplementedError(
            "Expected an optimizer of Keras 3 on TensorFlow, whose own reduction can be "
            f"left out. Received: {type(optimizer).__module__}."
            f"{type(optimizer).__name__}"
        )
    compat.take_gradients_as_they_are(optimizer)
    setattr(optimizer, REDUCED, True)


def needs_all(model: Any) -> bool:
    """Whether the next step looks at the gradient outside B, so that all of it is summed.

    `all_reduce_gradients` is then to be called with ``packed=False``: a method such as
    RigL grows where the gradient of the whole batch is largest. To be asked before the
    step, from Python.

    Args:
      model: a built Keras model.
    """
    return any(weight.looks_at_gradient for weight in sparse_weights(model))


def bytes_reduced(model: Any) -> Bytes:
    """The size of what each replica gives to the sum of gradients, a step. Counted.

    A ring of N replicas sends and receives ``2 (N - 1) / N`` of it each.

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
        dense += each * size
        packed += each * (size if limit is None else limit)
    return Bytes(packed, dense)
