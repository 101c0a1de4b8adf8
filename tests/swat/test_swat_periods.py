"""When SWAT selects: sets between two selections, and frozen sets."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from swat_tf import swat_scope
from swat_tf.report import DensityLog
from tests import zoo
from tests.small_models import build_optimizer
from tests.swat import swat_oracle as oracle
from tests.swat.swat_models import LOSS, build, build_to_train
from topkast_tf.variables.counters import Counter


def fit_steps(model, size, steps=1):
    random = np.random.default_rng(model.optimizer.iterations.numpy())
    for _ in range(steps):
        x = random.standard_normal((8, *size)).astype(np.float32)
        model.train_on_batch(x, np.ones((8, 1), np.float32))


# Layers that keep everything


@pytest.mark.parametrize(
    ("sparsity", "arguments"),
    [
        (0.8, {"exempt": "last"}),
        (0.8, {"exempt": "last", "distribution": "momentum"}),
        (0.8, {"exempt": "last", "distribution": "global"}),
        (0.8, {"exempt": "last", "activations": 0.5}),
        (0.5, {"distribution": "erk"}),
        (0.8, {"distribution": {"head": 0.0}}),
        (0.0, {}),
    ],
    ids=["last", "last momentum", "last global", "activations", "erk", "mapping", "0"],
)
def test_fully_kept_layer_is_dense_at_each_step(sparsity, arguments):
    keras.utils.set_random_seed(0)
    with swat_scope(sparsity, topk_period=4, **arguments) as scope:
        model = keras.Sequential(
            [
                keras.Input((64,)),
                layers.Dense(64, name="body"),
                layers.Dense(1, name="head"),
            ]
        )
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    build_optimizer(model)
    head = scope.weights[-1]  # `sparse_weights` leaves out an exempt one
    assert head.forward_mask().all()
    for _ in range(6):
        fit_steps(model, (64,))
        assert head.forward_mask().all()
        assert head.rule.realised(head) == 0.0


def test_global_threshold_applies_to_small_layers():
    """Entries are dropped from all layers together, not from each by its size."""
    keras.utils.set_random_seed(0)
    with swat_scope(0.2, topk_period=10, distribution="global"):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(64), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    weights = tk.sparse_weights(model)
    weights[-1]._theta.assign(tf.concat([tf.ones((60, 1)), 1e-6 * tf.ones((4, 1))], 0))
    before = [weight.forward_mask() for weight in weights]
    assert not before[-1].all()
    fit_steps(model, (4,), 3)
    for weight, mask in zip(weights, before, strict=True):
        np.testing.assert_array_equal(weight.forward_mask(), mask)


# A period of several steps


def perceptron():
    hidden = layers.Dense(16, activation="tanh", name="hidden")
    inputs = [keras.Input((8, 8, 1)), layers.Flatten()]
    return keras.Sequential([*inputs, hidden, layers.Dense(10, name="top")])


def test_thresholds_are_stale_between_refreshes_and_exact_at_them(digits):
    images, labels = digits
    model = build_to_train(zoo.nested, sparsity=0.8, topk_period=4)
    weights = tk.sparse_weights(model)
    thresholds = remembered(weights)
    for step in range(1, 13):
        model.train_on_batch(images[:32], labels[:32])
        for i, weight in enumerate(weights):
            magnitudes, mask = np.abs(weight.dense()), weight.forward_mask()
            if step % 4 == 0:
                np.testing.assert_array_equal(mask, oracle.mask(weight.dense(), 0.8))
            else:
                np.testing.assert_array_equal(mask, magnitudes >= thresholds[i])
        if step % 4 == 0:
            thresholds = remembered(weights)
            for weight, threshold in zip(weights, thresholds, strict=True):
                kept = np.abs(weight.dense())[weight.forward_mask()]
                assert kept.min() == threshold


@pytest.mark.parametrize(
    ("arguments", "dense"),
    [
        ({"distribution": {"top": 0.0}}, [False, True]),
        ({"distribution": lambda shapes: dict.fromkeys(shapes, 0.0)}, [True, True]),
        ({"distribution": "momentum", "sparsity": 0.0}, [True, True]),
        ({"distribution": "global", "sparsity": 0.0}, [True, True]),
    ],
    ids=["mapping", "function", "momentum", "global"],
)
def test_dense_layers_stay_dense_between_selections(arguments, dense, digits):
    images, labels = digits
    model = build(perceptron, **{"sparsity": 0.8, "topk_period": 100} | arguments)
    model.compile(keras.optimizers.SGD(1e-3, weight_decay=500.0), LOSS)  # all shrink
    weights = tk.sparse_weights(model)
    for _ in range(6):
        model.train_on_batch(images[:32], labels[:32])
        for weight, expected in zip(weights, dense, strict=True):
            assert weight.forward_mask().all() == expected, weight.path


@pytest.mark.parametrize(
    ("builder", "arguments"),
    [(perceptron, {}), (zoo.functional, {"structured": "channel"})],
    ids=["weights", "channels"],
)
def test_the_exempt_last_layer_stays_dense_between_selections(
    builder, arguments, digits
):
    images, labels = digits
    model = build(builder, 0.8, topk_period=100, exempt="last", **arguments)
    model.compile(keras.optimizers.SGD(1e-3, weight_decay=500.0), LOSS)  # all shrink
    last = model.layers[-1]
    one_at_a_time = np.eye(last.kernel.shape[0], dtype=np.float32)
    for _ in range(6):
        model.train_on_batch(images[:32], labels[:32])
        np.testing.assert_allclose(
            last(one_at_a_time) - last.bias, last.kernel.numpy(), atol=1e-8
        )


def test_activations_of_a_dense_layer_stay_dense_between_selections(digits):
    images, labels = digits
    model = build_to_train(
        perceptron, sparsity=0.8, topk_period=100, distribution={"top": 0.0}
    )
    features = keras.Model(model.inputs[0], model.layers[-1].input)
    model.optimizer.learning_rate.assign(0.0)
    for scale in (1.0, 1e-5):  # the second batch is below the first threshold
        x = scale * (images[:32] + 0.1)
        inputs = features(x).numpy()
        model.train_on_batch(x, labels[:32])
        _, kept, size = tk.sparse_weights(model)[-1].auxiliary["activations"].numpy()
        assert (kept, size) == (np.count_nonzero(inputs), inputs.size)


def remembered(weights):
    """The thresholds of the last selection, as the counters hold them."""
    keys = [int(weight.counters.numpy()[Counter.THRESHOLD]) for weight in weights]
    return [np.int32(key).view(np.float32) for key in keys]


@pytest.mark.parametrize("structured", [None, "channel"])
def test_period_of_convolutions_applies_to_single_weights_only(structured, digits):
    images, labels = digits
    model = build_to_train(
        zoo.functional,
        sparsity=0.8,
        topk_period=4,
        topk_period_of="convolutions",
        structured=structured,
    )
    weights = tk.sparse_weights(model)
    assert [len(w.shape) for w in weights] == [4, 4, 2]
    thresholds, keys = remembered(weights), []
    for step in range(1, 10):
        model.train_on_batch(images[:32], labels[:32])
        for weight, threshold in zip(weights, thresholds, strict=True):
            theta, mask = weight.dense(), weight.forward_mask()
            if weight.blocks:
                norms = np.abs(theta).sum((0, 1))
                exact = np.broadcast_to(oracle.mask(norms, 0.8), theta.shape)
            elif len(theta.shape) == 2 or step % 4 == 0:
                exact = oracle.mask(theta, 0.8)
            else:
                exact = np.abs(theta) >= threshold
            np.testing.assert_array_equal(mask, exact)
        if step % 4 == 0:
            thresholds = remembered(weights)
        *convolutions, dense = [w.auxiliary["activations"].numpy() for w in weights]
        assert dense[0] == 0 and dense[1] <= dense[2] - int(0.8 * dense[2])
        keys.append([int(found[0]) for found in convolutions])
    # Of the second convolution's activations, which move: found at steps 0, 4 and 8.
    of_second = [key for _, key in keys]
    assert [len(set(of_second[a : a + 4])) for a in (0, 4)] == [1, 1]
    assert len(set(of_second)) == 3


def test_period_of_convolutions_updates_swat_m_dense_layers_each_step(digits):
    images, labels = digits
    model = build_to_train(
        zoo.functional,
        sparsity=0.8,
        distribution="momentum",
        topk_period=3,
        topk_period_of="convolutions",
    )
    weights = tk.sparse_weights(model)
    budget = sum(w.dense().size for w in weights)
    budget -= int(0.8 * budget)
    seen = []
    for step in range(1, 8):
        active = [weight.forward_mask() for weight in weights]
        model.train_on_batch(images[:32], labels[:32])
        of = [model.optimizer._get_variable_index(w._theta) for w in weights]
        momenta = [model.optimizer.momentums[i].numpy() for i in of]
        means = [np.abs(m[a]).mean() for m, a in zip(momenta, active, strict=True)]
        sizes = [weight.dense().size for weight in weights]
        asked = oracle.momentum_budget(means, sizes, budget)
        found = [
            int(weight.counters.numpy()[Counter.KEPT_FORWARD]) for weight in weights
        ]
        assert found[-1] == weights[-1].forward_mask().sum()
        assert found[-1] == pytest.approx(asked[-1], abs=1)
        if step % 3 == 0:
            assert found == pytest.approx(asked, abs=1)
            assert found == [weight.forward_mask().sum() for weight in weights]
        seen.append(found)
    assert seen[0][:2] == seen[1][:2] and seen[2][:2] == seen[3][:2] == seen[4][:2]
    assert seen[1][:2] != seen[2][:2]


def test_period_of_convolutions_is_saved_and_old_files_have_one_of_all():
    def periods(layer):
        [weight] = tk.sparse_weights(layer)
        return weight.schedule.period, weight.rule._period(weight)

    with swat_scope(0.5, topk_period=7, topk_period_of="convolutions"):
        dense, conv = layers.Dense(4), layers.Conv1D(4, 3)
    for layer, shape, expected in (
        (dense, (None, 5), (1, 1)),
        (conv, (None, 9, 5), (7, 7)),
    ):
        layer.build(shape)
        config = layer.get_config()
        again = type(layer).from_config(config)
        again.build(shape)
        assert periods(layer) == periods(again) == expected
        del config["topkast"]["scope"]["arguments"]["topk_period_of"]
        del config["topkast"]["rule"]["config"]["topk_period_of"]
        older = type(layer).from_config(config)
        older.build(shape)
        assert periods(older) == (7, 7)


def test_drift_of_the_realised_densities_is_small(digits, tmp_path):
    """With a period of 20 steps the densities stay within a fifth of the nominal."""
    images, labels = digits
    model = build_to_train(zoo.functional, sparsity=0.8, topk_period=20)
    log = DensityLog(tmp_path / "densities.csv", every=1)
    model.optimizer.learning_rate.assign(0.01)
    model.fit(images, labels, batch_size=32, epochs=8, callbacks=[log], verbose=0)
    rows = np.genfromtxt(
        tmp_path / "densities.csv", delimiter=",", names=True, dtype=None, encoding=None
    )
    assert len(rows) == 64 * 3
    assert np.all(np.abs(rows["weights"] - 0.2) < 0.04)
    assert np.all(rows["activations"] < 0.24)  # zeros may leave fewer than were asked
    drifted = rows["weights"][rows["step"] % 20 == 19]
    exact = rows["weights"][rows["step"] % 20 == 0]
    assert np.abs(drifted - 0.2).max() > np.abs(exact - 0.2).max()


def test_activation_thresholds_are_computed_when_due(digits):
    images, labels = digits
    model = build_to_train(zoo.nested, sparsity=0.8, topk_period=3)
    weight = tk.sparse_weights(model)[0]
    seen = []
    for _ in range(7):
        model.train_on_batch(images[:32], labels[:32])
        key, kept, size = weight.auxiliary["activations"].numpy()
        seen.append(int(key))
        assert size == 32 * 64 and kept <= 0.25 * size  # ties stay
    # The first layer gets the same batch at each step: steps 0, 3 and 6 agree.
    assert len(set(seen)) == 1
    # Evaluation and inference do not change it.
    model.evaluate(images[:8] * 5, labels[:8], verbose=0)
    assert int(weight.auxiliary["activations"].numpy()[0]) == seen[0]


def test_sets_are_frozen_from_freeze_at_on(digits):
    images, labels = digits
    model = build(zoo.nested, sparsity=0.8, freeze_at=3)
    codes = []
    for _ in range(6):
        model.train_on_batch(images[:32], labels[:32])
        codes.append([w.codes() for w in tk.sparse_weights(model)])
    assert any(np.any(a != b) for a, b in zip(codes[0], codes[1], strict=True))
    for later in codes[3:]:
        for a, b in zip(codes[2], later, strict=True):
            np.testing.assert_array_equal(a, b)
