"""Layers with native kernels compute and train as those with the masked product."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import topkast_tf as tk
from topkast_tf.kernels import library as kernels
from topkast_tf.layers import native
from topkast_tf.layers.products import einsum_as_matrix

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)

IMAGES = (3, 7, 5, 6)
CASES = [
    ("Dense", (5, 12), {"units": 9}),
    ("Dense", (2, 3, 4, 12), {"units": 9, "activation": "relu"}),
    (
        "EinsumDense",
        (2, 3, 6),
        {"equation": "abc,cde->abde", "output_shape": (3, 4, 5)},
    ),
    (
        "EinsumDense",
        (2, 3, 4, 5),
        {"equation": "abcd,cde->abe", "output_shape": (3, 6), "bias_axes": "e"},
    ),
    # Even sizes: with AMX TensorFlow's own bfloat16 product is wrong here for odd ones
    # below 32 (docs/limits.md).
    ("EinsumDense", (2, 3, 6), {"equation": "...x,xy->...y", "output_shape": 8}),
    ("Conv1D", (3, 9, 6), {"filters": 8, "kernel_size": 1, "padding": "causal"}),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 1}),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 1, "strides": (2, 3)}),
    (
        "Conv2D",
        IMAGES,
        {"filters": 8, "kernel_size": 1, "strides": 2, "padding": "same"},
    ),
    ("Conv3D", (2, 3, 2, 2, 6), {"filters": 8, "kernel_size": 1}),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 3}),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": (3, 2), "strides": (2, 3)}),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 3, "padding": "same"}),
    (
        "Conv2D",
        IMAGES,
        {"filters": 8, "kernel_size": (1, 5), "strides": 2, "padding": "same"},
    ),
    (
        "Conv2D",
        IMAGES,
        {"filters": 8, "kernel_size": 3, "dilation_rate": (2, 1), "padding": "same"},
    ),
    ("Conv2D", IMAGES, {"filters": 8, "kernel_size": 1, "groups": 2}),
    ("Conv2D", IMAGES, {"filters": 9, "kernel_size": 3, "groups": 3, "strides": 2}),
    (
        "Conv2D",
        IMAGES,
        {"filters": 12, "kernel_size": 3, "groups": 6, "padding": "same"},
    ),
    (
        "Conv1D",
        (3, 9, 6),
        {"filters": 8, "kernel_size": 3, "groups": 2, "padding": "causal"},
    ),
    ("Conv1D", (3, 9, 6), {"filters": 8, "kernel_size": 3, "activation": "relu"}),
    (
        "Conv1D",
        (3, 9, 6),
        {"filters": 8, "kernel_size": 4, "strides": 2, "padding": "same"},
    ),
    (
        "Conv1D",
        (3, 9, 6),
        {"filters": 8, "kernel_size": 3, "dilation_rate": 2, "padding": "causal"},
    ),
    (
        "Conv1D",
        (3, 9, 6),
        {"filters": 8, "kernel_size": 3, "strides": 2, "padding": "causal"},
    ),
]


def layer_in_scope(library, name, arguments, shape, kernels):
    with tk.topkast_scope(0.7, 0.4, kernels=kernels):
        layer = getattr(library.layers, name)(
            **arguments, kernel_initializer="glorot_normal", bias_initializer="ones"
        )
        layer.build(shape)
    values = np.random.default_rng(1).normal(size=layer.kernel.shape)
    layer.kernel.assign(values.astype("float32"))
    return layer


def output_and_gradients(layer, x):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(tf.sin(y))
    return y, *tape.gradient(loss, [x, *_raw(layer)])


def _raw(layer):
    return [getattr(v, "_value", v) for v in layer.trainable_variables]


@pytest.mark.parametrize(("name", "shape", "arguments"), CASES)
@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_native_layer_equals_masked(library, name, shape, arguments):
    if library is tf_keras and name in ("Conv1D", "Conv3D"):
        pytest.skip("masked in tf_keras")
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    masked, native = (
        layer_in_scope(library, name, arguments, shape, kernels)
        for kernels in ("masked", "native")
    )
    expected, found = output_and_gradients(masked, x), output_and_gradients(native, x)
    [weight] = tk.sparse_weights(native)
    assert weight.kernels == ("native", "asked for")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(found[2])[~weight.backward_mask()], 0)
    np.testing.assert_array_equal(
        native(x[:0]).shape, [0, *tuple(expected[0].shape)[1:]]
    )


@pytest.mark.parametrize(
    ("name", "shape", "arguments", "why"),
    [
        (
            "Conv3D",
            (2, 3, 4, 4, 6),
            {"filters": 8, "kernel_size": 3},
            r"window \(3, 3, 3\)",
        ),
        (
            "Conv2D",
            IMAGES,
            {"filters": 8, "kernel_size": 3, "data_format": "channels_first"},
            "Conv2D",
        ),
        (
            "Conv2D",
            IMAGES,
            {"filters": 8, "kernel_size": 3, "dtype": "mixed_float16"},
            "float16",
        ),
        (
            "EinsumDense",
            (2, 3, 6),
            {"equation": "abc,dc->abd", "output_shape": (3, 7)},
            "EinsumDense",
        ),
        ("Dense", (5, 12), {"units": 9, "dtype": "mixed_float16"}, "float16"),
        ("Dense", (5, 12), {"units": 9, "dtype": "float64"}, "float64"),
    ],
)
def test_layer_without_native_kernel(name, shape, arguments, why):
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    layer = layer_in_scope(keras, name, arguments, shape, "native")
    with pytest.raises(ValueError, match=f"kernels='native' asks for.*{why}"):
        layer(x)
    layer = layer_in_scope(keras, name, arguments, shape, "auto")
    with contextlib.suppress(tf.errors.UnimplementedError):
        layer(x)  # TensorFlow has convolutions with channels first only with oneDNN
    [weight] = tk.sparse_weights(layer)
    assert weight.kernels.kernels == "masked"


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (keras.layers.LSTM(8), "no rule for the product of LSTMCell"),
        (
            keras.layers.SeparableConv2D(8, 3),
            "no rule for the product of SeparableConv",
        ),
    ],
    ids=["LSTM", "SeparableConv2D"],
)
def test_layer_without_a_product(layer, why):
    shape = (2, 7, 6) if isinstance(layer, keras.layers.LSTM) else (2, 7, 7, 6)
    config = layer.get_config()
    x = tf.zeros(shape)
    with tk.topkast_scope(0.9, 0.8, kernels="native"):
        made = type(layer).from_config(config)
    with pytest.raises(ValueError, match=f"kernels='native' asks for.*{why}"):
        made(x)
    with tk.topkast_scope(0.9, 0.8):
        model = keras.Sequential(
            [keras.Input(shape[1:]), type(layer).from_config(config)]
        )
    model(x)
    found = tk.summary(model)
    assert {row.kernels.split(":")[0] for row in found.rows} == {"masked"}
    assert why in str(found)


@pytest.mark.parametrize("kernels", ["auto", "native"])
def test_module_without_a_product(kernels):
    with tk.topkast_scope(0.9, 0.8, kernels=kernels):
        module = tf.Module()
        module.w = tf.Variable(tf.random.normal([20, 30]))
    if kernels == "native":
        with pytest.raises(ValueError, match="its product is not computed by a layer"):
            tf.matmul(tf.ones([1, 20]), module.w)
        return
    tf.matmul(tf.ones([1, 20]), module.w)
    assert tk.sparse_weights(module)[0].kernels.kernels == "masked"


@pytest.mark.parametrize(("name", "shape", "arguments"), CASES[1:-1:8])
def test_forward_mode_in_a_function(name, shape, arguments):
    x = tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)

    @tf.function
    def derivative(layer, x):
        with tf.autodiff.ForwardAccumulator(x, tf.cos(x)) as forward:
            y = layer(x)
        return forward.jvp(y)

    expected, found = (
        derivative(layer_in_scope(keras, name, arguments, shape, kernels), x)
        for kernels in ("masked", "native")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_enormous_strides_are_masked():
    arguments = {"filters": 2, "kernel_size": 3, "strides": 300, "padding": "same"}
    layer = layer_in_scope(keras, "Conv2D", arguments, (1, 2, 2, 3), "auto")
    layer(tf.ones([1, 2, 2, 3]))
    assert "strides" in tk.sparse_weights(layer)[0].kernels.why


def test_dense_gradients_of_groups_are_masked():
    with tk.sparse_scope("rigl", sparsity=0.5, update_until=9, kernels="auto"):
        layer = keras.layers.Conv2D(8, 3, groups=2)
    layer(tf.ones([3, 7, 5, 6]))
    [weight] = tk.sparse_weights(layer)
    assert "dense gradient of a grouped convolution" in weight.kernels.why


@pytest.mark.parametrize("size", [1, 2])
def test_strides_with_a_further_batch_axis_are_masked(size):
    x = np.ones((2, 3, 8, 8, 6), np.float32)
    arguments = {"filters": 8, "kernel_size": size, "strides": 2}
    layer = layer_in_scope(tf_keras, "Conv2D", arguments, (2, 3, 8, 8, 6), "auto")
    assert layer(x).shape == (2, 3, 4, 4, 8)


def test_input_of_another_width_is_refused_as_by_keras():
    arguments = {"equation": "bc,cd->bd", "output_shape": 9}
    layer = layer_in_scope(keras, "EinsumDense", arguments, (5, 12), "auto")
    function = tf.function(layer, input_signature=[tf.TensorSpec([None, 24])])
    with pytest.raises(ValueError, match="12.*24|24.*12"):
        function(tf.ones([4, 24]))


def test_given_weights_and_dense_reads_take_the_masked_product(monkeypatch):
    monkeypatch.setattr(native, "_speedup", lambda *args: 2.0)
    layer = layer_in_scope(keras, "Dense", {"units": 9}, (None, 60), "auto")
    x = tf.random.normal([20, 60])
    layer(x)
    [weight] = tk.sparse_weights(layer)
    assert weight.kernels.kernels == "native"
    given = [v.value * 2 for v in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(given)
        with keras.StatelessScope(
            list(zip(layer.trainable_variables, given, strict=True))
        ):
            y = layer(x)
    assert tape.gradient(y, given)[0] is not None
    assert "StatelessScope" in weight.kernels.why
    with tk.dense_reads():
        y = layer(x)
    np.testing.assert_allclose(y - layer.bias, x @ weight.dense(), atol=1e-3)
    # Outside of `__call__` a kernel reads as theta, too.
    y = layer.call(x)
    np.testing.assert_allclose(y - layer.bias, x @ weight.dense(), atol=1e-3)


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        ("abc,cd->abd", (1, 1)),
        ("abc,cde->abde", (1, 1)),
        ("abcd,cde->abe", (2, 2)),
        ("...x,xy->...y", (1, 1)),
        ("ab,bc->ac", (1, 1)),
        ("abc,dc->abd", None),  # transposed kernel
        ("abcd,dce->abe", None),  # other order
        ("abc,cd->adb", None),  # transposed output
        ("abc,bcd->abd", None),  # an axis of both
        ("abc,bd->acd", None),  # not the last axis
        ("bb,bbc->c", None),  # a diagonal
    ],
)
def test_einsums_that_are_products_of_matrices(equation, expected):
    found = einsum_as_matrix(equation)
    assert (found and found[:2]) == expected
