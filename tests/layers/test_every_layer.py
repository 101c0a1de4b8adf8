"""Every layer class of the installed Keras, in scopes with and without sparsity."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as L

import topkast_tf as tk
from swat_tf import swat_scope
from tests.zoo import adapted

pytestmark = pytest.mark.slow

VECTOR, SEQUENCE, IMAGE, VOLUME = (8,), (6, 8), (8, 8, 3), (6, 6, 6, 3)
INTEGERS, STRINGS, WAVE = "integers", "strings", (256,)


def words():
    return tf.constant(["a b", "b c", "c a", "a a"])


def self_attention(layer):
    return lambda x: layer()(x, x)


def pair(layer):
    """A layer that merges two tensors, one of them the output of a kernel."""
    return lambda x: layer()([x, L.Dense(8)(x)])


CASES = {
    # Kernels.
    "Dense": (VECTOR, lambda: L.Dense(5)),
    "EinsumDense": (SEQUENCE, lambda: L.EinsumDense("abc,cd->abd", (6, 4))),
    "Conv1D": (SEQUENCE, lambda: L.Conv1D(4, 3)),
    "Conv2D": (IMAGE, lambda: L.Conv2D(4, 3)),
    "Conv3D": (VOLUME, lambda: L.Conv3D(4, 2)),
    "Conv1DTranspose": (SEQUENCE, lambda: L.Conv1DTranspose(4, 3)),
    "Conv2DTranspose": (IMAGE, lambda: L.Conv2DTranspose(4, 3)),
    "Conv3DTranspose": (VOLUME, lambda: L.Conv3DTranspose(4, 2)),
    "DepthwiseConv1D": (SEQUENCE, lambda: L.DepthwiseConv1D(3)),
    "DepthwiseConv2D": (IMAGE, lambda: L.DepthwiseConv2D(3)),
    "SeparableConv1D": (SEQUENCE, lambda: L.SeparableConv1D(4, 3)),
    "SeparableConv2D": (IMAGE, lambda: L.SeparableConv2D(4, 3)),
    "Embedding": (INTEGERS, lambda: L.Embedding(10, 4)),
    "ReversibleEmbedding": (
        INTEGERS,
        lambda: reversible,
    ),
    "SimpleRNN": (SEQUENCE, lambda: L.SimpleRNN(4)),
    "GRU": (SEQUENCE, lambda: L.GRU(4)),
    "LSTM": (SEQUENCE, lambda: L.LSTM(4)),
    "SimpleRNNCell": (SEQUENCE, lambda: L.RNN(L.SimpleRNNCell(4))),
    "GRUCell": (SEQUENCE, lambda: L.RNN(L.GRUCell(4))),
    "LSTMCell": (SEQUENCE, lambda: L.RNN(L.LSTMCell(4))),
    "RNN": (SEQUENCE, lambda: L.RNN(L.LSTMCell(3), return_sequences=True)),
    "StackedRNNCells": (
        SEQUENCE,
        lambda: L.RNN(L.StackedRNNCells([L.LSTMCell(4), L.GRUCell(3)])),
    ),
    "ConvLSTM1D": (IMAGE, lambda: L.ConvLSTM1D(2, 3)),
    "ConvLSTM2D": (VOLUME, lambda: L.ConvLSTM2D(2, 3)),
    "ConvLSTM3D": ((2, *VOLUME), lambda: L.ConvLSTM3D(2, 2)),
    "Bidirectional": (SEQUENCE, lambda: L.Bidirectional(L.LSTM(3))),
    "TimeDistributed": (SEQUENCE, lambda: L.TimeDistributed(L.Dense(4))),
    "SpectralNormalization": (VECTOR, lambda: L.SpectralNormalization(L.Dense(5))),
    "MultiHeadAttention": (SEQUENCE, lambda: self_attention(mha)),
    "GroupedQueryAttention": (SEQUENCE, lambda: self_attention(gqa)),
    "Attention": (SEQUENCE, lambda: pair(L.Attention)),
    "AdditiveAttention": (SEQUENCE, lambda: pair(L.AdditiveAttention)),
    # Merging.
    **{
        name: (VECTOR, lambda name=name: pair(getattr(L, name)))
        for name in (
            "Add",
            "Average",
            "Concatenate",
            "Maximum",
            "Minimum",
            "Multiply",
            "Subtract",
        )
    },
    "Dot": (VECTOR, lambda: pair(lambda: L.Dot(1))),
    # Of vectors.
    **{
        name: (VECTOR, lambda name=name: getattr(L, name)())
        for name in (
            "ActivityRegularization",
            "BatchNormalization",
            "ELU",
            "Flatten",
            "Identity",
            "LayerNormalization",
            "LeakyReLU",
            "Masking",
            "PReLU",
            "RMSNormalization",
            "ReLU",
            "Softmax",
            "UnitNormalization",
        )
    },
    "Activation": (VECTOR, lambda: L.Activation("relu")),
    "AlphaDropout": (VECTOR, lambda: L.AlphaDropout(0.3)),
    "Dropout": (VECTOR, lambda: L.Dropout(0.3)),
    "GaussianDropout": (VECTOR, lambda: L.GaussianDropout(0.3)),
    "GaussianNoise": (VECTOR, lambda: L.GaussianNoise(0.3)),
    "GroupNormalization": (VECTOR, lambda: L.GroupNormalization(4)),
    "Lambda": (VECTOR, lambda: L.Lambda(lambda x: 2 * x)),
    "Normalization": (
        VECTOR,
        lambda: adapted(L.Normalization(), np.random.rand(20, 8).astype("float32")),
    ),
    "Permute": (SEQUENCE, lambda: L.Permute((2, 1))),
    "RepeatVector": (VECTOR, lambda: L.RepeatVector(3)),
    "Rescaling": (VECTOR, lambda: L.Rescaling(0.5)),
    "Reshape": (VECTOR, lambda: L.Reshape((4, 2))),
    "Discretization": (VECTOR, lambda: L.Discretization([0.2, 0.5])),
    # Of sequences, images and volumes.
    **{
        f"{name}{n}D": (shape, lambda name=name, n=n: getattr(L, f"{name}{n}D")())
        for n, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME))
        for name in (
            "AveragePooling",
            "Cropping",
            "GlobalAveragePooling",
            "GlobalMaxPooling",
            "MaxPooling",
            "SpatialDropout",
            "UpSampling",
            "ZeroPadding",
        )
        if name not in ("AveragePooling", "MaxPooling", "SpatialDropout")
    },
    **{
        f"{name}{n}D": (shape, lambda name=name, n=n: getattr(L, f"{name}{n}D")(2))
        for n, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME))
        for name in (
            "AdaptiveAveragePooling",
            "AdaptiveMaxPooling",
            "AveragePooling",
            "MaxPooling",
        )
    },
    **{
        f"SpatialDropout{n}D": (
            shape,
            lambda n=n: getattr(L, f"SpatialDropout{n}D")(0.3),
        )
        for n, shape in ((1, SEQUENCE), (2, IMAGE), (3, VOLUME))
    },
    "CenterCrop": (IMAGE, lambda: L.CenterCrop(4, 4)),
    "Resizing": (IMAGE, lambda: L.Resizing(4, 4)),
    # Of images, at random.
    **{
        name: (IMAGE, lambda name=name: getattr(L, name)())
        for name in (
            "AugMix",
            "AutoContrast",
            "ContrastLimitedAdaptiveHistogramEqualization",
            "CutMix",
            "Equalization",
            "MixUp",
            "RandAugment",
            "RandomElasticTransform",
            "RandomErasing",
            "RandomFlip",
            "RandomGaussianBlur",
            "RandomGrayscale",
            "RandomInvert",
            "RandomPerspective",
            "Solarization",
        )
    },
    **{
        name: (IMAGE, lambda name=name: getattr(L, name)(0.2))
        for name in (
            "RandomBrightness",
            "RandomColorDegeneration",
            "RandomContrast",
            "RandomHue",
            "RandomRotation",
            "RandomSaturation",
            "RandomSharpness",
            "RandomZoom",
        )
    },
    "RandomColorJitter": (IMAGE, lambda: L.RandomColorJitter(brightness_factor=0.2)),
    # A single number becomes a range that its own configuration refuses.
    "RandomShear": (IMAGE, lambda: L.RandomShear((0.0, 0.2), (0.0, 0.2))),
    "RandomCrop": (IMAGE, lambda: L.RandomCrop(8, 8)),
    "RandomPosterization": (IMAGE, lambda: L.RandomPosterization(4)),
    "RandomTranslation": (IMAGE, lambda: L.RandomTranslation(0.2, 0.2)),
    "Pipeline": (IMAGE, lambda: L.Pipeline([L.RandomFlip(), L.Rescaling(0.5)])),
    # Of sounds, numbers and words.
    "MelSpectrogram": (
        WAVE,
        lambda: L.MelSpectrogram(
            fft_length=64, sequence_stride=32, sequence_length=64, num_mel_bins=8
        ),
    ),
    "STFTSpectrogram": (
        (256, 1),
        lambda: L.STFTSpectrogram(frame_length=64, frame_step=32, fft_length=64),
    ),
    "CategoryEncoding": (INTEGERS, lambda: L.CategoryEncoding(10, "multi_hot")),
    "HashedCrossing": (
        INTEGERS,
        lambda: lambda x: L.HashedCrossing(7)((x[:, :1], x[:, 1:2])),
    ),
    "Hashing": (INTEGERS, lambda: L.Hashing(7)),
    "IntegerLookup": (INTEGERS, lambda: adapted(L.IntegerLookup(), np.arange(10))),
    "StringLookup": (STRINGS, lambda: adapted(L.StringLookup(), words())),
    "TextVectorization": (
        STRINGS,
        lambda: adapted(L.TextVectorization(output_sequence_length=3), words()),
    ),
}
WITHOUT_A_CASE = {
    "Layer": "is the base class",
    "Wrapper": "is the base class of wrappers",
    "InputLayer": "is part of each of these networks",
    "FlaxLayer": "belongs to another backend",
    "JaxLayer": "belongs to another backend",
    "TorchModuleWrapper": "belongs to another backend",
    "TFSMLayer": "runs what was exported, without weights of its own to train",
    "MaxNumBoundingBoxes": "takes bounding boxes, not tensors",
}


def mha():
    return L.MultiHeadAttention(2, 4)


def gqa():
    return L.GroupQueryAttention(4, 2, 1)


def reversible(x):
    layer = L.ReversibleEmbedding(10, 4, tie_weights=False)
    return layer(layer(x), reverse=True)


def classes():
    """Every layer class by the shortest of its names, which is not an alias."""
    found = {}
    for name in sorted(dir(L)):
        cls = getattr(L, name)
        if isinstance(cls, type) and issubclass(cls, L.Layer):
            found.setdefault(cls.__name__, cls)
    return found


def test_every_class_has_a_case():
    missing = set(classes()) - set(CASES) - set(WITHOUT_A_CASE)
    assert not missing
    known = set(dir(L))
    assert set(WITHOUT_A_CASE) <= known


LAYERS = pytest.mark.parametrize("name", [name for name in CASES if name in classes()])
CHANGE_NOTHING = {
    "topkast": lambda: tk.topkast_scope(0.0, 0.0, exploration=0.0),
    "swat": lambda: swat_scope(0.0),
}
CHANGE = {
    "topkast": lambda: tk.topkast_scope(0.9, 0.8),
    "swat": lambda: swat_scope(0.8),
}


def network(name, scope=contextlib.nullcontext):
    """The layer between its input and a small head."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    shape, make = CASES[name]
    with scope():
        if shape == STRINGS:
            inputs = keras.Input((), dtype="string")
        elif shape == INTEGERS:
            inputs = keras.Input((5,), dtype="int32")
        else:
            inputs = keras.Input(shape)
        x = make()(inputs)
        x = keras.ops.cast(x, keras.config.floatx())
        if len(x.shape) == 1:
            x = keras.ops.expand_dims(x, -1)
        # Wide enough that 0.9 can be reached with a single feature.
        model = keras.Model(inputs, L.Dense(3)(L.Dense(16)(L.Flatten()(x))))
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", run_eagerly=True)
    return model


def batch(name):
    shape = CASES[name][0]
    if shape == STRINGS:
        return words(), np.eye(4, 3, dtype=np.float32)
    rng = np.random.default_rng(0)
    if shape == INTEGERS:
        return rng.integers(0, 10, (4, 5)), np.eye(4, 3, dtype=np.float32)
    return rng.random((4, *shape), np.float32), np.eye(4, 3, dtype=np.float32)


@LAYERS
@pytest.mark.parametrize("scope", CHANGE_NOTHING)
def test_scope_without_sparsity_trains_as_dense(name, scope):
    inputs, labels = batch(name)
    dense, sparse = network(name), network(name, CHANGE_NOTHING[scope])
    for one, other in zip(dense.weights, sparse.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    keras.utils.set_random_seed(1)
    expected = dense.train_on_batch(inputs, labels)
    keras.utils.set_random_seed(1)
    np.testing.assert_allclose(sparse.train_on_batch(inputs, labels), expected, 1e-5)
    for one, other in zip(dense.weights, sparse.weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@LAYERS
@pytest.mark.parametrize("scope", CHANGE)
def test_sparse_layer_trains_saves_loads_and_strips(name, scope, tmp_path):
    inputs, labels = batch(name)
    model = network(name, CHANGE[scope])
    weights = tk.sparse_weights(model)
    assert weights  # at least the head
    before = [w.dense() for w in weights]
    reservoir = [~w.backward_mask() for w in weights]
    model.train_on_batch(inputs, labels)
    for weight, theta, outside in zip(weights, before, reservoir, strict=True):
        assert weight.step == 1
        assert weight.forward_mask().sum() == weight.kept_forward
        np.testing.assert_array_equal(weight.dense()[outside], theta[outside])
    outputs = model(inputs, training=False).numpy()
    assert np.all(np.isfinite(outputs))

    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(
        tmp_path / "model.keras", safe_mode=name != "Lambda"
    )
    np.testing.assert_array_equal(loaded(inputs, training=False), outputs)
    for one, other in zip(weights, tk.sparse_weights(loaded), strict=True):
        np.testing.assert_array_equal(one.codes(), other.codes())

    plain = tk.strip(model)
    stripped = plain(inputs, training=False)
    np.testing.assert_allclose(stripped, outputs, rtol=1e-5, atol=1e-6)
    assert not tk.sparse_weights(plain)

    if name != "Lambda":  # which asks for unsafe loading
        again = keras.Model.from_config(model.get_config())
        assert len(tk.sparse_weights(again)) == len(weights)


@LAYERS
@pytest.mark.parametrize("scope", CHANGE)
def test_mixed_precision(name, scope):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    inputs, labels = batch(name)
    model = network(name, CHANGE[scope])
    model.train_on_batch(inputs, labels)
    for weight in tk.sparse_weights(model):
        assert weight.dense().dtype == np.float32 and weight.step == 1
        assert weight.forward_mask().sum() == weight.kept_forward
    assert np.all(np.isfinite(model(inputs).numpy()))
