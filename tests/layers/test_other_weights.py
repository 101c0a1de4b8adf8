"""More sources of weights: tf_keras files, parts of models, refusals, layer state."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from swat_tf import swat_scope
from topkast_tf import freeze, sparse_weights, sparsify, strip, topkast_scope

X = np.random.default_rng(0).normal(size=(32, 10)).astype("float32")
Y = X[:, :4]


def three_layers(library=keras):
    layers = library.layers
    return library.Sequential(
        [
            library.Input((10,)),
            layers.Dense(16, "relu", name="a"),
            layers.Dense(16, name="b"),
            layers.Dense(4, name="head"),
        ]
    )


def sparse(scope=None, library=keras):
    with scope or topkast_scope(0.8, 0.6):
        return three_layers(library)


def fit(model, optimizer="sgd"):
    if getattr(model, "optimizer", None) is None:  # else each fit would trace again
        model.compile(optimizer, "mse")
    model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)


def is_new_beginning(model, dense):
    for weight, kernel in zip(
        sparse_weights(model), dense.get_weights()[::2], strict=True
    ):
        np.testing.assert_array_equal(weight.dense(), kernel)
        kept = weight.forward_mask()
        assert np.abs(kernel[kept]).min() >= np.abs(kernel[~kept]).max()
        assert weight.step == 0
    return True


# tf_keras


@pytest.fixture(scope="module")
def once_trained():
    model = sparse(library=pytest.importorskip("tf_keras"))
    fit(model)
    return model, model.get_weights()


@pytest.fixture
def old(once_trained):
    """A model of tf_keras, the same for each test, as its training left it."""
    model, weights = once_trained
    model.set_weights(weights)
    assert [weight.step for weight in sparse_weights(model)] == [2] * 3
    return model


@pytest.mark.parametrize("how", ["whole", "weights", "stripped", "by name"])
def test_tf_keras_h5_files_of_dense_models_load(how, old, tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    dense = three_layers(tf_keras)
    path = str(tmp_path / "dense.h5")
    if how == "stripped":
        dense = strip(sparse(library=tf_keras))
    (dense.save_weights if how in ("weights", "by name") else dense.save)(path)
    old.load_weights(path, by_name=how == "by name")
    assert is_new_beginning(old, dense)
    fit(old)


def test_layer_not_matching_an_h5_file_keeps_its_state(tmp_path):
    dense = keras.Sequential(
        [*three_layers().layers[:2], keras.layers.Dense(7, name="head")]
    )
    dense.build((None, 10))
    dense.save(tmp_path / "dense.h5")
    model = sparse()
    fit(model)
    model.load_weights(tmp_path / "dense.h5", skip_mismatch=True)
    assert [weight.step for weight in sparse_weights(model)] == [0, 0, 2]


def test_tf_keras_h5_files_of_sparse_models_hold_the_sets(old, tmp_path):
    other = sparse(library=pytest.importorskip("tf_keras"))
    old.save_weights(str(tmp_path / "sparse.h5"))
    other.load_weights(str(tmp_path / "sparse.h5"))
    for one, two in zip(sparse_weights(old), sparse_weights(other), strict=True):
        assert one.step == two.step == 2
        np.testing.assert_array_equal(one.codes(), two.codes())


@pytest.mark.parametrize("name", ["s.h5", "s.weights.h5"])
def test_loading_sparse_tf_keras_weights_into_dense_names_strip(name, tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    model, path = sparse(library=tf_keras), str(tmp_path / name)
    model.save_weights(path)
    with pytest.raises(ValueError, match="topkast_tf.strip"):
        three_layers(tf_keras).load_weights(path)
    with pytest.raises(ValueError, match="topkast_tf.strip"):
        three_layers(tf_keras).set_weights(model.get_weights())


def test_loading_sharded_sparse_weights_into_dense_names_strip(tmp_path):
    model, path = sparse(), str(tmp_path / "s.weights.json")
    try:
        model.save_weights(path, max_shard_size=0.0001)
    except (TypeError, ValueError):
        pytest.skip("this Keras writes one file")
    with pytest.raises(ValueError, match="topkast_tf.strip"):
        three_layers().load_weights(path)


# New weights reset all state.


def units(model):
    return [int(weight.forward_mask().sum()) for weight in sparse_weights(model)]


def test_new_weights_of_a_layer_keep_the_budget_of_swat_m():
    dense = three_layers()
    model = sparse(swat_scope(0.8, distribution="momentum"))
    budget = sum(units(model))
    for _ in range(3):
        fit(model, "adam")
    assert units(model) != units(sparse(swat_scope(0.8))) and sum(units(model)) <= (
        budget + 2
    )
    layer = dense.get_layer("b")
    model.get_layer("b").set_weights(layer.get_weights())
    assert sum(units(model)) == budget
    freeze(model)
    fit(model)
    assert sum(units(model)) == budget


def test_new_weights_reset_the_gradient_averages():
    dense = three_layers()

    def after(steps):
        model = sparse(swat_scope(0.8, distribution="momentum"))
        for _ in range(steps):
            fit(model, keras.optimizers.SGD(0.1))
        model.set_weights(dense.get_weights())
        fit(model, keras.optimizers.SGD(0.1))
        return units(model)

    assert after(0) == after(2)


def test_refused_weights_change_nothing():
    model = sparse(topkast_scope(0.8, 0.6, refresh_every=100))
    fit(model)
    before = model.get_weights()
    wrong = [np.zeros(variable.shape) for variable in three_layers().weights]
    wrong[2] = np.zeros((3, 3))
    with pytest.raises(ValueError, match="shapes must match.*nothing was assigned"):
        model.set_weights(wrong)
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_strip_does_not_serialise_a_custom_loss(recwarn):
    model = sparse()
    model.compile("sgd", lambda y, z: tf.reduce_mean((y - z) ** 2))
    strip(model)
    again = sparsify(strip(model), 0.8, 0.6)
    assert not [w for w in recwarn if "safe_mode" in str(w.message)]
    assert model.get_compile_config() is not None and again.get_config()


# The state of recurrent layers.


@pytest.mark.parametrize("kind", ["SimpleRNN", "LSTM", "GRU"])
@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_strip_keeps_the_state_of_recurrent_layers(kind, library):
    library = pytest.importorskip(library)
    layers = library.layers
    with topkast_scope(0.8, 0.6):
        model = library.Sequential(
            [
                library.Input(batch_shape=(4, 3, 10))
                if library is keras
                else layers.InputLayer(batch_input_shape=(4, 3, 10)),
                getattr(layers, kind)(4, stateful=True),
                layers.Dense(2),
            ]
        )
    x = np.random.default_rng(0).normal(size=(4, 3, 10)).astype("float32")
    model(x)
    plain = strip(model)
    again = sparsify(plain, 0.8, 0.6)
    expected = np.array(model(x))
    np.testing.assert_allclose(plain(x), expected, atol=1e-6)
    np.testing.assert_allclose(again(x), expected, atol=1e-6)


def test_strip_of_a_model_that_makes_its_own_inputs():
    """As backbones of keras_hub do: the rebuilt model has one more input layer."""

    class Net(keras.Model):
        def __init__(self, width=8):
            inputs = keras.Input((6,))
            probe = keras.Model(spare := keras.Input((3,)), keras.layers.ReLU()(spare))
            super().__init__(inputs, keras.layers.Dense(width)(inputs))
            self.width, self.probe = width, probe

        def get_config(self):
            return {"width": self.width}

    with topkast_scope(0.5, 0.3):
        model = Net()
    x = tf.ones((2, 6))
    np.testing.assert_allclose(strip(model)(x), model(x), atol=1e-6)
