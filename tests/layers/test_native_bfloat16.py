"""Layers with native kernels under mixed precision: bfloat16 beside float32 variables."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import topkast_tf as tk
from swat_tf import swat_scope
from tests.kernels.common import tensorflow_rounds_bfloat16_once
from tests.layers.test_native import CASES, layer_in_scope, output_and_gradients
from topkast_tf.kernels import library as kernels

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)
MIXED = {"dtype": "mixed_bfloat16"}
TO_MASKED = pytest.mark.skipif(
    not tensorflow_rounds_bfloat16_once(),
    reason="the masked product is rounded more than once",
)


def assert_few_roundings(found, expected):
    """Equal up to two units in the last place of bfloat16, of the largest around."""
    found, expected = (tf.cast(v, tf.float32).numpy() for v in (found, expected))
    np.testing.assert_allclose(
        found, expected, rtol=2.0**-6, atol=2.0**-8 * np.abs(expected).max(initial=0)
    )


@TO_MASKED
@pytest.mark.parametrize(("name", "shape", "arguments"), CASES)
@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_native_layer_equals_masked(library, name, shape, arguments):
    if library is tf_keras and name in ("Conv1D", "Conv3D"):
        pytest.skip("masked in tf_keras")
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    masked, native = (
        layer_in_scope(library, name, {**arguments, **MIXED}, shape, kernels)
        for kernels in ("masked", "native")
    )
    expected, found = output_and_gradients(masked, x), output_and_gradients(native, x)
    [weight] = tk.sparse_weights(native)
    assert weight.kernels == ("native", "asked for")
    assert found[0].dtype == tf.bfloat16
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert_few_roundings(ours, theirs)
    np.testing.assert_array_equal(np.asarray(found[2])[~weight.backward_mask()], 0)


def test_what_keras_does_with_the_dtypes():
    """Alpha is rounded, then multiplied; the gradient of theta is float32."""
    arguments = {"units": 9, **MIXED}
    layer = layer_in_scope(keras, "Dense", arguments, (None, 12), "native")
    layer.bias.assign(tf.zeros([9]))
    layer.kernel.assign(1 + 2.0**-9 + tf.zeros([12, 9]))
    tk.sparse_weights(layer)[0].set_masks(np.ones((12, 9), bool))
    with tf.GradientTape() as tape:
        y = layer(tf.ones([257, 12]))
    assert y.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(y, tf.float32), np.full((257, 9), 12.0))
    gradient = tape.gradient(y, layer.kernel.value)
    assert gradient.dtype == tf.float32
    # 257 is no bfloat16: the masked product, whose gradient is cast, gives 256.
    np.testing.assert_array_equal(gradient, np.full((12, 9), 257.0))


@pytest.mark.parametrize(
    ("dtype", "why"),
    [
        ("bfloat16", "variables in float32, and its weight is in bfloat16"),
        ("mixed_float16", "float32 or bfloat16, and it computes in float16"),
        ("float16", "variables in float32, and its weight is in float16"),
    ],
)
@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [
        ("Dense", (5, 12), {"units": 9}),
        ("Conv2D", (3, 7, 5, 6), {"filters": 8, "kernel_size": 3}),
    ],
)
def test_other_dtypes_are_masked(dtype, why, name, shape, arguments):
    arguments = {**arguments, "dtype": dtype}
    x = np.zeros(shape, "float32")
    layer = layer_in_scope(keras, name, arguments, shape, "native")
    with pytest.raises(ValueError, match=why):
        layer(x)
    layer = layer_in_scope(keras, name, arguments, shape, "auto")
    layer(x)
    assert why in tk.sparse_weights(layer)[0].kernels.why
    assert "masked" in str(tk.summary(layer))


def test_input_of_another_dtype_is_masked():
    layer = layer_in_scope(
        keras, "Dense", {"units": 9, "autocast": False, **MIXED}, (5, 12), "auto"
    )
    layer(np.zeros((5, 12), "float32"))
    why = tk.sparse_weights(layer)[0].kernels.why
    assert "computes in bfloat16 from float32" in why


@TO_MASKED
@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_swat(kind):
    """Its weight gradient from the entries of sparse activations."""
    rng = np.random.default_rng(0)
    made = []
    for kernels_ in ("masked", "native"):
        keras.utils.set_random_seed(0)
        with swat_scope(0.7, kernels=kernels_, exempt=()):
            if kind == "dense":
                layer = keras.layers.Dense(40, **MIXED)
                x = rng.normal(size=(30, 50)).astype("float32")
            else:
                layer = keras.layers.Conv2D(9, 3, padding="same", **MIXED)
                x = rng.normal(size=(3, 7, 5, 6)).astype("float32")
            layer.build(x.shape)
        made.append(layer)
    x = np.random.default_rng(1).normal(size=x.shape).astype("float32")
    expected, found = (output_and_gradients(layer, x) for layer in made)
    assert tk.sparse_weights(made[1])[0].kernels.kernels == "native"
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert_few_roundings(ours, theirs)


def test_fit_learns_and_resumes_bitwise(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8, 8, 3)).astype("float32")
    labels = (x.mean((1, 2)) @ rng.normal(size=(3, 4))).argmax(-1)

    def build():
        keras.utils.set_random_seed(0)
        with tk.topkast_scope(0.7, 0.4, refresh_every=3, kernels="native"):
            model = keras.Sequential(
                [
                    keras.Input((8, 8, 3)),
                    keras.layers.Conv2D(16, 3, activation="relu", **MIXED),
                    keras.layers.Flatten(),
                    keras.layers.Dense(32, activation="relu", **MIXED),
                    keras.layers.Dense(4, **MIXED),
                    keras.layers.Activation("linear", dtype="float32"),
                ]
            )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(3e-3), loss)
        model.optimizer.build(model.trainable_variables)
        return model

    how = {"batch_size": 32, "shuffle": False, "verbose": 0}
    whole = build()
    losses = whole.fit(x, labels, epochs=4, **how).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    assert {w.kernels.kernels for w in tk.sparse_weights(whole)} == {"native"}
    assert {v.dtype for v in whole.trainable_variables} == {"float32"}
    first = build()
    first.fit(x, labels, epochs=2, **how)
    first.save_weights(tmp_path / "half.weights.h5")
    second = build()
    second.load_weights(tmp_path / "half.weights.h5")
    second.fit(x, labels, epochs=2, **how)
    for one, other in zip(whole.weights, second.weights, strict=True):
        np.testing.assert_array_equal(one, other)
