"""SWAT's products by the native kernels, beside the masked ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from swat_tf import swat_scope
from topkast_tf.kernels import library as kernels

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


def network():
    return keras.Sequential(
        [
            keras.Input((5, 5, 12)),
            keras.layers.Conv2D(16, 1, strides=2, activation="relu"),
            keras.layers.Conv2D(14, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(12, 2, activation="relu"),
            keras.layers.Conv2D(12, 3, strides=2, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(70, activation="relu"),
            keras.layers.Dense(9),
        ]
    )


def of_swat(kernels, **arguments):
    keras.utils.set_random_seed(0)
    with swat_scope(0.8, kernels=kernels, **arguments):
        return network()


def beside_topkast(kernels):
    keras.utils.set_random_seed(0)
    with tk.topkast_scope(0.8, 0.6, kernels=kernels), swat_scope(0.8):
        return network()


def fitted(model):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5, 5, 12)), rng.normal(size=(60, 9))
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    model.fit(x, y, batch_size=20, epochs=2, shuffle=False, verbose=0)
    return model


def assert_trained_alike(masked, native):
    assert {w.kernels.kernels for w in tk.sparse_weights(native)} == {"native"}
    for one, other in zip(
        tk.sparse_weights(masked), tk.sparse_weights(native), strict=True
    ):
        np.testing.assert_array_equal(one.forward_mask(), other.forward_mask())
        np.testing.assert_allclose(one.dense(), other.dense(), atol=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"storage": "packed"},
        *(
            pytest.param(arguments, marks=pytest.mark.slow)
            for arguments in (
                {"activations": 0.95, "updates": "masked"},
                {"forward": ("weights", "activations")},
                {"distribution": "momentum"},
            )
        ),
        pytest.param({"topk_period": 3}, marks=pytest.mark.slow),
        pytest.param({"activations": 0.0}, marks=pytest.mark.slow),
        pytest.param({"errors": 0.5}, marks=pytest.mark.slow),
        pytest.param({"activations_per": "sample"}, marks=pytest.mark.slow),
        pytest.param({"structured": "channel"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_trains_as_with_masked_products(arguments):
    masked, native = (fitted(of_swat(k, **arguments)) for k in ("masked", "native"))
    assert_trained_alike(masked, native)


def test_beside_topkast_trains_as_with_masked_products():
    assert_trained_alike(*(fitted(beside_topkast(k)) for k in ("masked", "native")))


def test_gradient_is_computed_from_sparse_activations():
    """In the graph: without this, the product would be dense."""
    model = fitted(of_swat("native"))
    x = np.zeros((20, 5, 5, 12), np.float32)

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True))
        return tape.gradient(loss, model.trainable_variables)

    graph = gradients.get_concrete_function(tf.constant(x)).graph
    types = [op.type for op in graph.get_operations()]
    # All but that of the convolution with a stride.
    assert types.count("TopkastSparseActivationGradient") == 5
    assert types.count("Conv2DBackpropFilter") == 1
    assert "TopkastSparseWeightGradient" not in types
    assert "TopkastSparseConvWeightGradient" not in types


def test_weights_that_are_dense_in_a_pass_have_no_native_kernel():
    with pytest.raises(ValueError, match="no native kernel for these operands"):
        fitted(of_swat("native", backward=("activations",)))


def test_inner_scope_takes_the_kernels_of_the_outer_one():
    with pytest.raises(ValueError, match="`kernels` as an argument of the outer scope"):
        with tk.topkast_scope(0.8, 0.6, kernels="masked"):
            with swat_scope(0.8, kernels="native"):
                pass
