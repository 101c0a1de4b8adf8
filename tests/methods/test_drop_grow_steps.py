"""Updates of SET and RigL within steps: gradients, slots, replicas, optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo
from tests.methods.drop_grow_models import (
    batches,
    dense_layer,
    trained,
)
from tests.small_models import build_optimizer


def test_optimizer_gets_the_masked_gradient():
    """So that it clips and accumulates the masked gradient."""
    seen = []

    class Spy(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            seen.append(np.asarray(gradient))
            super().update_step(gradient, variable, learning_rate)

    model = dense_layer(update_every=2)
    model.compile(Spy(0.1), "mse", run_eagerly=True)
    [weight] = tk.sparse_weights(model)
    for _ in range(3):  # an update, and two steps
        model.train_on_batch(np.ones((4, 12)), np.ones((4, 6)))
        if seen:
            assert not np.any(seen[-2][~weight.forward_mask()])
            assert np.any(seen[-2])
    assert len(seen) == 4


def test_accumulated_batches_equal_one_batch():
    """Growth uses the mean gradient of the parts, which count as one step."""
    x, y = batches(12)
    merged = (x.reshape(6, 16, 12), y.reshape(6, 16, 6))
    whole, ours = trained(*merged, keras.optimizers.SGD(0.1, momentum=0.9),
                          update_every=2)  # fmt: skip
    parts, theirs = trained(
        x,
        y,
        keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
        update_every=2,
    )
    assert ours.step == theirs.step == 4  # two of six updates replaced steps
    assert int(whole.optimizer.iterations) == int(parts.optimizer.iterations) == 4
    np.testing.assert_array_equal(ours.forward_mask(), theirs.forward_mask())
    np.testing.assert_allclose(ours.dense(), theirs.dense(), atol=1e-6)


@pytest.mark.parametrize("replaces", [True, False])
def test_replicas_keep_equal_sets(replaces):
    x, y = batches(6)
    arguments = {"update_every": 2, "update_replaces_step": replaces}
    adam = keras.optimizers.Adam(0.01, global_clipnorm=0.1)
    alone, ours = trained(x, y, adam, **arguments)
    with zoo.two_devices().scope():
        adam = keras.optimizers.Adam(0.01, global_clipnorm=100.0)
        both, theirs = trained(x, y, adam, **arguments)
    del alone, both
    assert ours.step == theirs.step == (4 if replaces else 6)
    for first, second in (
        [copy.numpy() for copy in made.values]
        for made in (theirs.sets, theirs.counters)
    ):
        np.testing.assert_array_equal(first, second)


def test_replicas_grow_where_the_summed_gradient_is_largest():
    """The halves of the batch have different largest gradients; the sum decides."""
    x = np.zeros((4, 12), "float32")
    x[0, :3], x[1, 3:6], x[2, :3], x[3, 3:6] = 1.0, 0.5, -0.9, 0.6
    y = np.ones((4, 6), "float32")
    arguments = {"update_every": 5, "update_replaces_step": False}
    _, ours = trained([x], [y], keras.optimizers.SGD(0.0), **arguments)
    with zoo.two_devices().scope():
        _, theirs = trained([x], [y], keras.optimizers.SGD(0.0), **arguments)
    np.testing.assert_array_equal(ours.forward_mask(), theirs.forward_mask())


@pytest.mark.parametrize("how", ["eager", "graph", "mirrored"])
def test_replaced_step_changes_only_the_mask(how):
    strategy = zoo.two_devices() if how == "mirrored" else tf.distribute.get_strategy()
    with strategy.scope():
        model = dense_layer(update_every=1)
        model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=how == "eager")
        build_optimizer(model)
    [weight] = tk.sparse_weights(model)
    x, y = batches(1)
    steps = [weight.step]
    for _ in range(6):
        before = [v.numpy() for v in (model.layers[0].bias, *model.optimizer.variables)]
        mask = weight.forward_mask()
        model.train_on_batch(x[0], y[0])
        after = [v.numpy() for v in (model.layers[0].bias, *model.optimizer.variables)]
        steps.append(weight.step)
        if steps[-1] == steps[-2]:
            new = weight.forward_mask() & ~mask
            for one, other in zip(before, after, strict=True):
                same = ~new if one.shape == new.shape else ...
                np.testing.assert_array_equal(one[same], other[same])
        else:
            np.testing.assert_array_equal(weight.forward_mask(), mask)
    assert steps == [0, 0, 1, 1, 2, 2, 3]


def test_slots_of_new_entries_start_at_zero():
    model = dense_layer("set", update_every=3, drop_fraction=0.5)
    model.compile(keras.optimizers.Adam(0.1, amsgrad=True), "mse")
    build_optimizer(model)
    [weight] = tk.sparse_weights(model)
    x, y = batches(4)
    for a, b in zip(x[:3], y[:3], strict=True):
        model.train_on_batch(a, b)
    mask = weight.forward_mask()
    model.train_on_batch(x[3], y[3])
    new = weight.forward_mask() & ~mask
    assert new.sum() > 3 and not np.any(weight.dense()[new])
    slots = [v.numpy() for v in model.optimizer.variables if v.shape == new.shape]
    assert len(slots) == 3
    for slot in slots:
        assert not np.any(slot[new]) and np.any(slot[weight.forward_mask() & ~new])


def test_a_regrown_weight_takes_no_outsized_step():
    """Both moments of Adam restart at zero, so that no step is outsized.

    From zero, the first step is 0.1 / sqrt(0.001) = 3.2 times the rate at most.
    """
    model = dense_layer("set", update_every=3, drop_fraction=0.5)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    [weight] = tk.sparse_weights(model)
    x, y = batches(9)
    for a, b in zip(x, y, strict=True):
        before, mask = weight.dense(), weight.forward_mask()
        model.train_on_batch(a, b)
        moved = np.abs(weight.dense() - before)[weight.forward_mask() & mask]
        assert 0.005 < moved.max() <= 3.2 * 0.01


def test_assignments_and_refreshes_do_not_drop_and_grow():
    model = dense_layer("rigl", seed=1)
    [weight] = tk.sparse_weights(model)
    mask = weight.forward_mask()
    values = np.random.default_rng(0).normal(size=(12, 6)).astype("float32")
    model.set_weights([values, np.zeros(6, "float32")])
    np.testing.assert_array_equal(weight.forward_mask(), mask)  # still the random one
    tk.refresh(model)
    largest = np.argsort(-np.abs(values), axis=None)[: mask.sum()]
    assert set(np.flatnonzero(weight.forward_mask())) == set(largest)
    np.testing.assert_array_equal(weight.dense(), values)


def test_frozen_mask_does_not_change():
    for name in ("set", "rigl"):
        model = dense_layer(name, update_every=1)
        model.compile("sgd", "mse")
        tk.freeze(model)
        [weight] = tk.sparse_weights(model)
        mask, (x, y) = weight.forward_mask(), batches(4)
        for a, b in zip(x, y, strict=True):
            model.train_on_batch(a, b)
        np.testing.assert_array_equal(weight.forward_mask(), mask)
        assert weight.step == 4


def test_a_weight_without_gradient_keeps_its_mask():
    inputs = keras.Input((12,))
    with tk.sparse_scope("rigl", sparsity=0.7, update_until=9, update_every=1):
        used, unused = keras.layers.Dense(6), keras.layers.Dense(6)
        model = keras.Model(inputs, [used(inputs), unused(inputs)])
    model.compile("sgd", ["mse", None])
    masks = [weight.forward_mask() for weight in tk.sparse_weights(model)]
    (x, y), moved = batches(4), []
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, [b, b])
    for weight, mask in zip(tk.sparse_weights(model), masks, strict=True):
        moved.append(bool(np.any(weight.forward_mask() != mask)))
    assert sorted(moved) == [False, True]


def test_variables_of_a_module_need_an_optimizer():
    with tk.sparse_scope("rigl", sparsity=0.5, update_until=9, update_every=1):
        w = tf.Variable(tf.random.normal([6, 4]), name="w")
    with pytest.raises(ValueError, match="Keras optimizer.*'rigl'.*assign_sub"):
        w.assign_sub(tf.ones([6, 4]))
    optimizer = keras.optimizers.SGD(0.1)
    [weight] = tk.sparse_weights([w])
    mask = weight.forward_mask()
    for _ in range(2):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((tf.ones([2, 6]) @ w - 1) ** 2)
        optimizer.apply([tape.gradient(loss, w)], [w])
    assert weight.step == 1 and weight.forward_mask().sum() == mask.sum()


def test_a_nan_in_the_gradient_is_an_error():
    model = dense_layer("rigl", update_every=1)
    model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(ValueError, match="Expected finite weights"):
        model.train_on_batch(np.full((2, 12), np.nan), np.ones((2, 6)))


@pytest.mark.parametrize("name", ["set", "rigl"])
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_models_of_tf_keras(name, jit_compile, tmp_path):
    import tf_keras

    x, y = batches(7)
    with tk.sparse_scope(name, sparsity=0.7, update_every=2, update_until=6):
        model = tf_keras.Sequential([tf_keras.Input((12,)), tf_keras.layers.Dense(6)])
    model.compile(tf_keras.optimizers.Adam(0.01), "mse", jit_compile=jit_compile)
    [weight] = tk.sparse_weights(model)
    masks = [weight.forward_mask()]
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
        masks.append(weight.forward_mask())
    changed = [bool(np.any(a != b)) for a, b in zip(masks, masks[1:], strict=False)]
    assert sum(changed) == 3 and len({mask.sum() for mask in masks}) == 1
    assert weight.step == (7 if name == "set" else 4)
    assert int(model.optimizer.iterations) == weight.step
    model.save(tmp_path / "model.keras")
    loaded = tf_keras.models.load_model(tmp_path / "model.keras")
    [again] = tk.sparse_weights(loaded)
    np.testing.assert_array_equal(again.codes(), weight.codes())


@pytest.mark.parametrize("replaces", [True, False])
def test_loss_scaling_does_not_change_updates(replaces):
    """Float16 wraps the optimizer in one that scales the loss; updates are the same."""
    x, y = batches(6)
    arguments = {"update_every": 2, "update_replaces_step": replaces}
    plain = keras.optimizers.SGD(0.05)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.05))
    found = []
    for optimizer in (plain, scaled):
        _, weight = trained(x, y, optimizer, **arguments)
        found.append(weight)
    ours, theirs = found
    assert ours.step == theirs.step == (4 if replaces else 6)
    np.testing.assert_array_equal(ours.forward_mask(), theirs.forward_mask())
    np.testing.assert_allclose(ours.dense(), theirs.dense(), rtol=1e-4, atol=1e-6)


def test_keras_regularizer_does_not_affect_growth():
    """A regularizer acts on alpha; growth uses the gradient without it."""
    masks = []
    x, y = batches(1)
    for regularizer in (None, keras.regularizers.L2(100.0)):
        with tk.sparse_scope("rigl", sparsity=0.7, update_until=9, noise=0.0, seed=2):
            model = keras.Sequential(
                [
                    keras.Input((12,)),
                    keras.layers.Dense(6, kernel_regularizer=regularizer),
                ]
            )
        [weight] = tk.sparse_weights(model)
        mask = weight.forward_mask()
        with tk.dense_reads():
            weight.variable.assign(np.linspace(-1, 1, 72).reshape(12, 6))
        weight.set_masks(mask)
        model.compile("sgd", "mse")
        alpha = weight.effective()
        if regularizer is not None:
            loss = float(model.losses[0])
            assert loss == pytest.approx(100 * np.sum(alpha**2), rel=1e-5)
        model.train_on_batch(x[0], y[0])
        masks.append(weight.forward_mask())
    np.testing.assert_array_equal(*masks)


def test_mask_dynamics_measures_updates_that_replace_steps(tmp_path):
    """An update that replaces a step is measured separately."""
    model = dense_layer("rigl", update_every=2)
    model.compile("sgd", "mse")
    x, y = batches(6)
    path = tmp_path / "masks.csv"
    dynamics = tk.MaskDynamics(csv=path, every=1)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    model.fit(data, callbacks=[dynamics], verbose=0)
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    steps = sorted({int(row[0]) for row in rows})
    assert steps == [0, 1, 2, 3, 4, 5, 6]
    [weight] = tk.sparse_weights(model)
    assert weight.step == 4 and weight.calls == 6
