"""`compact` by hand: what is folded, what goes together, what stays and why."""

import keras
import numpy as np
import pytest
from keras import layers

import topkast_tf as tk
from tests.compaction.checks import checked, randomized, reasons
from tests.zoo import Subclassed


def test_a_dead_unit_is_folded_into_the_next_bias():
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, activation="relu", name="a"),
            layers.Dense(2, use_bias=False, name="b"),
        ]
    )
    model.layers[0].set_weights(
        [np.array([[1.0, 0, 2], [3, 0, 4]]), np.array([1.0, 0.5, -1])]
    )
    model.layers[1].set_weights([np.array([[1.0, 2], [10, 20], [3, 4]])])
    small = checked(model)
    a, b = small.model.layers
    assert a.kernel.numpy().tolist() == [[1, 2], [3, 4]]
    assert a.bias.numpy().tolist() == [1, -1]
    assert b.kernel.numpy().tolist() == [[1, 2], [3, 4]]
    assert b.bias.numpy().tolist() == [5, 10]  # 0.5 * [10, 20]
    assert small.removed == {"a": (1,)} and not small.kept_dead
    assert str(small) == "15 -> 12 parameters\nremoved 1 of a"


def test_a_constant_below_zero_ends_at_the_activation():
    """relu(-2) = 0: no bias is added to a layer that has none."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(2, activation="relu"),
            layers.Dense(1, use_bias=False),
        ]
    )
    model.layers[0].set_weights([np.array([[1.0, 0], [1, 0]]), np.array([0.0, -2])])
    small = checked(model)
    assert not small.model.layers[1].use_bias


def test_a_unit_that_is_not_read_is_removed_and_those_before_it():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="a"),
            layers.Dense(5, name="b"),
            layers.Dense(2, name="c"),
        ]
    )
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=s) for s in [(3, 4), (4, 5), (5, 2)])
    c[1] = 0  # nothing reads b's unit 1,
    b[2] = [0, 1, 0, 0, 0]  # which alone reads a's unit 2
    for layer, kernel in zip(model.layers, (a, b, c), strict=True):
        layer.kernel.assign(kernel)
    assert checked(model).removed == {"a": (2,), "b": (1,)}


def test_a_unit_that_only_has_dead_inputs_is_dead():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(2, name="a", activation="tanh"),
            layers.Dense(3, name="b"),
            layers.Dense(2, name="c"),
        ]
    )
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3, 2)), rng.normal(size=(2, 3))
    a[:, 0] = 0
    b[1, 2] = 0  # b's unit 2 reads a's dead unit 0 alone
    model.layers[0].set_weights([a, np.array([0.7, 0.1])])
    model.layers[1].set_weights([b, np.array([0.1, 0.2, 0.3])])
    assert checked(model).removed == {"a": (0,), "b": (2,)}


def test_a_layer_keeps_one_unit():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="a"), layers.Dense(2, name="b")]
    )
    model.layers[0].set_weights([np.zeros((3, 4)), np.arange(4.0)])
    small = checked(model)
    assert small.removed == {"a": (1, 2, 3)}
    assert reasons(small) == {
        ("a", (0,)): "a layer must keep a unit, and all others were removed",
        ("b", (0, 1)): "it is an output of the model",
    }


# --- Where constants are kept -----------------------------------------------------------


@pytest.mark.parametrize(("padding", "bias", "kept"), [
    ("valid", 0.5, False), ("same", 0.0, False), ("same", 0.5, True),
])  # fmt: skip
def test_a_constant_is_folded_where_no_zeros_are_padded(padding, bias, kept):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, name="a"),
            layers.Conv2D(2, 3, padding=padding, name="b"),
        ]
    )
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 3))
    kernel[..., 1] = 0
    model.layers[0].set_weights([kernel, np.full(3, bias)])
    small = checked(model, fewer=not kept)
    expected = "b (Conv2D) pads with zeros, and its constant is 0.5"
    assert reasons(small) == ({("a", (1,)): expected} if kept else {})


@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.ZeroPadding2D(1),
        lambda: layers.DepthwiseConv2D(3, padding="same"),
    ],
)
def test_the_layer_that_pads_a_constant_is_named(layer):
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, name="a")(inputs)
    padded = layer()
    model = keras.Model(inputs, layers.Conv2D(2, 3)(padded(x)))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 3))
    kernel[..., 1] = 0
    model.get_layer("a").set_weights([kernel, np.full(3, 0.5)])
    [(_, why)] = reasons(checked(model, fewer=False)).items()
    assert why == f"{padded.name} ({type(padded).__name__}) pads with zeros"


def test_a_constant_passes_a_depthwise_convolution_that_does_not_pad():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(3, 3, name="a"),
            layers.DepthwiseConv2D(3, depth_multiplier=2, activation="tanh"),
            layers.Conv2D(2, 2, use_bias=False),
        ]
    )
    randomized(model, np.random.default_rng(0), dead=0)
    kernel = model.layers[0].kernel.numpy()
    kernel[..., 1] = 0
    model.layers[0].kernel.assign(kernel)
    small = checked(model)
    assert small.removed == {"a": (1,)}
    assert small.model.layers[1].bias.shape == (4,)
    assert small.model.layers[2].bias.numpy().all()


@pytest.mark.parametrize("by_layer", [True, False])
def test_a_sum_with_a_live_unit_keeps_a_dead_one(by_layer):
    inputs = keras.Input((4,))
    a, b = layers.Dense(3, name="a")(inputs), layers.Dense(3, name="b")(inputs)
    added = layers.Add(name="sum")([a, b]) if by_layer else a + b
    model = keras.Model(inputs, layers.Dense(2)(added))
    for name, dead in (("a", [0, 1]), ("b", [1])):
        kernel = np.ones((4, 3))
        kernel[:, dead] = 0
        model.get_layer(name).set_weights([kernel, np.arange(3.0)])
    small = checked(model)
    assert small.removed == {"a": (1,), "b": (1,)}
    [(place, why)] = reasons(small).items()
    assert place == ("a", (0,))
    assert why.endswith("(Add) also takes units that are not constant")


def test_outputs_of_the_model_and_unknown_layers_keep_theirs():
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.Dense(3, name="a"),
            layers.LSTM(4, name="lstm"),
            layers.Dense(3, name="b"),
        ]
    )
    rng = np.random.default_rng(0)
    for layer in (model.layers[0], model.layers[2]):
        kernel = rng.normal(size=(4, 3))
        kernel[:, 1] = 0
        layer.kernel.assign(kernel)
    assert reasons(checked(model, fewer=False)) == {
        ("a", (1,)): "lstm (LSTM) needs all its inputs",
        ("b", (1,)): "it is an output of the model",
    }


def test_layers_called_twice_groups_and_softmax_keep_theirs():
    inputs = keras.Input((6, 6, 4))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = shared(shared(inputs))
    x = layers.Conv2D(4, 3, groups=2, name="grouped")(x)
    x = layers.Conv2D(4, 3, activation="softmax", name="soft")(x)
    x = layers.Conv2D(3, 2, name="last")(x)
    model = keras.Model(inputs, x)
    for layer in (shared, model.get_layer("grouped"), model.get_layer("soft")):
        kernel = layer.kernel.numpy()
        kernel[..., 1] = 0
        layer.kernel.assign(kernel)
    small = checked(model, fewer=False)
    why = {kept.layer: kept.reason for kept in small.kept_dead}
    assert why["shared"].endswith("it is called more than once")
    assert why["grouped"].endswith("it has groups, whose filters are equally many")


def test_a_normalization_by_the_batch_keeps_its_units():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="a")(inputs)
    x = layers.BatchNormalization()(x, training=True)
    model = keras.Model(inputs, layers.Dense(2)(x))
    kernel = np.ones((4, 3))
    kernel[:, 1] = 0
    model.get_layer("a").kernel.assign(kernel)
    [why] = reasons(checked(model, fewer=False)).values()
    assert why.endswith("it is called with further arguments")


def test_a_normalization_without_scale_makes_a_constant():
    """gamma = 0, as network slimming leaves it, kills a unit whose weights are alive."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="a"),
            layers.BatchNormalization(),
            layers.Dense(2),
        ]
    )
    randomized(model, np.random.default_rng(0), dead=0)
    gamma = model.layers[1].gamma.numpy()
    gamma[2] = 0
    model.layers[1].gamma.assign(gamma)
    assert checked(model).removed == {"a": (2,)}


# --- Errors, and what it leaves alone ---------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: 3, TypeError, "Expected a Keras model. Received: 3"),
        (Subclassed, ValueError, "Functional or Sequential.*class Subclassed"),
        (lambda: keras.Sequential([layers.Dense(2)]), ValueError, "Expected a built"),
        (lambda: layers.Dense(2), ValueError, "of class Dense"),
    ],
)
def test_errors(make, error, match):
    with pytest.raises(error, match=match):
        tk.compact(make())


def test_the_given_model_is_not_changed():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6), layers.Dense(2)])
    randomized(model, rng)
    before = [w.numpy() for w in model.weights]
    tk.compact(model)
    for old, weight in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, weight)
