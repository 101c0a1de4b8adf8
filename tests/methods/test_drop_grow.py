"""Static masks, SET and RigL: cases worked by hand, oracles in NumPy, the contract."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo
from topkast_tf.core.keys import random_keys
from topkast_tf.core.sets import FORWARD
from topkast_tf.methods import SET, RigL, Selection, Static

RATE, MOMENTUM = 0.05, 0.9


def selection_of(theta, active, gradient=None, seed=3):
    theta = tf.constant(theta, tf.float32)
    codes = tf.constant(np.where(active, FORWARD, 0), tf.uint8)
    kept = tf.constant(int(np.sum(active)))
    return Selection(
        theta,
        kept,
        kept,
        tf.constant(seed, tf.int64),
        None,
        sets=codes,
        gradient=None if gradient is None else tf.constant(gradient, tf.float32),
    )


def updated(method, weight, step=0):
    sets = method.update([weight], tf.constant(step, tf.int64))
    assert bool(sets.finite)
    [codes], [reset] = sets.codes, sets.resets
    return codes.numpy() == FORWARD, reset


# Worked by hand.


def test_rigl_by_hand():
    """Four active of eight, half of them replaced.

    |theta| on A is 4, 1, 3, 2: the two smallest, entries 2 and 6, are dropped. Not kept
    are 1, 2, 3, 5, 6, 7 with |g| 9, 8, 1, 0, 2, 3: entries 1 and 2 are grown. Entry 2
    was active, so that only entry 1 is new.
    """
    theta = [4.0, 9.0, -1.0, 9.0, -3.0, 9.0, 2.0, 9.0]
    active = np.array([1, 0, 1, 0, 1, 0, 1, 0], bool)
    gradient = [7.0, -9.0, 8.0, 1.0, 7.0, 0.0, -2.0, 3.0]
    method = RigL(sparsity=0.5, drop_fraction=0.5, anneal="constant", noise=0.0,
                  update_until=None)  # fmt: skip
    mask, reset = updated(method, selection_of(theta, active, gradient))
    assert mask.tolist() == [True, True, True, False, True, False, False, False]
    assert reset.entries.numpy().tolist() == [False, True] + [False] * 6
    assert not np.any(reset.theta) and not np.any(reset.slots)


def test_ties_of_the_gradient_go_to_the_lower_index():
    method = RigL(sparsity=0.5, drop_fraction=0.5, anneal="constant", noise=0.0,
                  update_until=None)  # fmt: skip
    weight = selection_of(np.arange(1.0, 9.0), [0, 0, 0, 0, 1, 1, 1, 1], np.zeros(8))
    mask, _ = updated(method, weight)
    # Entries 4 and 5 are dropped; of zeros everywhere, 0 and 1 come first.
    assert mask.nonzero()[0].tolist() == [0, 1, 6, 7]


def test_set_drops_both_signs_apart():
    """Half of the positive ones and half of the negative ones, those nearest to zero.

    (Another library zeroes nearly all negative ones here.)
    """
    theta = [1.0, 2.0, 3.0, 4.0, -1.0, -2.0, -3.0, -4.0, 0.0, 0.0, 0.0, 0.0]
    active = np.arange(12) < 8
    method = SET(sparsity=1 / 3, drop_fraction=0.5, drop="signs", noise=0.0)
    mask, _ = updated(method, selection_of(theta, active))
    assert mask[[2, 3, 6, 7]].all() and mask.sum() == 8


def test_new_values():
    theta, active = np.linspace(-1, 1, 8), np.arange(8) < 4
    gradient = np.linspace(2, -2, 8)
    for grow_init, expected in (
        ("zeros", np.zeros(8)),
        ("grad_scale_10", gradient / 10),
        ("grad_sign_4", np.sign(gradient) / 4),
    ):
        method = RigL(sparsity=0.5, grow_init=grow_init, slot_scale=0.5,
                      update_until=10)  # fmt: skip
        _, reset = updated(method, selection_of(theta, active, gradient))
        np.testing.assert_allclose(reset.theta, expected, rtol=1e-6)
        np.testing.assert_allclose(reset.slots, gradient / 2, rtol=1e-6)
    weight = selection_of(np.linspace(-1, 1, 4000), np.arange(4000) < 9)
    for kind, deviation in (
        ("random_normal_2", np.std(weight.theta) / 2),
        ("random_uniform_2", np.mean(np.abs(weight.theta)) / 2 / 3**0.5),
    ):
        method = SET(sparsity=0.5, grow_init=kind)
        _, reset = updated(method, weight)
        assert np.std(reset.theta) == pytest.approx(deviation, rel=0.05)
        assert np.mean(reset.theta) == pytest.approx(0, abs=0.05)


def test_noise_only_breaks_ties():
    theta, active = np.full(1000, 0.5), np.arange(1000) < 500
    theta[:250] = 0.6
    method = SET(sparsity=0.5, drop_fraction=0.3)
    mask, _ = updated(method, selection_of(theta, active))
    assert mask[:250].all()  # 150 of the 250 equal ones are dropped, at random
    kept = mask[250:500]
    assert 100 <= kept.sum() < 250 and np.any(np.diff(kept.astype(int)) == 1)
    other, _ = updated(method, selection_of(theta, active), step=1)
    assert np.any(other[250:500] != kept)


# Oracles.


def static_oracle(n, sparsity):
    return n - int(np.floor(sparsity * n + 1e-9))


@pytest.mark.parametrize("sparsity", [0.0, 0.33, 0.9, 0.99])
def test_static_masks_have_exact_counts_and_stay(sparsity, digits):
    with tk.sparse_scope("static", sparsity=sparsity, seed=5):
        model = zoo.nested()
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    before = [weight.forward_mask() for weight in tk.sparse_weights(model)]
    for mask in before:
        assert mask.sum() == max(1, static_oracle(mask.size, sparsity))
    model.fit(*digits, verbose=0)
    for weight, mask in zip(tk.sparse_weights(model), before, strict=True):
        np.testing.assert_array_equal(weight.forward_mask(), mask)
        np.testing.assert_array_equal(weight.backward_mask(), mask)


def test_a_random_mask_is_uniform():
    """Each entry is as often in it as any other: chi-square over 400 seeds."""
    counts = np.zeros(40)
    method = Static(sparsity=0.75)
    for seed in range(400):
        weight = selection_of(np.ones(40), np.arange(40) < 10, seed=seed)
        [codes] = method.initial([weight]).codes
        counts += codes.numpy() == FORWARD
    expected = 400 * 10 / 40
    # Of 39 degrees of freedom (less, as each mask has ten): 99.9 % lie below 72.
    assert np.sum((counts - expected) ** 2 / expected) < 72


class Oracle:
    """Least squares by momentum SGD, in NumPy, with a mask of the definition."""

    def __init__(self, theta, mask, method):
        self.theta, self.mask, self.method = theta.copy(), mask.copy(), method
        self.bias, self.step = np.zeros(theta.shape[1]), 0
        self.velocity = [np.zeros_like(theta), np.zeros_like(self.bias)]
        self.updated_at = None

    def gradients(self, x, y):
        error = 2 * (x @ (self.theta * self.mask) + self.bias - y) / y.size
        return x.T @ error, error.sum(0)

    def fraction(self):
        method = self.method
        if method.anneal == "constant":
            return method.drop_fraction
        done = min(self.step, method.update_until) / method.update_until
        return method.drop_fraction * (1 + np.cos(np.pi * done)) / 2

    def is_due(self):
        method = self.method
        first = 0 if method.replaces_step else 1
        return (
            self.updated_at != self.step
            and first <= self.step
            and self.step <= (method.update_until or np.inf)
            and (self.step - first) % method.update_every == 0
        )

    def update(self, grow_scores):
        flat, mask = np.abs(self.theta).ravel(), self.mask.ravel()
        on = [i for i in range(mask.size) if mask[i]]
        dropped = int(np.float32(len(on)) * np.float32(self.fraction()))
        kept = sorted(on, key=lambda i: (-flat[i], i))[: len(on) - dropped]
        others = [i for i in range(mask.size) if i not in kept]
        grown = sorted(others, key=lambda i: (-grow_scores.ravel()[i], i))[:dropped]
        new = [i for i in grown if not mask[i]]
        self.mask = np.isin(np.arange(mask.size), kept + grown).reshape(self.mask.shape)
        self.theta.ravel()[new] = 0
        self.velocity[0].ravel()[new] = 0
        self.updated_at = self.step

    def call(self, x, y, drawn):
        dense, of_bias = self.gradients(x, y)
        if self.method.replaces_step and self.is_due():
            return self.update(np.abs(dense))
        for velocity, gradient, value in (
            (self.velocity[0], dense * self.mask, self.theta),
            (self.velocity[1], of_bias, self.bias),
        ):
            velocity *= MOMENTUM
            velocity -= RATE * gradient
            moves = self.mask if value is self.theta else True
            value += velocity * moves
        self.step += 1
        if not self.method.replaces_step and self.is_due():
            self.update(drawn(self.step) if drawn else np.abs(dense))


CASES = {
    "set": {"update_every": 3},
    "set cosine": {"update_every": 4, "anneal": "cosine", "update_until": 20},
    "rigl": {"update_every": 3, "update_until": 20},
    "rigl constant": {"update_every": 5, "update_until": None, "anneal": "constant"},
    "rigl with steps": {
        "update_every": 3,
        "update_until": 20,
        "update_replaces_step": False,
    },
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_training_is_that_of_the_definition(case, how):
    name, rng = case.split()[0], np.random.default_rng(0)
    data = rng.normal(size=(30, 16, 12)).astype("float32")
    target = rng.normal(size=(12, 6)).astype("float32")
    with tk.sparse_scope(name, sparsity=0.7, noise=0.0, seed=7, **CASES[case]):
        model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(6)])
    options = {"run_eagerly": how == "eager", "jit_compile": how == "xla"}
    model.compile(keras.optimizers.SGD(RATE, momentum=MOMENTUM), "mse", **options)
    [weight] = tk.sparse_weights(model)
    oracle = Oracle(weight.dense(), weight.forward_mask(), weight.method)
    drawn = None
    if name == "set":

        def drawn(step):
            seed = [weight.seed, step + 2 * 2**40]
            return random_keys(72, tf.constant(seed, tf.int64)).numpy()

    changes = 0
    for x in data:
        before = weight.forward_mask()
        model.train_on_batch(x, x @ target)
        oracle.call(x.astype(float), (x @ target).astype(float), drawn)
        np.testing.assert_array_equal(weight.forward_mask(), oracle.mask)
        np.testing.assert_allclose(weight.effective(), oracle.theta * oracle.mask,
                                   atol=1e-5)  # fmt: skip
        np.testing.assert_allclose(model.layers[0].bias, oracle.bias, atol=1e-5)
        assert weight.step == oracle.step == int(model.optimizer.iterations)
        changes += np.any(before != weight.forward_mask())
    assert changes >= 4


# The contract.


def dense_layer(name="rigl", units=6, **arguments):
    defaults = {} if name == "static" else {"update_until": 10, "noise": 0.0}
    with tk.sparse_scope(name, sparsity=0.7, **{**defaults, **arguments}):
        return keras.Sequential([keras.Input((12,)), keras.layers.Dense(units)])


def test_the_optimizer_gets_the_gradient_on_the_mask_alone():
    """What it clips by, and what it gathers, is that of the masked gradient."""
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


def batches(count):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, 8, 12)).astype("float32")
    return x, np.tanh(x @ rng.normal(size=(12, 6))).astype("float32")


def trained(x, y, optimizer, **arguments):
    model = dense_layer(seed=2, **arguments)
    [weight] = tk.sparse_weights(model)
    rng = np.random.default_rng(4)
    mask = weight.forward_mask()
    with tk.dense_reads():
        weight.variable.assign(rng.normal(size=(12, 6)) / 4)
    weight.set_masks(mask)
    model.compile(optimizer, "mse")
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
    return model, weight


def test_accumulated_batches_are_one():
    """The gradient that is looked at is the mean of the parts; a step is a step."""
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
    assert ours.step == theirs.step == 4  # two of six took the place of steps
    assert int(whole.optimizer.iterations) == int(parts.optimizer.iterations) == 4
    np.testing.assert_array_equal(ours.forward_mask(), theirs.forward_mask())
    np.testing.assert_allclose(ours.dense(), theirs.dense(), atol=1e-6)


@pytest.mark.parametrize("replaces", [True, False])
def test_replicas_are_one(replaces):
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


def test_replicas_grow_where_the_sum_is_largest():
    """Each half of the batch points elsewhere; their sum decides."""
    x = np.zeros((4, 12), "float32")
    x[0, :3], x[1, 3:6], x[2, :3], x[3, 3:6] = 1.0, 0.5, -0.9, 0.6
    y = np.ones((4, 6), "float32")
    arguments = {"update_every": 5, "update_replaces_step": False}
    _, ours = trained([x], [y], keras.optimizers.SGD(0.0), **arguments)
    with zoo.two_devices().scope():
        _, theirs = trained([x], [y], keras.optimizers.SGD(0.0), **arguments)
    np.testing.assert_array_equal(ours.forward_mask(), theirs.forward_mask())


@pytest.mark.parametrize("how", ["eager", "graph", "mirrored"])
def test_a_replaced_step_moves_nothing(how):
    strategy = zoo.two_devices() if how == "mirrored" else tf.distribute.get_strategy()
    with strategy.scope():
        model = dense_layer(update_every=1)
        model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=how == "eager")
        model.optimizer.build(model.trainable_variables)
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


def test_slots_of_new_entries_begin_at_zero():
    model = dense_layer("set", update_every=3, drop_fraction=0.5)
    model.compile(keras.optimizers.Adam(0.1, amsgrad=True), "mse")
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
    """Adam's second moment begins anew with the first, so that no step is outsized.

    With both at zero, the first step is 0.1 / sqrt(0.001) = 3.2 times the rate at most.
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


def test_assignments_and_refreshes_are_no_drop_and_grow():
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


def test_from_a_dense_model_by_magnitude():
    dense = keras.Sequential([keras.Input((12,)), keras.layers.Dense(6)])
    scope = tk.sparse_scope("static", sparsity=0.7, first_mask="magnitude")
    [weight] = tk.sparse_weights(tk.sparsify(dense, scope))
    kernel = np.abs(dense.layers[0].kernel.numpy())
    assert kernel[weight.forward_mask()].min() > kernel[~weight.forward_mask()].max()


def test_a_frozen_mask_stays():
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


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("rigl", {}, "total_steps"),
        ("rigl", {"update_until": 0}, "end after they begin"),
        ("rigl", {"update_until": None}, "end of the updates"),
        ("rigl", {"update_until": 1.5}, "update_until"),
        ("rigl", {"update_until": 9, "grow_init": "ones"}, "grow_init"),
        ("set", {"grow_init": "grad_scale_2"}, "grow_init"),
        ("set", {"drop_fraction": 1.0}, "drop_fraction"),
        ("set", {"anneal": "linear"}, "anneal"),
        ("set", {"update_every": 0}, "update_every"),
        ("set", {"update_from": -1}, "update_from"),
        ("set", {"drop": "least"}, "drop"),
        ("set", {"noise": -1.0}, "noise"),
        ("static", {"first_mask": "best"}, "first_mask"),
        ("static", {"distribution": "global"}, "'static' can keep"),
        ("static", {"sparsity": 1.0}, "fwd"),
        ("stattic", {}, "one of the methods"),
    ],
)
def test_arguments_are_validated(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        with tk.sparse_scope(name, **{"sparsity": 0.5, **arguments}):
            pass


def test_unknown_arguments_name_the_known_ones():
    with pytest.raises(TypeError, match="drop_fraction, update_every.*bwd"):
        tk.sparse_scope("set", sparsity=0.5, bwd=0.2)


def test_one_door_for_every_method():
    from swat_tf import swat_scope

    for one, other in (
        (tk.sparse_scope("topkast", sparsity=0.9, bwd=0.8), tk.topkast_scope(0.9, 0.8)),
        (
            tk.sparse_scope("swat", sparsity=0.9, errors=0.5),
            swat_scope(0.9, errors=0.5),
        ),
    ):
        found = []
        for scope in (one, other):
            with scope:
                model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
            [weight] = tk.sparse_weights(model)
            found.append((weight.method, weight.rule, weight.fwd, weight.bwd))
        assert found[0] == found[1]


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
def test_a_scaled_loss(replaces):
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


def test_a_weight_decay_of_keras_leaves_the_gradient_alone():
    """A regularizer is of alpha: what is grown is where the network asks for it."""
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


def test_masks_move_as_mask_dynamics_shows(tmp_path):
    """An update in the place of a step has a time of its own."""
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
