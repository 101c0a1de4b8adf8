"""A saved Transformer-XL is restored with its memory and its configuration."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from launch.models.transformer_xl import TransformerXL
from launch.models.transformer_xl_config import TransformerXLConfig
from tests.launch.transformer_xl_models import (
    ONE,
    TINY,
    VARIANTS,
    build,
    compiled,
    dataset,
    quiet_fit,
)


@pytest.mark.parametrize(
    "form",
    [
        "model.weights.h5",
        pytest.param("model.keras", marks=pytest.mark.slow),
        pytest.param("checkpoint", marks=pytest.mark.slow),
    ],
)
def test_resumed_training_equals_uninterrupted_training_bitwise(form, tmp_path):
    config = TINY.replaced(dropout=0.2, attention_dropout=0.1)
    # A file of weights alone does not hold an optimizer.
    make = keras.optimizers.SGD if "weights" in form else keras.optimizers.Adam
    path = str(tmp_path / form)

    def fresh(seed):
        model = build(config, seed=seed, std=0)
        model.compile(make(0.05), jit_compile=False)
        return model

    model, data = fresh(0), dataset()
    quiet_fit(model, data)
    kept = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    if form == "checkpoint":
        kept.write(path)
    else:
        (model.save if form.endswith("keras") else model.save_weights)(path)
    expected = quiet_fit(model, data)
    if form.endswith("keras"):
        resumed = keras.models.load_model(path)
    else:
        resumed = fresh(1)
        if form == "checkpoint":
            # Keras restores only an optimizer that has its variables.
            resumed.optimizer.build(resumed.trainable_variables)
            pair = {"model": resumed, "optimizer": resumed.optimizer}
            tf.train.Checkpoint(**pair).read(path)
        else:
            resumed.load_weights(path)
    assert quiet_fit(resumed, data) == expected
    for a, b in zip(model.weights, resumed.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    memories = (m.memory.values("training") for m in (model, resumed))
    for a, b in zip(*(m.values() for m in memories), strict=True):
        np.testing.assert_array_equal(a, b)


def test_loaded_model_accepts_batches_of_another_size(tmp_path):
    model = compiled(ONE, rate=0.0)
    quiet_fit(model, dataset())
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)
    loaded = compiled(ONE, rate=0.0, seed=1)
    loaded.load_weights(path)
    loaded.save_weights(path)  # its memory, not used yet, is saved again
    loaded.load_weights(path)
    for batch in (1, 3, 1):
        data = dataset(batch)
        model.reset_memory("evaluation")
        loaded.reset_memory("evaluation")
        expected = model.evaluate(data, verbose=0)
        assert loaded.evaluate(data, verbose=0) == expected
    assert quiet_fit(loaded, dataset(2))["nll"] == quiet_fit(model, dataset(2))["nll"]


def test_memory_of_a_deeper_model_is_refused():
    store = {"training_2x4_1_0": np.zeros((2, 4, 8))}
    with pytest.raises(ValueError, match="a model of 1 layers. Received: training_2x4"):
        build(ONE).memory.load_own_variables(store)


def test_model_is_rebuilt_from_its_configuration():
    config = VARIANTS["narrowing"]
    model = build(config, name="again")
    again = TransformerXL.from_config(model.get_config())
    assert again.config == config and again.name == "again"
    assert isinstance(again.config, TransformerXLConfig)
    assert dataclasses.asdict(again.config) == dataclasses.asdict(config)
