"""A stripped model computes the same, whatever state or code its layers have."""

import gzip

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from tests.zoo import adapted

rng = np.random.default_rng(0)
NUMBERS = rng.random((6, 8), np.float32) * 5 + 3
INTEGERS = rng.integers(0, 9, (6, 8))
WORDS = tf.constant([["a b", "c"], ["b", "d e a"], ["c", "c"]])
factor = 3.0

SLOW = pytest.mark.slow


def doubled(x):
    return 2 * x


def scaled_by(factor):
    return lambda x: x * factor


class Table(layers.Layer):
    """A user's layer with state that is not a variable."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = np.zeros(8, np.float32)

    def call(self, inputs):
        return inputs + self.table

    def save_own_variables(self, store):
        store["table"] = self.table

    def load_own_variables(self, store):
        self.table = np.asarray(store["table"])


class Small(keras.initializers.Initializer):
    """An initializer that nobody registered."""

    def __call__(self, shape, dtype=None):
        return 0.1 * keras.random.normal(shape, dtype=dtype, seed=1)


def with_table():
    layer = Table()
    layer.table = np.arange(8, dtype=np.float32)
    return layer


NUMERIC = {
    "Normalization": lambda: adapted(layers.Normalization(), NUMBERS),
    "Normalization, given": lambda: layers.Normalization(mean=3.0, variance=2.0),
    "Discretization": lambda: adapted(layers.Discretization(num_bins=4), NUMBERS),
    "a table": with_table,
    "lambda": lambda: layers.Lambda(lambda x: factor * x),
    "closure": lambda: layers.Lambda(scaled_by(4.0)),
    "function": lambda: layers.Lambda(doubled),
    "activation": lambda: layers.Dense(8, activation=doubled),
    "activation, lambda": lambda: layers.Dense(8, activation=lambda x: factor * x),
    "initializer": lambda: layers.Dense(8, kernel_initializer=Small()),
    "batch norm": lambda: layers.BatchNormalization(),
}


def numeric(make):
    inputs = keras.Input((8,))
    x = keras.ops.cast(make()(inputs), "float32")
    return keras.Model(inputs, layers.Dense(3)(x))


def assert_strips(model, inputs):
    plain = tk.strip(model)
    np.testing.assert_allclose(
        plain.predict_on_batch(inputs),
        model.predict_on_batch(inputs),
        rtol=1e-5,
        atol=1e-5,
    )
    assert not tk.sparse_weights(plain)
    return plain


@pytest.mark.parametrize("what", NUMERIC)
def test_strip_keeps_state_and_code_of_layers(what):
    with tk.topkast_scope(0.5, 0.25):
        model = numeric(NUMERIC[what])
    model.compile("sgd", "mse")
    model.train_on_batch(NUMBERS, np.ones((6, 3), np.float32))
    assert_strips(model, NUMBERS)


def text():
    inputs = keras.Input((2,), dtype="string")
    lookup = adapted(layers.StringLookup(), WORDS)
    x = layers.Embedding(10, 4)(lookup(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def vectorized():
    inputs = keras.Input((), dtype="string")
    layer = adapted(layers.TextVectorization(output_sequence_length=3), WORDS[:, 0])
    x = layers.Embedding(10, 4)(layer(inputs))
    return keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))


def integers():
    inputs = keras.Input((8,), dtype="int64")
    lookup = adapted(layers.IntegerLookup(), INTEGERS)
    x = layers.CategoryEncoding(12, "multi_hot")(lookup(inputs))
    return keras.Model(inputs, layers.Dense(3)(x))


@keras.saving.register_keras_serializable("tests")
class Part(layers.Layer):
    """Without a configuration, as it is only made by `Whole`."""

    def __init__(self, function, units):
        super().__init__()
        self.function = function
        self.inner = layers.Dense(units)

    def call(self, inputs):
        return self.function(self.inner(inputs))


class Whole(layers.Layer):
    """A user's layer made of layers."""

    def __init__(self, units=8, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.part = Part(lambda x: factor * x, units)

    def call(self, inputs):
        return self.part(inputs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def test_parts_of_a_layer_need_no_configuration():
    with tk.topkast_scope(0.5, 0.25):
        model = numeric(Whole)
    assert len(tk.sparse_weights(model)) == 2
    assert_strips(model, NUMBERS)


@pytest.mark.parametrize(
    ("make", "inputs"),
    [(text, WORDS), (vectorized, WORDS[:, 0]), (integers, INTEGERS)],
    ids=["StringLookup", "TextVectorization", "IntegerLookup"],
)
def test_strip_keeps_vocabularies(make, inputs, tmp_path):
    with tk.topkast_scope(0.5, 0.25):
        model = make()
    plain = assert_strips(model, inputs)
    plain.save(tmp_path / "plain.keras")
    again = keras.models.load_model(tmp_path / "plain.keras")
    np.testing.assert_array_equal(
        again.predict_on_batch(inputs), plain.predict_on_batch(inputs)
    )


def test_strip_of_nested_and_shared_layers():
    with tk.topkast_scope(0.5, 0.25):
        norm = adapted(layers.Normalization(), NUMBERS)
        block = keras.Sequential(
            [keras.Input((8,)), norm, layers.Lambda(lambda x: factor * x)]
        )
        shared = layers.Dense(8, activation=scaled_by(2.0))
        inputs = keras.Input((8,))
        x = shared(shared(block(inputs)))
        model = keras.Model(inputs, layers.Dense(3)(x))
    assert_strips(model, NUMBERS)


def test_two_layers_of_one_name_keep_their_own_functions():
    with tk.topkast_scope(0.5, 0.25):
        blocks = [
            keras.Sequential(
                [keras.Input((8,)), layers.Lambda(scaled_by(by), name="same")]
            )
            for by in (2.0, 5.0)
        ]
        inputs = keras.Input((8,))
        x = blocks[1](blocks[0](inputs))
        model = keras.Model(inputs, layers.Dense(3)(x))
    assert_strips(model, NUMBERS)


def test_layers_that_cannot_be_rebuilt_are_refused():
    class NoConfig(layers.Layer):
        def __init__(self, units):
            super().__init__()
            self.units = units

        def call(self, inputs):
            return inputs

        def get_config(self):
            raise NotImplementedError("no")

    class Clip:
        def __call__(self, x):
            return keras.ops.clip(x, 4, 6)

    for make in (lambda: NoConfig(3), lambda: layers.Lambda(Clip())):
        with tk.topkast_scope(0.5, 0.25):
            model = numeric(make)
        with pytest.raises(ValueError, match="get_config.*Received"):
            tk.strip(model)


# Exports without `strip`.


def by_export(model, path):
    model.export(path, verbose=False)


def by_archive(model, path):
    archive = keras.export.ExportArchive()
    archive.track_and_add_endpoint(
        "serve", model, [keras.InputSpec(dtype="float32", shape=(None, 8))]
    )
    archive.write_out(path, verbose=False)


def by_saved_model(model, path):
    tf.saved_model.save(model, path)


@pytest.mark.parametrize(
    "export",
    [by_export, *(pytest.param(f, marks=SLOW) for f in (by_archive, by_saved_model))],
)
def test_an_export_of_theta_warns_once_and_names_strip(export, tmp_path, caplog):
    with tk.topkast_scope(0.5, 0.25):
        model = numeric(lambda: layers.Dense(8))
    export(tk.strip(model), str(tmp_path / "plain"))
    assert "strip" not in caplog.text
    export(model, str(tmp_path / "sparse"))
    export(model, str(tmp_path / "again"))
    [said] = [r.getMessage() for r in caplog.records if "strip" in r.getMessage()]
    assert "does not compress: export `topkast_tf.strip(model)`" in said


def test_an_export_without_zeros_does_not_warn(tmp_path, caplog):
    with tk.topkast_scope(0, 0):
        model = numeric(lambda: layers.Dense(8))
    by_export(model, str(tmp_path / "same"))
    assert "strip" not in caplog.text


def test_litert_holds_alpha_alone(tmp_path, caplog):
    with tk.topkast_scope(0.9, 0.8):
        model = keras.Sequential([keras.Input((100,)), layers.Dense(200)])
    model.export(str(tmp_path / "sparse.tflite"), format="litert", verbose=False)
    content = (tmp_path / "sparse.tflite").read_bytes()
    assert len(gzip.compress(content)) < 0.25 * 4 * 100 * 200 < len(content)
    assert "strip" not in caplog.text


class OwnVariable(layers.Layer):
    """A user's layer with a variable that Keras 3 does not track."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.kernel = tf.Variable(tf.random.normal((8, 10)), name="kernel")

    def call(self, inputs):
        return tf.matmul(inputs, self.kernel)


def test_variable_that_keras_does_not_track_keeps_its_alpha():
    with tk.topkast_scope(0.8, 0.5):
        inputs = keras.Input((8,))
        model = keras.Model(inputs, layers.Dense(3)(OwnVariable()(inputs)))
    weights = tk.sparse_weights(model)
    assert sorted(weight.shape for weight in weights) == [(8, 10), (10, 3)]
    plain = tk.strip(model)
    np.testing.assert_array_equal(plain(NUMBERS), model(NUMBERS))
    assert not tk.sparse_weights(plain)
