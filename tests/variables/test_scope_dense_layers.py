"""Keras's own operations on a sparse layer: dense copies, quantization, LoRA."""

import keras
import pytest
from keras import layers

import topkast_tf as tk
from tests.small_models import scope, three_layers


@pytest.mark.parametrize("name", ["Dense", "EinsumDense", "Conv2D", "LSTM"])
def test_a_dense_layer_from_the_configuration_of_a_sparse_one(name):
    arguments = {"EinsumDense": ("ab,bc->ac", 4), "Conv2D": (4, 3)}.get(name, (4,))
    cls = getattr(layers, name)
    with scope():
        sparse = cls(*arguments, name="layer")
    dense = cls.from_config(sparse.get_config())
    assert type(dense) is cls
    assert dense.get_config() == cls(*arguments, name="layer").get_config()
    assert type(type(sparse).from_config(sparse.get_config())) is type(sparse)


def test_a_users_layer_from_the_configuration_of_a_sparse_one():
    class Doubled(layers.Layer):
        def __init__(self, units, name=None):
            super().__init__(name=name)
            self.units = units

        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=(shape[-1], self.units))

        def call(self, x):
            return 2 * (x @ self.kernel)

        def get_config(self):
            return {"units": self.units, "name": self.name}

    with scope():
        sparse = Doubled(3)
    dense = Doubled.from_config(sparse.get_config())
    assert type(dense) is Doubled and dense.units == 3


def test_quantization_is_refused():
    with scope():
        body = three_layers()
        model = keras.Sequential([keras.Input((20,)), layers.Dense(20), body])
    outside = keras.Sequential([keras.Input((20,)), layers.Dense(20), body])
    refused = "quantization: `strip` the model first.*Received.*"
    for made in (model, outside):
        with pytest.raises(ValueError, match=refused + "layer 'd"):
            made.quantize("int8")
        # No layer is quantised, not even those before the sparse one.
        assert {v.dtype for v in made.trainable_variables} == {"float32"}
    with pytest.raises(ValueError, match=refused + "d20"):
        body.layers[1].quantize("int8")
    plain = tk.strip(body)
    plain.quantize("int8")
    assert plain.layers[0].kernel.dtype == "int8"


def test_lora_is_refused():
    with scope():
        model = three_layers()
    with pytest.raises(ValueError, match="`strip` the model first.*Received.*d30"):
        model.layers[0].enable_lora(2)
