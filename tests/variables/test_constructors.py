"""Layers join a scope once they are constructed, however they are written."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import topkast_tf as tk


@keras.saving.register_keras_serializable("tests")
class FunctionalSubclass(keras.Model):
    """A model that calls the functional constructor from its own."""

    def __init__(self, width, **kwargs):
        inputs = keras.Input((8,))
        outputs = layers.Dense(width, name="inner")(inputs)
        super().__init__(inputs, outputs, **kwargs)
        self.width = width

    def get_config(self):
        return {"width": self.width, "name": self.name}


@keras.saving.register_keras_serializable("tests")
class Plain(keras.Model):
    """A subclass of the functional model without a constructor of its own."""


@keras.saving.register_keras_serializable("tests")
class Child(FunctionalSubclass):
    """Two levels deep, with a layer of its own behind."""

    def __init__(self, width, **kwargs):
        super().__init__(width, **kwargs)
        self.extra = layers.Dense(3)
        self.extra.build((None, width))


def plain(width):
    inputs = keras.Input((8,))
    return Plain(inputs, layers.Dense(width)(inputs))


def nested(width):
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.Dense(4)(FunctionalSubclass(width)(inputs)))


KERNELS = {FunctionalSubclass: 1, plain: 1, Child: 2, nested: 2}
INPUTS = np.random.default_rng(0).random((4, 8), np.float32)


@pytest.mark.parametrize("distribution", ["uniform", "erk", "global"])
@pytest.mark.parametrize("make", KERNELS)
def test_functional_models_written_as_subclasses(make, distribution, tmp_path):
    with tk.topkast_scope(0.75, 0.5, distribution=distribution):
        model = make(20)
    weights = tk.sparse_weights(model)
    assert len(weights) == KERNELS[make]
    model.compile("sgd", "mse")
    model.fit(INPUTS, model.predict(INPUTS, verbose=0), epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(INPUTS), model(INPUTS))
    for one, other in zip(weights, tk.sparse_weights(loaded), strict=True):
        np.testing.assert_array_equal(one.codes(), other.codes())
        assert one.step == other.step == 2
    again = type(model).from_config(model.get_config())
    assert len(tk.sparse_weights(again)) == KERNELS[make]
    np.testing.assert_allclose(tk.strip(model)(INPUTS), model(INPUTS), rtol=1e-6)


class Failing(keras.Model):
    """Builds a layer, and then raises."""

    def __init__(self):
        super().__init__()
        self.part = layers.Dense(7)
        self.part.build((None, 8))
        self.never_built = layers.Dense(7)
        raise ValueError("no")


def keep_traceback(error):
    """Keeps all objects of a failed call alive, as a notebook does."""
    sys.last_value = error


@pytest.fixture(autouse=True)
def forget_traceback():
    yield
    if hasattr(sys, "last_value"):
        del sys.last_value


@pytest.mark.parametrize("make", [lambda: layers.Dense(-1), Failing])
@pytest.mark.parametrize("exempt", [(), ("first", "last")])
def test_a_constructor_that_raises_leaves_no_trace(make, exempt, tmp_path):
    def model():
        return keras.Sequential(
            [keras.Input((8,)), *(layers.Dense(n) for n in (16, 16, 4))]
        )

    def make_in_scope(before):
        keras.utils.clear_session(free_memory=False)
        keras.utils.set_random_seed(0)
        with tk.topkast_scope(0.8, 0.5, distribution="erk", exempt=exempt):
            before()
            keras.utils.set_random_seed(1)
            return model()

    def fails():
        with pytest.raises(ValueError) as caught:
            make()
        keep_traceback(caught.value)

    expected, found = make_in_scope(lambda: None), make_in_scope(fails)
    summaries = [tk.summary(each) for each in (expected, found)]
    for one, other in zip(*(s.rows for s in summaries), strict=True):
        assert (one.shape, one.fwd, one.kept) == (other.shape, other.fwd, other.kept)
    assert len(summaries[0].left_dense) == len(summaries[1].left_dense)
    found.save(tmp_path / "model.keras")  # it does not wait for layers to be built
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(INPUTS), found(INPUTS))


def test_layers_passed_to_a_failed_constructor_stay_sparse():
    class Around(keras.Model):
        def __init__(self, inner):
            super().__init__()
            inner(INPUTS)
            raise ValueError("no")

    with tk.topkast_scope(0.8, 0.5):
        inner = layers.Dense(10)
        with pytest.raises(ValueError, match="no"):
            Around(inner)
    [weight] = tk.sparse_weights(inner)
    assert weight.forward_mask().sum() == 16
