"""Small Transformer-XLs, and the texts and memories that their tests share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from launch.models.transformer_xl import TransformerXL
from launch.models.transformer_xl_config import CONFIGS

TINY = CONFIGS["txl_tiny"]
ONE = TINY.replaced(layers=1)
CLUSTERS = {"cutoffs": (3, 6), "d_embed": 16}
VARIANTS = {
    "plain": TINY,
    "shared_biases": TINY.replaced(untie_biases=False),
    "embedding_projected": TINY.replaced(d_embed=6),
    "clusters": TINY.replaced(cutoffs=(3, 6)),
    "clusters_projected": TINY.replaced(cutoffs=(3, 6), d_embed=6),
    "narrowing": TINY.replaced(**CLUSTERS, div_val=4),
    "narrowing_untied": TINY.replaced(**CLUSTERS, div_val=4, tie_projections=False),
    "clamped": TINY.replaced(evaluation_clamp_len=3),
    "same_length": TINY.replaced(same_length=True),
}
EACH = pytest.mark.parametrize("variant", VARIANTS)


def build(config=TINY, std=0.3, seed=0, **kwargs):
    """A model with random weights, including biases and norms."""
    keras.utils.set_random_seed(seed)
    model = TransformerXL(config, **kwargs)
    if std:
        randomise(model, std)
    return model


def randomise(model, std=0.3):
    random = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(random.normal(0, std, weight.shape))


def compiled(config=TINY, rate=0.1, **kwargs):
    model = build(config, **kwargs)
    model.compile(keras.optimizers.SGD(rate), jit_compile=False)
    return model


def weights(model):
    return {w.path.split("/", 1)[1]: np.float64(w) for w in model.trainable_weights}


def text(batch=2, segments=3, length=4, seed=0, vocabulary=11):
    """Segments that continue each other: inputs and targets [segments, batch, length]."""
    tokens = np.random.default_rng(seed).integers(
        0, vocabulary, (batch, segments * length + 1), np.int32
    )
    return tuple(
        part.reshape(batch, segments, length).swapaxes(0, 1)
        for part in (tokens[:, :-1], tokens[:, 1:])
    )


def dataset(*arguments, **keywords):
    return tf.data.Dataset.from_tensor_slices(text(*arguments, **keywords))


def empty(config, batch=2):
    return [tf.zeros((batch, 0, config.d_model))] * config.layers


def random_memory(config, states=5, batch=2):
    shape = (config.layers, batch, states, config.d_model)
    return np.random.default_rng(1).normal(size=shape).astype("float32")


def quiet_fit(model, data, **kwargs):
    return model.fit(data, shuffle=False, verbose=0, **kwargs).history
