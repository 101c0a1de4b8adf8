"""Outputs of layers in a SWAT scope; whole models that train and are restored."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from swat_tf import swat_scope
from tests import zoo
from tests.swat import swat_oracle as oracle
from tests.swat.swat_models import build, build_to_train

# How many kernels SWAT makes sparse; it leaves those without a rule dense.
KERNELS = {
    **zoo.KERNELS,
    zoo.own_layer: 0,
    zoo.convolutions: 8,  # not the two of SeparableConv2D
    zoo.recurrent: 1,
}
BUILDERS = pytest.mark.parametrize(
    "builder", [b for b in KERNELS if KERNELS[b]], ids=lambda b: b.__name__
)
_QUICK = (zoo.sequential, zoo.attention, zoo.Subclassed)  # the others: slow
TRAINED = pytest.mark.parametrize(
    "builder",
    [
        pytest.param(b, marks=[] if b in _QUICK else [pytest.mark.slow])
        for b in KERNELS
        if KERNELS[b]
    ],
    ids=lambda b: b.__name__,
)


@BUILDERS
def test_forward_pass_equals_a_dense_model_with_the_largest_weights(builder):
    inputs = zoo.images(builder)
    model = build(builder)
    found = model(inputs).numpy()
    assert len(tk.sparse_weights(model)) == KERNELS[builder]
    expected = zoo.dense_twin(builder, model, inputs)(inputs).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)
    for weight in tk.sparse_weights(model):
        np.testing.assert_array_equal(
            weight.forward_mask(), oracle.mask(weight.dense(), 0.9)
        )
    np.testing.assert_allclose(
        tk.strip(model)(inputs).numpy(), expected, rtol=1e-5, atol=1e-6
    )


@TRAINED
def test_all_weights_are_updated_and_the_model_is_restored(builder, tmp_path):
    inputs, labels = zoo.images(builder), zoo.labels()
    model = build(builder, topk_period=2)
    model(inputs)
    before = {w.path: w.dense() for w in tk.sparse_weights(model)}
    model.fit(inputs, labels, batch_size=4, epochs=2, verbose=0)
    for weight in tk.sparse_weights(model):
        assert weight.step == 4
        moved = weight.dense() != before[weight.path]
        assert np.any(moved & ~weight.forward_mask()), weight.path
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(inputs, verbose=0), loaded.predict(inputs, verbose=0)
    )
    for one, other in zip(
        tk.sparse_weights(model), tk.sparse_weights(loaded), strict=True
    ):
        np.testing.assert_array_equal(one.codes(), other.codes())
        assert one.rule == other.rule and one.step == other.step


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Dense(5), (7,)),
        (layers.Dense(5, use_bias=False), (3, 7)),
        (layers.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"), (3, 7)),
        (layers.Conv1D(5, 3, padding="causal", dilation_rate=2), (9, 4)),
        (layers.Conv2D(6, 3, strides=2, padding="same"), (8, 8, 4)),
        (layers.Conv2D(6, 3, dilation_rate=2, use_bias=False), (8, 8, 4)),
        (layers.Conv2D(6, 3, groups=2), (8, 8, 4)),
        (layers.Conv3D(3, 2), (4, 4, 4, 2)),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (6, 6, 3)),
        (layers.DepthwiseConv1D(3), (6, 3)),
        (layers.Conv2DTranspose(4, 3, strides=2, padding="same"), (5, 5, 3)),
        (layers.Conv1DTranspose(4, 3, output_padding=1, strides=2), (5, 3)),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_each_layer_against_its_dense_twin_with_sparse_operands(layer, shape):
    """y = f(a, w~), da = f'(w~) dy, dw = f'(a~) dy, db = the plain sum."""
    with swat_scope(0.7, activations=0.5):
        ours = layer.from_config(layer.get_config())
    twin = layer.from_config(layer.get_config())
    random = np.random.default_rng(0)
    a = tf.constant(random.standard_normal((4, *shape)), tf.float32)
    ours(a), twin(a)
    if ours.bias is not None:
        ours.bias.assign(random.standard_normal(ours.bias.shape))
        twin.bias.assign(ours.bias)
    [weight] = tk.sparse_weights(ours)

    def run(model, a, kernel):
        kernel = tf.constant(kernel)
        with tf.GradientTape() as tape:
            tape.watch(a)
            y = model(a)
        dy = tf.reshape(tf.sin(tf.range(tf.size(y), dtype=tf.float32)), tf.shape(y))
        variables = [v.value for v in model.trainable_variables]
        return y, tape.gradient(y, [a, *variables], dy)

    y, (da, dw, *db) = run(ours, a, weight.dense())
    twin.kernel.assign(oracle.keep(weight.dense(), 0.7))
    dense_y, (dense_da, _, *dense_db) = run(twin, a, weight.dense())
    _, (_, dense_dw, *_) = run(twin, tf.constant(oracle.keep(a, 0.5)), weight.dense())
    for found, expected in zip(
        (y, da, dw, *db), (dense_y, dense_da, dense_dw, *dense_db), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_masked_updates_keep_inactive_weights_bitwise(digits):
    images, labels = digits
    model = build_to_train(zoo.nested, 0.8, updates="masked", topk_period=100)
    weights = tk.sparse_weights(model)
    before = [(w.dense(), w.forward_mask()) for w in weights]
    model.train_on_batch(images[:32], labels[:32])
    for weight, (theta, active) in zip(weights, before, strict=True):
        moved = weight.dense() != theta
        assert np.any(moved[active]) and not np.any(moved & ~active)


def test_variable_input_is_treated_as_an_activation():
    with swat_scope(0.9):
        layer = keras.layers.Dense(4)
    value = np.random.default_rng(0).standard_normal([1, 8]).astype(np.float32)
    layer(value)

    def reached(inputs):
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(layer(inputs))
        return np.count_nonzero(tape.gradient(y, layer.trainable_variables[0]))

    assert reached(tf.constant(value)) == 4
    assert reached(tf.Variable(value)) == reached(keras.Variable(value)) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        pytest.param({"storage": "packed"}, marks=pytest.mark.slow),
        {"exempt": "first"},
        {"exempt": "first", "storage": "packed"},
        {"activations": 0.5, "errors": 0.5},
        {"forward": (), "backward": ("weights",)},
    ],
    ids=str,
)
def test_sparse_tensor_input_equals_dense_input(arguments):
    random = np.random.default_rng(0)
    values = random.standard_normal([8, 6]).astype(np.float32)
    values[values < 0.3] = 0
    targets = random.standard_normal([8, 3]).astype(np.float32)

    def fitted(sparse):
        keras.utils.set_random_seed(0)
        with swat_scope(0.8, **arguments):
            inputs = keras.Input((6,), sparse=sparse)
            hidden = layers.Dense(5, activation="relu")(inputs)
            model = keras.Model(inputs, layers.Dense(3)(hidden))
        model.compile("sgd", "mse", jit_compile=False)
        given = tf.sparse.from_dense(values) if sparse else tf.constant(values)
        data = tf.data.Dataset.from_tensors((given, targets)).repeat(2)
        model.fit(data, verbose=0)
        return model, model(given)

    (dense, expected), (model, outputs) = fitted(False), fitted(True)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(model.weights, dense.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
