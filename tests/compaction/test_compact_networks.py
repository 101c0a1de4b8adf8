"""`compact` of whole networks: random ones, sparse ones, one of keras.applications."""

import keras
import numpy as np
import pytest
from keras import layers

import topkast_tf as tk
from swat_tf import swat_scope
from tests.compaction.checks import checked, randomized


def random_network(rng, padding):
    """Convolutions with branches that are added and joined, pooled, flattened."""
    pick = lambda *options: options[rng.integers(len(options))]  # noqa: E731
    inputs = keras.Input((9, 9, 3))

    def block(x, filters):
        kind = pick("conv", "separable", "depthwise")
        size = int(pick(1, 3))
        bias, act = bool(rng.integers(2)), pick("relu", None, "tanh")
        if kind == "depthwise":
            x = layers.DepthwiseConv2D(size, padding=padding, use_bias=bias)(x)
            size = 1  # and a pointwise one
        cls = layers.SeparableConv2D if kind == "separable" else layers.Conv2D
        x = cls(filters, size, padding=padding, use_bias=bias, activation=act)(x)
        if rng.integers(2):
            x = layers.BatchNormalization()(x)
            x = pick(layers.ReLU(6.0), layers.LeakyReLU(), layers.Activation("silu"))(x)
        return layers.Dropout(0.3)(x)

    x = block(block(inputs, 9), 8)
    one = layers.Conv2D(6, 1)(x)
    other = layers.BatchNormalization()(layers.Conv2D(6, 1, use_bias=False)(x))
    x = pick(layers.Add, layers.Multiply, layers.Average)()([one, other])
    x = layers.Activation("relu")(x)
    x = layers.Concatenate()([x, layers.Conv2D(5, 1, activation="relu")(x), one])
    x = pick(layers.MaxPooling2D, layers.AveragePooling2D)(2, padding="same")(x)
    x = block(x, 7)
    top = pick(
        layers.Flatten, layers.GlobalAveragePooling2D, lambda: layers.Reshape((-1,))
    )()
    x = layers.Dense(9, activation="relu")(top(x))
    gate = layers.Dense(9, activation="sigmoid")(layers.Dense(4, activation="relu")(x))
    x = x * gate
    return keras.Model(inputs, [layers.Dense(3, name="y")(x), layers.Dense(2)(x)])


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("seed", range(4))
def test_outputs_of_random_networks_stay(seed, padding):
    rng = np.random.default_rng(seed)
    checked(randomized(random_network(rng, padding), rng), seed)


def test_several_inputs_and_other_kinds_of_layers():
    rng = np.random.default_rng(0)
    first, second = keras.Input((12, 3)), keras.Input((12, 2))
    x = layers.Conv1D(8, 3, activation="relu")(first)
    x = layers.DepthwiseConv1D(1, depth_multiplier=2)(x)
    x = layers.UpSampling1D(2)(layers.AveragePooling1D(2)(x))
    x = layers.Conv1DTranspose(6, 3, strides=2)(x)
    x = layers.SeparableConv1D(6, 2, depth_multiplier=2)(layers.Cropping1D(1)(x))
    y = layers.Rescaling(2.0, 1.0)(layers.Dense(5)(second))
    y = layers.Conv1D(6, 3)(layers.ZeroPadding1D(1)(y))
    pooled = [layers.GlobalMaxPooling1D()(t) for t in (x, y)]
    x = layers.Reshape((1, 6))(layers.Subtract()(pooled))
    model = keras.Model([first, second], layers.Dense(4)(x))
    small = checked(randomized(model, rng, dead=0.4))
    assert len(small.removed) >= 3


def test_volumes():
    rng = np.random.default_rng(1)
    model = keras.Sequential(
        [
            keras.Input((5, 5, 5, 2)),
            layers.Conv3D(6, 2, activation="relu"),
            layers.MaxPooling3D(2),
            layers.Conv3DTranspose(6, 2),
            layers.Conv3D(4, 2),
            layers.GlobalAveragePooling3D(),
            layers.Dense(3),
        ]
    )
    checked(randomized(model, rng))


def test_a_model_within_a_model_is_compacted_too():
    rng = np.random.default_rng(0)
    inner = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(8, activation="relu", name="a"),
            layers.Dense(5),
        ],
        name="inner",
    )
    randomized(inner, rng)
    model = keras.Sequential([keras.Input((6,)), inner, layers.Dense(2)])
    small = checked(model)
    assert list(small.removed) == ["inner/a"]
    assert type(small.model) is keras.Sequential


# --- Sparse models ----------------------------------------------------------------------


def test_filters_are_removed_after_training(digits, tmp_path):
    with tk.sparse_scope("filters", sparsity=0.5, exempt="last"):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(8, 3, name="a"),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(6, 3, name="b", activation="relu"),
                layers.Flatten(),
                layers.Dense(10),
            ]
        )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(*digits, batch_size=32, verbose=0)
    small = checked(model)
    assert {name: len(units) for name, units in small.removed.items()} == {
        "a": 4,
        "b": 3,
    }
    small.model.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(loaded(digits[0]), small.model(digits[0]))
    assert not tk.sparse_weights(loaded) and not small.model.compiled


def test_units_that_srigl_ablated_are_removed(digits):
    with tk.sparse_scope(
        "srigl",
        sparsity=0.9,
        update_every=1,
        total_steps=8,
        ablation=0.9,
        exempt="last",
    ):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Flatten(),
                layers.Dense(32, activation="relu", name="a"),
                layers.Dense(10),
            ]
        )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(*digits, batch_size=32, verbose=0)
    [weight] = tk.sparse_weights(model)
    ablated = np.flatnonzero(~weight.forward_mask().any(0))
    assert ablated.size  # else this tests nothing
    assert checked(model).removed == {"a": tuple(ablated.tolist())}


def test_channels_that_swat_reads_nowhere_are_removed():
    with swat_scope(0.6, structured="channel", exempt="a/"):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 2)),
                layers.Conv2D(6, 3, activation="relu", name="a"),
                layers.Conv2D(5, 3, name="b"),
            ]
        )
    kernel = np.random.default_rng(0).normal(size=(3, 3, 6, 5))
    kernel[:, :, [1, 4]] *= 1e-3  # the least channels of every filter
    model.get_layer("b").kernel.assign(kernel)
    [weight] = tk.sparse_weights(model)
    assert not weight.effective()[:, :, [1, 4]].any()
    assert checked(model).removed == {"a": (1, 4)}


@pytest.mark.slow
def test_mobilenet(tmp_path):
    model = keras.applications.MobileNetV2(
        (32, 32, 3), weights=None, classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for layer in model.layers[:-1]:
        if type(layer) is layers.Conv2D:
            kernel = layer.kernel.numpy()
            kernel[..., rng.random(kernel.shape[-1]) < 0.5] = 0
            layer.kernel.assign(kernel)
    small = checked(model)
    before, after = small.parameters
    assert after < 0.6 * before
    assert {"also takes units"} == {
        kept.reason.split(") ")[1][:16] for kept in small.kept_dead
    }
    small.model.save(tmp_path / "small.keras")
    keras.models.load_model(tmp_path / "small.keras")
