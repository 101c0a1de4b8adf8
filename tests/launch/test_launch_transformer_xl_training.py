"""Training a Transformer-XL: its steps, its loss and metrics over tokens."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from launch.models.segment_memory import ResetMemory
from launch.models.transformer_xl import TransformerXL
from launch.run import gradient_step
from tests import zoo
from tests.launch.transformer_xl_models import (
    ONE,
    TINY,
    build,
    compiled,
    dataset,
    quiet_fit,
    randomise,
    text,
)


def test_fit_equals_a_written_out_loop():
    fitted, looped = compiled(), compiled()
    history = quiet_fit(fitted, dataset(), epochs=2)
    memory, losses = [tf.zeros((2, 4, 8))] * 2, []
    for inputs, targets in [*zip(*text(), strict=True)] * 2:
        with tf.GradientTape() as tape:
            hidden, memory = looped.core(inputs, memory, training=True)
            loss = tf.reduce_mean(looped.softmax(hidden, targets))
        variables = looped.trainable_weights
        gradients = tape.gradient(loss, [v.value for v in variables])
        looped.optimizer.apply(gradients, variables)
        losses.append(loss.numpy())
    for a, b in zip(fitted.trainable_weights, variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    expected = np.reshape(losses, (2, 3)).mean(1)
    np.testing.assert_allclose(history["loss"], expected, rtol=1e-5)
    states = fitted.memory.values("training").values()
    for found, state in zip(states, memory, strict=True):
        np.testing.assert_allclose(found, state, rtol=1e-4, atol=1e-6)


def test_metrics_are_means_over_tokens_in_their_units():
    model = compiled(rate=0.0)
    found = model.evaluate(dataset(), verbose=0, return_dict=True)
    memory, nll = [tf.zeros((2, 4, 8))] * 2, []
    for inputs, targets in zip(*text(), strict=True):
        hidden, memory = model.core(inputs, memory, training=False)
        nll.append(model.softmax(hidden, targets))
    mean = np.mean(nll)
    expected = {"loss": mean, "nll": mean, "bpc": mean / math.log(2)}
    assert found == pytest.approx({**expected, "perplexity": math.exp(mean)}, rel=1e-5)


def test_sample_weights_exclude_padding():
    model = compiled(rate=0.0)
    (inputs, targets), weight = text(), np.ones((3, 2, 4), "float32")
    shorter = model.evaluate(
        tf.data.Dataset.from_tensors((inputs[0][:, :3], targets[0][:, :3])), verbose=0
    )
    model.reset_memory()
    weight[..., 3] = 0
    data = tf.data.Dataset.from_tensors((inputs[0], targets[0], weight[0]))
    np.testing.assert_allclose(model.evaluate(data, verbose=0), shorter, rtol=1e-5)


def filled_up():
    """Two batches; the second has three tokens, all in its first row."""
    (inputs, targets), weight = text(segments=2), np.ones((2, 2, 4), "float32")
    weight[1, 0, 3] = weight[1, 1] = 0
    return inputs, targets, weight


def means_over_tokens(model):
    """(nll, with penalties) of `filled_up` by hand: the sum over 11 tokens, by 11."""
    memory, total = [tf.zeros((2, 4, 8))] * 2, 0.0
    for inputs, targets, weight in zip(*filled_up(), strict=True):
        hidden, memory = model.core(inputs, memory, training=False)
        total += np.sum(model.softmax(hidden, targets) * weight)
    kernel = model.core.blocks[0].inner.kernel
    return total / 11, total / 11 + 0.5 * np.sum(np.square(kernel))


def penalised(model):
    model.core.blocks[0].inner.kernel.regularizer = keras.regularizers.L2(0.5)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    return model


def test_loss_of_a_padded_batch_is_averaged_over_tokens():
    model = penalised(build())
    nll, loss = means_over_tokens(model)
    data = tf.data.Dataset.from_tensor_slices(filled_up())
    for _ in range(2):  # no state is left from the previous evaluation
        model.reset_memory()
        found = model.evaluate(data, verbose=0, return_dict=True)
        assert sorted(found) == ["bpc", "loss", "nll", "perplexity"]
        assert found["nll"] == pytest.approx(nll, rel=1e-5)
        assert found["loss"] == pytest.approx(loss, rel=1e-5)
    trained = quiet_fit(model, data)
    assert trained["loss"] == pytest.approx([loss], rel=1e-5)


def test_loss_of_unequal_replicas_is_averaged_over_tokens():
    single = penalised(build())
    with zoo.two_devices().scope():
        mirrored = TransformerXL(TINY)
        penalised(mirrored)
    randomise(mirrored)
    data = tf.data.Dataset.from_tensor_slices(filled_up())
    found = mirrored.evaluate(data, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(means_over_tokens(single)[1], rel=1e-5)


def test_loss_of_the_launcher_is_averaged_over_tokens():
    model = penalised(build())
    loss = means_over_tokens(model)[1]
    step = gradient_step.train_step(model, 1, False)
    for x, y, weight in zip(*filled_up(), strict=True):
        found = step((x, tf.constant(y), tf.constant(weight)))
    assert float(found["loss"]) == pytest.approx(loss, rel=1e-5)


def test_model_learns_a_repeated_sequence():
    tokens = np.tile(np.arange(8, dtype="int32"), 5)[None].repeat(2, 0)[:, :33]
    parts = (tokens[:, :-1], tokens[:, 1:])
    data = tf.data.Dataset.from_tensor_slices(
        tuple(part.reshape(2, 8, 4).swapaxes(0, 1) for part in parts)
    )
    model = build(ONE, std=0)
    model.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    nll = quiet_fit(model, data, epochs=12)["nll"]
    assert nll[0] > 1.5 and nll[-1] < 0.2


@pytest.mark.slow
def test_xla_equals_graph_execution():
    found = []
    for jit in (False, True):
        model = build(ONE)
        model.compile(keras.optimizers.SGD(0.1), jit_compile=jit)
        found.append(quiet_fit(model, dataset())["nll"][0])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    anew = {"callbacks": [ResetMemory()], "verbose": 0}
    assert np.isfinite([model.evaluate(dataset(b), **anew)[0] for b in (1, 3)]).all()
    with pytest.raises(ValueError, match="drop_remainder=True"):
        model.evaluate(*(part[0] for part in text()), verbose=0)
    clusters = build(ONE.replaced(cutoffs=(4,)))
    clusters.compile("sgd")
    assert not clusters.jit_compile


def test_penalties_are_part_of_the_loss():
    model = compiled(rate=0.0)
    model.core.blocks[0].inner.kernel.regularizer = keras.regularizers.L2(0.5)
    found = model.evaluate(dataset(), verbose=0, return_dict=True)
    penalty = 0.5 * np.sum(np.square(model.core.blocks[0].inner.kernel))
    assert found["loss"] - found["nll"] == pytest.approx(penalty, rel=1e-4)
