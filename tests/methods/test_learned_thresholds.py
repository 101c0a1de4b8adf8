"""STR and DST, whose thresholds the optimizer trains next to theta."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo
from topkast_tf.methods import STR, register

RATE = 0.5


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def str_by_hand(theta, s, upstream):
    """Alpha, dL/dtheta and dL/ds of STR, from dL/dalpha."""
    kept = np.abs(theta) > sigmoid(s)
    alpha = np.sign(theta) * np.maximum(np.abs(theta) - sigmoid(s), 0)
    by_s = -np.sum((upstream(alpha) * np.sign(theta))[kept])
    return upstream(alpha) * kept, by_s * sigmoid(s) * (1 - sigmoid(s)) + 0.01 * s


def dst_by_hand(theta, t, upstream):
    x = np.abs(theta) - t
    a = np.abs(x)
    slope = np.where(a <= 0.4, 2 - 4 * a, np.where(a <= 1, 0.4, 0.0))
    mask = x > 0
    through_mask = upstream(theta * mask) * theta * slope
    by_theta = upstream(theta * mask) * mask + through_mask * np.sign(theta)
    return by_theta, -through_mask.sum(axis=0, keepdims=True) - 0.01 * np.exp(-t)


BY_HAND = {"str": str_by_hand, "dst": dst_by_hand}
INITIAL = {"str": np.float64(-2.0), "dst": np.zeros((1, 6))}
ARGUMENTS = {
    "str": {"initial_threshold": -2.0, "decay": 0.01},
    "dst": {"penalty_coefficient": 0.01},
}
THRESHOLD = {"str": sigmoid, "dst": lambda t: t}


def one_layer(name):
    keras.utils.set_random_seed(1)
    with tk.sparse_scope(name, **ARGUMENTS[name]):
        model = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(6, use_bias=False)]
        )
    model.compile(keras.optimizers.SGD(RATE), "mse")
    return model


def batches(steps=4):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps, 8, 12)).astype("float32")
    return x, np.tanh(x @ rng.normal(size=(12, 6))).astype("float32")


def learned(weight):
    return weight.auxiliary["threshold"].numpy()


@pytest.mark.parametrize("name", BY_HAND)
def test_theta_and_thresholds_are_trained_and_the_sets_follow(name, tmp_path):
    model = one_layer(name)
    [weight] = tk.sparse_weights(model)
    theta, threshold = weight.dense().astype(float), INITIAL[name]
    sizes = [weight.forward_mask().sum()]
    x, y = batches()
    for a, b in zip(x, y, strict=True):
        by_theta, by_threshold = BY_HAND[name](
            theta,
            threshold,
            lambda alpha, a=a, b=b: a.T @ (2 * (a @ alpha - b) / b.size),
        )
        theta, threshold = theta - RATE * by_theta, threshold - RATE * by_threshold
        model.train_on_batch(a, b)
        np.testing.assert_allclose(weight.dense(), theta, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(learned(weight), threshold, rtol=1e-4)
        expected = np.abs(weight.dense()) > THRESHOLD[name](learned(weight))
        np.testing.assert_array_equal(weight.forward_mask(), expected)
        np.testing.assert_array_equal(weight.effective() != 0, expected)
        sizes.append(expected.sum())
        # Of the steps so far, each with the sets that it began with.
        mean = weight.auxiliary["mean_density"].numpy()
        assert mean == pytest.approx(np.mean(sizes[:-1]) / expected.size, rel=1e-5)
    [row] = tk.count_flops(model).rows
    of_theta = 1.0 if name == "dst" else mean
    assert row.mean == pytest.approx((1 - mean, 1 - mean, 1 - of_theta), abs=1e-6)
    assert len(set(sizes)) > 1 and 0 < sizes[-1] < expected.size
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    [other] = tk.sparse_weights(loaded)
    np.testing.assert_array_equal(other.codes(), weight.codes())
    np.testing.assert_array_equal(learned(other), learned(weight))
    for each in (model, loaded):
        each.train_on_batch(x[0], y[0])
    np.testing.assert_array_equal(other.dense(), weight.dense())
    np.testing.assert_array_equal(learned(other), learned(weight))
    plain = tk.strip(model)
    assert [w.name for w in plain.weights] == ["kernel"]
    np.testing.assert_allclose(
        plain.predict(x[0], verbose=0), model.predict(x[0], verbose=0), rtol=1e-5
    )


def test_weights_of_a_dense_model_reset_the_thresholds():
    model = one_layer("str")
    [weight] = tk.sparse_weights(model)
    x, y = batches(2)
    model.train_on_batch(x[0], y[0])
    assert learned(weight) != -2
    theta = np.linspace(-1, 1, 72, dtype="float32").reshape(12, 6)
    model.set_weights([theta])
    assert learned(weight) == -2 and weight.step == 0
    np.testing.assert_array_equal(weight.forward_mask(), np.abs(theta) > sigmoid(-2))


def test_replicas_train_as_one_device(tmp_path):
    x, y = batches(3)
    found = []
    for strategy in (tf.distribute.get_strategy(), zoo.two_devices()):
        with strategy.scope():
            model = one_layer("dst")
        for a, b in zip(x, y, strict=True):
            model.fit(a, b, batch_size=8, verbose=0, shuffle=False)
        [weight] = tk.sparse_weights(model)
        found.append((weight.dense(), learned(weight), weight.forward_mask()))
    for one, two in zip(*found, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_trained_thresholds_need_a_layer_and_dense_updates():
    with pytest.raises(ValueError, match="Expected a Keras layer.*'str'.*threshold"):
        with tk.sparse_scope("str"):
            tf.Variable(tf.ones([4, 4]), name="kernel")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Masked(STR):
        name = "masked"
        dense_updates = False

    with pytest.raises(TypeError, match="dense_updates=True"):
        register(Masked)


def test_threshold_methods_refuse_set_masks_and_freeze():
    model = one_layer("str")
    [weight] = tk.sparse_weights(model)
    for change in (lambda: weight.set_masks(np.eye(12, 6)), lambda: tk.freeze(model)):
        with pytest.raises(ValueError, match="'str', which computes alpha itself"):
            change()


def test_a_distribution_is_refused():
    """It would have no effect."""
    with pytest.raises(ValueError, match="finds the sparsity of each weight"):
        with tk.sparse_scope("str", distribution={".*": 0.0}):
            pass
