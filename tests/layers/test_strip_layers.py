"""Stripped layers with state or code, of both Keras libraries: the same outputs."""

import functools
import operator

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests.zoo import adapted

tf_keras = pytest.importorskip("tf_keras")

NUMBERS = np.random.default_rng(0).normal(3.0, 2.0, (8, 6)).astype("float32")
TWO = tf.constant(2.0)
WHOLE = np.arange(48).reshape(8, 6) % 11
WORDS = np.array([["the cat sat"], ["a dog ran far"], ["the dog"], ["unseen"]] * 2)
TOKENS = np.array([["cat", "dog"], ["dog", "emu"], ["cat", "cat"], ["a", "b"]] * 2)


def half(x):
    return x * 0.5


def one_hot(library):
    return library.layers.CategoryEncoding(11, output_mode="multi_hot")


# Name -> function of a Keras library: layers before a Dense of three units, and inputs.
KERAS_LAYERS = {
    "Normalization": lambda k: ([adapted(k.layers.Normalization(), NUMBERS)], NUMBERS),
    "Normalization, inverted": lambda k: (
        [adapted(k.layers.Normalization(invert=True, axis=None), NUMBERS)],
        NUMBERS,
    ),
    "Normalization, by arguments": lambda k: (
        [k.layers.Normalization(mean=3.0, variance=2.0)],
        NUMBERS,
    ),
    "Discretization": lambda k: (
        [
            adapted(k.layers.Discretization(num_bins=4), NUMBERS),
            k.layers.Rescaling(0.25),
        ],
        NUMBERS,
    ),
    "Discretization, by arguments": lambda k: (
        [k.layers.Discretization([0.0, 3.0]), k.layers.Rescaling(0.25)],
        NUMBERS,
    ),
    "CategoryEncoding": lambda k: ([one_hot(k)], WHOLE),
    "IntegerLookup": lambda k: (
        [adapted(k.layers.IntegerLookup(output_mode="count"), WHOLE[:4])],
        WHOLE,
    ),
    "IntegerLookup, by arguments": lambda k: (
        [k.layers.IntegerLookup(vocabulary=[3, 5], output_mode="count")],
        WHOLE,
    ),
    "StringLookup": lambda k: (
        [adapted(k.layers.StringLookup(output_mode="count"), TOKENS[:2])],
        TOKENS,
    ),
    "StringLookup, by tf_idf": lambda k: (
        [adapted(k.layers.StringLookup(output_mode="tf_idf"), TOKENS[:, :1])],
        TOKENS,
    ),
    "StringLookup, by arguments": lambda k: (
        [k.layers.StringLookup(vocabulary=["cat"], output_mode="multi_hot")],
        TOKENS,
    ),
    "TextVectorization": lambda k: (
        [
            adapted(k.layers.TextVectorization(output_sequence_length=4), WORDS[:2]),
            k.layers.Embedding(9, 5),
            k.layers.Flatten(),
        ],
        WORDS,
    ),
    "TextVectorization, by tf_idf": lambda k: (
        [adapted(k.layers.TextVectorization(output_mode="tf_idf"), WORDS)],
        WORDS,
    ),
    "TextVectorization, split by a function": lambda k: (
        [
            adapted(
                k.layers.TextVectorization(
                    standardize=lambda text: tf.strings.lower(text),
                    split=lambda text: tf.strings.split(text, "a"),
                    output_mode="count",
                ),
                WORDS,
            )
        ],
        WORDS,
    ),
    "Hashing": lambda k: (
        [k.layers.Hashing(7), k.layers.Embedding(7, 3), k.layers.Flatten()],
        TOKENS,
    ),
    "Lambda": lambda k: ([k.layers.Lambda(lambda x: x * 2.0)], NUMBERS),
    "Lambda of a closure": lambda k: (
        [k.layers.Lambda(lambda x, c=TWO: x * c + NUMBERS.mean())],
        NUMBERS,
    ),
    "Lambda with all its functions": lambda k: (
        [
            k.layers.Lambda(
                lambda x, by: np.pi * x / by,
                output_shape=lambda shape: shape,
                mask=lambda inputs, mask: None,
                arguments={"by": 2.0},
            )
        ],
        NUMBERS,
    ),
    "Lambda of a function": lambda k: ([k.layers.Lambda(half)], NUMBERS),
    "Lambda of TensorFlow's": lambda k: ([k.layers.Lambda(tf.nn.softplus)], NUMBERS),
    "Lambda of a partial": lambda k: (
        [k.layers.Lambda(functools.partial(operator.mul, 3.0))],
        NUMBERS,
    ),
    "two Lambdas of one code": lambda k: (
        [k.layers.Lambda(lambda x, c=c: x * c) for c in (2.0, 5.0)],
        NUMBERS,
    ),
    "an activation of one's own": lambda k: (
        [k.layers.Dense(4, activation=lambda x: x * NUMBERS[0, 0])],
        NUMBERS,
    ),
    "an activation by name": lambda k: ([k.layers.Dense(4, activation=half)], NUMBERS),
    "a cell with an activation of one's own": lambda k: (
        [
            k.layers.Reshape((2, 3)),
            k.layers.RNN(k.layers.LSTMCell(4, activation=lambda x: x * 0.1)),
        ],
        NUMBERS,
    ),
    "a bidirectional layer": lambda k: (
        [
            k.layers.Reshape((2, 3)),
            k.layers.Bidirectional(k.layers.GRU(3)),
        ],
        NUMBERS,
    ),
    "an initializer of one's own": lambda k: (
        [k.layers.Dense(4, kernel_initializer=lambda s, dtype=None: tf.ones(s))],
        NUMBERS,
    ),
    "time distributed": lambda k: (
        [
            k.layers.Reshape((2, 3)),
            k.layers.TimeDistributed(k.layers.Lambda(lambda x: x * NUMBERS[0, 1])),
            k.layers.Flatten(),
        ],
        NUMBERS,
    ),
    "nested": lambda k: (
        [
            k.Sequential(
                [
                    k.layers.InputLayer((6,)),
                    adapted(k.layers.Normalization(), NUMBERS),
                    k.layers.Lambda(lambda x: x - NUMBERS[0, 0]),
                ]
            )
        ],
        NUMBERS,
    ),
}


def built(make, library=keras):
    keras.utils.set_random_seed(0)
    with tk.topkast_scope(fwd=0.6, bwd=0.3):
        stack, data = make(library)
        data = tf.constant(data)
        inputs = library.layers.Input(data.shape[1:], dtype=data.dtype)
        x = inputs
        for layer in stack:
            x = layer(x)
        x = library.layers.Lambda(lambda y: tf.cast(y, "float32"))(x)
        model = library.Model(inputs, library.layers.Dense(3)(x))
    return model, data


def assert_same_outputs(model, data):
    before = model.get_weights()
    names = [dict(vars(layer)) for layer in model.layers]
    expected = model(data).numpy()
    plain = tk.strip(model)
    np.testing.assert_allclose(plain(data), expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(expected) > 0
    assert len(tk.summary(model).rows) == len(tk.sparse_weights(model)) > 0
    assert not tk.sparse_weights(plain)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)
    for old, layer in zip(names, model.layers, strict=True):
        assert all(vars(layer)[name] is value for name, value in old.items())
    return plain


@pytest.mark.parametrize("library", [keras, tf_keras], ids=["keras", "tf_keras"])
@pytest.mark.parametrize("case", KERAS_LAYERS)
def test_stripped_layers_give_the_same_outputs(case, library):
    model, data = built(KERAS_LAYERS[case], library)
    assert_same_outputs(model, data)
