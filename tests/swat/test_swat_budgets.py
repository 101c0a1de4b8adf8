"""How SWAT distributes its budget over layers: ERK, by name, by momentum."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from swat_tf import momentum, swat_scope
from swat_tf.report import layer_densities
from tests import zoo
from tests.small_models import build_optimizer
from tests.swat import swat_oracle as oracle
from tests.swat.swat_models import LOSS, build


def test_budget_by_layer_name():
    model = build(distribution={"dense": 0.5}, sparsity=0.8)
    assert [w.fwd for w in tk.sparse_weights(model)] == [0.8, 0.5]
    rules = [w.rule.sparsity_of(w) for w in tk.sparse_weights(model)]
    assert rules == [0.8, 0.5]  # activations as the weights


def test_momentum_budget_by_hand():
    # Shares 0.9 and 0.1 of 20: 18 and 2. The first has only 10: its excess of 8 is
    # spread as 4 and 4, then 2 and 2; the remaining 2 are at most one per layer.
    share = tf.constant([0.9, 0.1], tf.float64)
    found = momentum.allot(share, [10, 100], tf.constant(20))
    np.testing.assert_array_equal(found, [10, 8])
    # Nothing to give back.
    found = momentum.allot(share, [100, 100], tf.constant(20))
    np.testing.assert_array_equal(found, [18, 2])
    m = tf.constant([3.0, -1.0, 8.0])
    active = tf.constant([True, True, False])
    np.testing.assert_allclose(momentum.shares([m, 3 * m], [active] * 2), [0.25, 0.75])
    zero = tf.zeros(3)
    np.testing.assert_allclose(momentum.shares([zero, zero], [active] * 2), [0.5, 0.5])


def test_momentum_budget_stops_once_it_is_exceeded():
    # 45, 45, 10 of 100, in layers of 10, 10 and 1000. The first two are dense; their
    # excess is spread: 24, 16, 11, 8, 6, 4 for the third make 79, 99 in all, and 3 more
    # make 82. Then 102 are kept, and the remaining 6 are dropped.
    share = tf.constant([0.45, 0.45, 0.10], tf.float64)
    found = momentum.allot(share, [10, 10, 1000], tf.constant(100))
    np.testing.assert_array_equal(found, [10, 10, 82])
    # A layer that is rounded up to its size, from 199 to 200, takes that from the others:
    # 302 and 133, 89, 60, 40, 27, 18, 12, 8, 6, 4, 3 are 702. (Else it would have 701.)
    share = tf.constant([0.1985, 0.5, 0.3015], tf.float64)
    found = momentum.allot(share, [200, 100, 5000], tf.constant(1000))
    np.testing.assert_array_equal(found, [200, 100, 702])


@pytest.mark.parametrize("seed", range(8))
def test_momentum_budget_against_its_definition(seed):
    random = np.random.default_rng(seed)
    layers = random.integers(2, 30)
    means = random.random(layers) ** 3
    sizes = (10 ** random.uniform(0.3, 4, layers)).astype(int).tolist()
    budget = sum(sizes) // random.integers(2, 20)
    share = tf.constant(means / means.sum(), tf.float64)
    found = tf.function(momentum.allot)(share, sizes, tf.constant(budget))
    expected = oracle.momentum_budget(means.tolist(), sizes, budget)
    np.testing.assert_array_equal(found, expected)
    total = sum(expected)
    dense = sum(size for size, k in zip(sizes, expected, strict=True) if k == size)
    assert budget - layers <= total <= budget + 3 * layers + 0.01 * dense


def test_swat_m_keeps_its_budget_with_small_layers():
    keras.utils.set_random_seed(0)
    widths = (4, 4, 4, 400, 1)
    with swat_scope(0.9, distribution="momentum"):
        model = keras.Sequential([keras.Input((4,)), *map(layers.Dense, widths)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    build_optimizer(model)
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(64, 4)), random.normal(size=(64, 1))
    sizes = [16, 16, 16, 1600, 400]
    budget = sum(sizes) - int(0.9 * sum(sizes))
    for _ in range(10):
        model.train_on_batch(inputs, targets)
        kept = sum(w.forward_mask().sum() for w in tk.sparse_weights(model))
        assert budget - 5 <= kept <= budget + 3 * 5 + 0.01 * sum(sizes)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.05, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.SGD(0.05),  # no momentum: an average is kept
    ],
    ids=["sgd", "adam", "none"],
)
def test_swat_m_follows_the_momentum(optimizer, digits):
    images, labels = digits
    model = build(zoo.nested, sparsity=0.8, distribution="momentum")
    model.compile(optimizer(), LOSS)
    weights = tk.sparse_weights(model)
    active = [weight.forward_mask() for weight in weights]
    model.train_on_batch(images[:32], labels[:32])
    made = model.optimizer
    slots = getattr(made, "momentums", None) or getattr(made, "_momentums", None)
    if slots:
        at = [made._get_variable_index(weight._theta) for weight in weights]
        momenta = [slots[i].numpy() for i in at]
    else:
        momenta = [weight.auxiliary["average"].numpy() for weight in weights]
        assert all(np.any(m) for m in momenta)
    means = [np.abs(m[mask]).mean() for m, mask in zip(momenta, active, strict=True)]
    sizes = [weight.dense().size for weight in weights]
    expected = oracle.momentum_budget(means, sizes, sum(sizes) - int(0.8 * sum(sizes)))
    found = [int(weight.forward_mask().sum()) for weight in weights]
    np.testing.assert_allclose(found, expected, atol=1)
    # The activations of a layer are as sparse as its weights now are.
    model.train_on_batch(images[:32], labels[:32])
    for weight, kept, layer in zip(weights, found, layer_densities(model), strict=True):
        assert layer.activations == pytest.approx(kept / weight.dense().size, abs=0.01)
