"""Packed gradients: packing, unpacking, and the sum over two replicas."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from swat_tf import swat_scope
from tests import zoo
from topkast_tf import gradients as reduction

SCOPES = {
    "topkast": lambda: tk.topkast_scope(0.8, 0.6),
    "random": lambda: tk.topkast_scope(0.8, 0.6, backward="random"),
    "global": lambda: tk.topkast_scope(0.8, 0.6, distribution="global"),
    "blocks": lambda: tk.topkast_scope(0.8, 0.6, block=(3, 5)),
    "stopped": lambda: tk.topkast_scope(0.8, 0.6, stop_exploring_at=1),
    "exempt": lambda: tk.topkast_scope(0.8, 0.6, exempt="last"),
    "swat": lambda: swat_scope(0.8),
    "masked": lambda: swat_scope(0.8, updates="masked"),
    "filters": lambda: swat_scope(0.8, updates="masked", structured="filter"),
    "stale": lambda: swat_scope(0.8, updates="masked", topk_period=3),
}
PACKS = set(SCOPES) - {"swat", "stale"}


def build(method):
    keras.utils.set_random_seed(1)
    with SCOPES[method]():
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Conv2D(7, 3, activation="relu"),
                keras.layers.Flatten(),
                keras.layers.Dense(10),
            ]
        )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def masked(gradient, variable):
    """The gradient on B, and zero outside."""
    found = [w for w in tk.sparse_weights([variable]) if not w.method.dense_updates]
    return gradient * found[0].backward_mask() if found else gradient


@pytest.mark.parametrize("method", SCOPES)
def test_unpacked_is_the_gradient_on_b_and_zero_elsewhere(method, digits):
    model = build(method)
    x, y = digits
    model.fit(x[:64], y[:64], batch_size=32, verbose=0)
    random = np.random.default_rng(0)
    of = model.trainable_variables
    gradients = [random.normal(size=v.shape).astype("float32") for v in of]
    for packed in (True, False):
        found = reduction.pack_gradients(
            [tf.constant(g) for g in gradients], of, packed
        )
        back = reduction.unpack_gradients(found)
        for ours, given, variable in zip(back, gradients, of, strict=True):
            sends_less = packed and reduction.capacity(variable) is not None
            expected = masked(given, variable) if sends_less else given
            np.testing.assert_array_equal(ours, expected)
    sizes = reduction.bytes_reduced(model)
    assert (sizes.packed < sizes.dense) == (method in PACKS)


@pytest.mark.parametrize("method", SCOPES)
def test_reported_bytes_equal_the_packed_vector(method):
    model = build(method)
    of = model.trainable_variables
    found = reduction.pack_gradients([tf.ones(v.shape) for v in of], of)
    sizes = reduction.bytes_reduced(model)
    assert sizes.packed == 4 * found.vectors[tf.float32].shape[0]
    assert sizes.dense == 4 * sum(math.prod(v.shape) for v in of)


def test_missing_gradients_and_dtypes_are_preserved():
    of = [tf.Variable([1.0, 2.0]), tf.Variable(3.0), tf.Variable(4.0, dtype=tf.float64)]
    found = reduction.pack_gradients(
        [tf.constant([5.0, 6.0]), None, tf.constant(7.0, tf.float64)], of
    )
    assert {dtype.name for dtype in found.vectors} == {"float32", "float64"}
    first, second, third = reduction.unpack_gradients(found)
    assert first.numpy().tolist() == [5.0, 6.0]
    assert second is None
    assert third.numpy() == 7.0 and third.dtype == tf.float64


@pytest.mark.parametrize("method", ["topkast", "global", "blocks", "swat"])
def test_sum_of_two_replicas_equals_the_dense_sum_bitwise(method, digits):
    strategy = zoo.two_devices()
    with strategy.scope():
        model = build(method)
    of = model.trainable_variables
    random = np.random.default_rng(0)
    halves = [
        [random.normal(size=v.shape).astype("float32") for v in of] for _ in range(2)
    ]

    @tf.function
    def summed(packed):
        def replica():
            index = tf.distribute.get_replica_context().replica_id_in_sync_group
            own = [
                tf.constant(np.stack(pair))[index] for pair in zip(*halves, strict=True)
            ]
            return reduction.all_reduce_gradients(own, of, packed)

        return [strategy.experimental_local_results(v) for v in strategy.run(replica)]

    for sums, *pair, variable in zip(summed(True), *halves, of, strict=True):
        total = pair[0] + pair[1]
        if reduction.capacity(variable) is not None:
            [weight] = tk.sparse_weights([variable])
            total = total * weight.backward_mask()
        for ours in sums:
            assert ours.numpy().tobytes() == (total + 0.0).tobytes()


def test_all_reduce_outside_a_replica_is_refused():
    with (
        zoo.two_devices().scope(),
        pytest.raises(ValueError, match="within `strategy.run`"),
    ):
        reduction.all_reduce_gradients([], [])


def test_unsupported_optimizer_is_refused():
    with pytest.raises(NotImplementedError, match="Received: builtins.object"):
        reduction.leave_reduced(object())
