"""SNIP, GraSP and SynFlow, against NumPy; and what they refuse."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo
from tests.methods.linear_oracle import Linear, batches, largest, layers

SIZES = ((12, 20), (20, 6))
NAMES = ("snip", "grasp", "synflow")


def of_all(scores, count):
    """Masks of the largest of all together."""
    flat = np.concatenate([s.ravel() for s in scores])
    ends = np.cumsum([s.size for s in scores])[:-1]
    parts = np.split(largest(flat, count), ends)
    return [p.reshape(s.shape) for p, s in zip(parts, scores, strict=True)]


def of_each(scores, counts):
    return [largest(s, n) for s, n in zip(scores, counts, strict=True)]


def pruned(name, distribution, batch=None, **arguments):
    """The dense network as an oracle, and the masks after `prune`."""
    model = layers(name, SIZES, sparsity=0.8, distribution=distribution, **arguments)
    oracle = Linear(model)
    tk.prune(model, batch)
    weights = tk.sparse_weights(model)
    for weight, theta in zip(weights, oracle.thetas, strict=True):
        np.testing.assert_array_equal(weight.dense(), theta.astype("float32"))
        np.testing.assert_array_equal(weight.forward_mask(), weight.backward_mask())
    return oracle, [weight.forward_mask() for weight in weights], model


def expected(scores, distribution):
    if distribution == "global":
        return of_all(scores, 48 + 24)
    return of_each(scores, [48, 24])


@pytest.fixture
def batch():
    x, y = batches(1)
    return x[0], y[0]


@pytest.mark.parametrize("distribution", ["uniform", "global"])
def test_snip_keeps_the_largest_effects(distribution, batch):
    oracle, masks, _ = pruned("snip", distribution, batch)
    gradients = oracle.gradients(*batch)
    scores = [np.abs(t * g) for t, g in zip(oracle.thetas, gradients, strict=True)]
    for mask, known in zip(masks, expected(scores, distribution), strict=True):
        np.testing.assert_array_equal(mask, known)


@pytest.mark.parametrize("distribution", ["uniform", "global"])
def test_grasp_keeps_the_largest_products_with_hg(distribution, batch):
    """H g by central differences of the gradient, in float64."""
    oracle, masks, _ = pruned("grasp", distribution, batch, temperature=1.5)
    thetas = [t.copy() for t in oracle.thetas]

    def gradients(shift):
        oracle.thetas = [t + s for t, s in zip(thetas, shift, strict=True)]
        # mean ((f / T - y)^2): that of a network whose last layer is divided by T.
        oracle.thetas[1] = oracle.thetas[1] / 1.5
        first, last = oracle.gradients(*batch)
        return [first, last / 1.5]

    g = gradients([0, 0])
    ahead, behind = (gradients([e * v for v in g]) for e in (1e-5, -1e-5))
    scores = [t * (a - b) / 2e-5 for t, a, b in zip(thetas, ahead, behind, strict=True)]
    assert any(np.any(s < 0) for s in scores)
    for mask, known in zip(masks, expected(scores, distribution), strict=True):
        assert np.mean(mask != known) <= 0.01  # rounding may exchange one pair


@pytest.mark.parametrize("distribution", ["uniform", "global"])
def test_synflow_keeps_the_largest_flows(distribution):
    oracle, masks, _ = pruned("synflow", distribution, rounds=10)
    first, last = (np.abs(t) for t in oracle.thetas)
    known = [np.ones_like(first, bool), np.ones_like(last, bool)]
    for k in range(1, 11):
        a, b = first * known[0], last * known[1]
        flows = [np.ones(12)[:, None] * a * b.sum(1), (np.ones(12) @ a)[:, None] * b]
        share = 0.2 ** (k / 10)
        if distribution == "global":
            known = of_all(flows, max(72, round(360 * share)))
        else:
            counts = [max(48, round(240 * share)), max(24, round(120 * share))]
            known = of_each(flows, counts)
    for mask, other in zip(masks, known, strict=True):
        assert np.mean(mask != other) <= 0.01


def test_the_first_batch_of_training_does_what_prune_does(batch):
    _, masks, model = pruned("snip", "global", batch)
    other = layers("snip", SIZES, sparsity=0.8, distribution="global")
    before = [weight.dense() for weight in tk.sparse_weights(other)]
    other.train_on_batch(*batch)
    for weight, mask, theta in zip(
        tk.sparse_weights(other), masks, before, strict=True
    ):
        np.testing.assert_array_equal(weight.forward_mask(), mask)
        np.testing.assert_array_equal(weight.dense(), theta)
        assert weight.step == 0 and weight.calls == 1
    for each in (model, other):
        each.train_on_batch(*batch)
    for one, two in zip(*map(tk.sparse_weights, (model, other)), strict=True):
        assert one.step == two.step == 1
        np.testing.assert_array_equal(one.dense(), two.dense())


def convolutional(name, **arguments):
    with tk.sparse_scope(name, sparsity=0.8, **arguments):
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(8, 3, padding="same")(inputs)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
        x = keras.layers.Dropout(0.5)(x)
        x = keras.layers.add([x, keras.layers.Conv2D(8, 3, padding="same")(x)])
        x = keras.layers.GlobalAveragePooling2D()(x)
        model = keras.Model(inputs, keras.layers.Dense(4)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    return model


def images():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 8, 8, 3)).astype("float32")
    return x, (np.arange(16) % 4).astype("int32")


@pytest.mark.parametrize("name", NAMES)
def test_a_convolutional_network_is_pruned_trained_saved_and_resumed(name, tmp_path):
    keras.utils.set_random_seed(1)
    model, data = convolutional(name, distribution="global"), images()
    before = [v.numpy() for v in model.variables if "sets" not in v.path]
    tk.prune(model, None if name == "synflow" else data)
    after = [v.numpy() for v in model.variables if "sets" not in v.path]
    for one, two in zip(before, after, strict=True):
        if one.dtype != np.int64:  # the counters know that it is pruned
            np.testing.assert_array_equal(one, two)
    weights = tk.sparse_weights(model)
    masks = [weight.forward_mask() for weight in weights]
    total = sum(mask.size for mask in masks)
    assert abs(sum(mask.sum() for mask in masks) - 0.2 * total) < len(masks)
    assert len({mask.mean() for mask in masks}) > 1
    model.fit(*data, batch_size=8, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(*data, batch_size=8, verbose=0)
    for weight, mask in zip(tk.sparse_weights(loaded), masks, strict=True):
        np.testing.assert_array_equal(weight.forward_mask(), mask)
        assert weight.step == 6


@pytest.mark.parametrize("name", ["grasp", "synflow"])
def test_training_before_is_refused(name, batch):
    model = layers(name, sparsity=0.8)
    with pytest.raises(ValueError, match="Expected `topkast_tf.prune.*still dense"):
        model.train_on_batch(*batch)
    model.compile(model.optimizer, "mse")
    tk.prune(model, None if name == "synflow" else batch)
    model.train_on_batch(*batch)
    with pytest.raises(ValueError, match="before its first step.*after 1 steps"):
        tk.prune(model, None if name == "synflow" else batch)


def test_an_assignment_makes_it_dense_again(batch):
    model = layers("synflow", sparsity=0.8)
    tk.prune(model)
    [weight] = tk.sparse_weights(model)
    assert weight.forward_mask().sum() == 15
    model.set_weights([np.ones((12, 6), "float32")])
    assert weight.forward_mask().all() and not weight.is_pruned
    with pytest.raises(ValueError, match="still dense"):
        model.train_on_batch(*batch)


def test_what_prune_refuses(batch):
    x, y = batch
    other = layers("set", sparsity=0.8)
    with pytest.raises(ValueError, match=r"prunes before training.*\['set'\]"):
        tk.prune(other, batch)
    model = layers("snip", sparsity=0.8)
    with pytest.raises(ValueError, match=r"Expected a batch `\(x, y\)`.*NoneType"):
        tk.prune(model)
    with pytest.raises(ValueError, match="Expected finite scores"):
        tk.prune(model, (x * np.nan, y))
    with tk.sparse_scope("synflow", sparsity=0.8):
        own = zoo.Subclassed()
    own(np.ones((2, 8, 8, 1)))
    with pytest.raises(ValueError, match="Expected inputs, of which the shape"):
        tk.prune(own)
    tk.prune(own, np.ones((2, 8, 8, 1), "float32"))
    assert not tk.sparse_weights(own)[0].forward_mask().all()
    with tk.sparse_scope("grasp", sparsity=0.8):
        plain = keras.Sequential([keras.Input((12,)), keras.layers.Dense(6)])
    with pytest.raises(ValueError, match="Expected a compiled model"):
        tk.prune(plain, batch)
    with tk.sparse_scope("synflow", sparsity=0.8):
        probable = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(6, activation="softmax")]
        )
    with pytest.raises(ValueError, match="outputs are logits.*ends in softmax"):
        tk.prune(probable)
    with pytest.raises(ValueError, match="`temperature` must be"):
        tk.sparse_scope("grasp", sparsity=0.8, temperature=0)
    with pytest.raises(ValueError, match="`rounds` must be"):
        tk.sparse_scope("synflow", sparsity=0.8, rounds=0)


@pytest.mark.parametrize("name", NAMES)
def test_masks_of_one_budget_are_saved_before_the_first_step(name, batch, tmp_path):
    model = layers(name, SIZES, sparsity=0.8, distribution="global")
    tk.prune(model, None if name == "synflow" else batch)
    masks = [weight.forward_mask() for weight in tk.sparse_weights(model)]
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "w.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    other = layers(name, SIZES, seed=1, sparsity=0.8, distribution="global")
    other.load_weights(tmp_path / "w.weights.h5")
    for each in (loaded, other):
        for weight, mask in zip(tk.sparse_weights(each), masks, strict=True):
            np.testing.assert_array_equal(weight.forward_mask(), mask)
            assert weight.is_pruned
        each.compile(keras.optimizers.SGD(0.1), "mse")
        each.train_on_batch(*batch)
        assert tk.sparse_weights(each)[0].step == 1


def test_a_frozen_layer_of_a_common_budget_is_named(batch):
    model = layers("snip", SIZES, sparsity=0.8, distribution="global")
    model.layers[0].trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with pytest.raises(ValueError, match="name the others in `exempt`.*dense"):
        model.train_on_batch(*batch)


def test_two_devices_have_one_mask(batch):
    with zoo.two_devices().scope():
        model = layers("snip", SIZES, sparsity=0.8)
    tk.prune(model, batch)
    for weight in tk.sparse_weights(model):
        first, second = (copy.numpy() for copy in weight.sets.values)
        np.testing.assert_array_equal(first, second)
        assert isinstance(weight.variable, tf.Variable) or first.mean() < 2


@pytest.mark.parametrize("why", ["underflow", "zero scale"])
def test_synflow_refuses_a_weight_without_a_flow(why):
    small = keras.initializers.RandomNormal(stddev=1e-5)
    with tk.sparse_scope("synflow", sparsity=0.5, distribution="global"):
        model = keras.Sequential([keras.Input((8,))])
        for _ in range(20 if why == "underflow" else 1):
            model.add(
                keras.layers.Dense(
                    8, kernel_initializer=small if why == "underflow" else "ones"
                )
            )
        if why == "zero scale":
            model.add(keras.layers.BatchNormalization(gamma_initializer="zeros"))
            model.add(keras.layers.Dense(2))
    with pytest.raises(ValueError, match="Expected a flow through each weight.*8x8"):
        tk.prune(model)
