"""The one conformance table: every registered method, in every mode.

A method is included by registering it and adding an example of its scope here.
"""

import contextlib
import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from swat_tf import meprop_scope, swat_scope
from tests import zoo
from tests.small_models import build_optimizer
from topkast_tf.methods import METHODS
from topkast_tf.variables.of_run import loading_with


@contextlib.contextmanager
def topkast_with_swat():
    with tk.topkast_scope(0.9, 0.8, refresh_every=2), swat_scope(0.7):
        yield


EXAMPLES = {
    "topkast": lambda: tk.topkast_scope(0.9, 0.8, refresh_every=2),
    "topkast global": lambda: tk.topkast_scope(0.9, 0.8, distribution="global"),
    "topkast packed": lambda: tk.topkast_scope(
        0.9, 0.8, refresh_every=2, storage="packed"
    ),
    "swat": lambda: swat_scope(0.9, topk_period=2, activations_per="sample"),
    "swat-m": lambda: swat_scope(0.8, distribution="momentum", topk_period=4),
    "swat-m convolutions": lambda: swat_scope(
        0.8, distribution="momentum", topk_period=4, topk_period_of="convolutions"
    ),
    "meprop": lambda: meprop_scope(0.8),
    "topkast+swat": topkast_with_swat,
    "static": lambda: tk.sparse_scope("static", sparsity=0.9, distribution="erk"),
    "set": lambda: tk.sparse_scope("set", sparsity=0.9, update_every=2),
    "rigl": lambda: tk.sparse_scope(
        "rigl",
        sparsity=0.9,
        update_every=2,
        update_until=0.75,
        total_steps=8,
        noise=0.0,  # else rounding could decide between close scores
    ),
    "pruning": lambda: tk.sparse_scope(
        "pruning", sparsity=0.9, update_every=2, update_from=1, update_until=5
    ),
    "pruning global": lambda: tk.sparse_scope(
        "pruning",
        sparsity=0.9,
        distribution="global",
        initial_sparsity=0.5,
        update_every=1,
        update_from=0,
        update_until=6,
    ),
    "acdc": lambda: tk.sparse_scope(
        "acdc",
        sparsity=0.9,
        total_steps=8,
        warm_up=0.125,
        phase=0.125,
        last_dense_from=0.5,
        last_compressed_from=0.75,
    ),
    "mest": lambda: tk.sparse_scope(
        "mest", sparsity=0.9, update_every=2, total_steps=8, surplus=True
    ),
    "granet": lambda: tk.sparse_scope(
        "granet", sparsity=0.9, update_every=2, total_steps=8
    ),
    "srigl": lambda: tk.sparse_scope(
        "srigl", sparsity=0.9, update_every=2, total_steps=8
    ),
    "snfs": lambda: tk.sparse_scope(
        "snfs", sparsity=0.9, distribution="erk", update_every=2, total_steps=8
    ),
    "dsr": lambda: tk.sparse_scope(
        "dsr", sparsity=0.9, update_every=2, total_steps=8, threshold=0.05
    ),
    "nm": lambda: tk.sparse_scope("nm", sparsity=0.5, m=2, refresh_every=2),
    "filters": lambda: tk.sparse_scope("filters", sparsity=0.5),
    "snip": lambda: tk.sparse_scope("snip", sparsity=0.8, distribution="global"),
    "grasp": lambda: tk.sparse_scope("grasp", sparsity=0.8),
    "synflow": lambda: tk.sparse_scope("synflow", sparsity=0.8, rounds=3),
    "str": lambda: tk.sparse_scope("str", initial_threshold=-4.0, decay=0.01),
    "dst": lambda: tk.sparse_scope("dst", penalty_coefficient=1e-2),
    "cs": lambda: tk.sparse_scope(
        "cs", total_steps=8, rounds=1, penalty_coefficient=1e-4
    ),
    "spartan": lambda: tk.sparse_scope("spartan", sparsity=0.9, total_steps=8),
    "spartan global": lambda: tk.sparse_scope(
        "spartan", sparsity=0.9, total_steps=8, distribution="global"
    ),
}
STEPS = dict.fromkeys(EXAMPLES, 8) | {"rigl": 5, "snip": 7}
"""Optimizer steps in eight calls; others update the masks instead."""
# Activations are selected over the batch of a replica: two replicas train otherwise.
SELECTS_OVER_A_REPLICA = ("swat-m", "swat-m convolutions", "topkast+swat")
SLOW = (
    *("topkast global", "swat-m", "swat-m convolutions", "static", "set"),
    *("topkast+swat", "pruning global", "snip"),
    *("pruning", "acdc", "mest", "granet", "srigl", "snfs", "dsr", "nm", "str", "dst"),
    *("grasp", "synflow", "filters", "cs", "spartan", "spartan global", "meprop"),
)
METHOD = pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[pytest.mark.slow] if m in SLOW else []) for m in EXAMPLES],
)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(method, builder=zoo.nested):
    keras.utils.set_random_seed(0)
    with EXAMPLES[method]():
        model = builder()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    return pruned(method, model)


def pruned(method, model):
    """The model, after the call that selects its masks, if its method needs one."""
    if method in ("grasp", "synflow") and tk.sparse_weights(model):
        rng = np.random.default_rng(0)
        images = rng.random((32, 8, 8, 1)).astype("float32")
        tk.prune(model, (images, np.arange(32) % 10))
    return model


def train_by_fit(model, images, labels, **compile_arguments):
    if compile_arguments:
        model.compile(model.optimizer, LOSS, **compile_arguments)
    model.fit(images, labels, batch_size=32, shuffle=False, verbose=0)


def train_by_hand(model, images, labels, wrap=lambda step: step):
    build_optimizer(model)

    @wrap
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True)) + sum(model.losses)
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [v.value for v in variables])
        model.optimizer.apply(gradients, variables)

    for start in range(0, len(images), 32):
        x, y = images[start : start + 32], labels[start : start + 32]
        step(tf.constant(x), tf.constant(y))


def train_mirrored(method, images, labels, builder=zoo.nested):
    strategy = zoo.two_devices()
    with strategy.scope():
        model = build(method, builder)
    train_by_fit(model, images, labels)
    return model


def state(model):
    weights = tk.sparse_weights(model)
    return [w.dense() for w in weights], [w.codes() for w in weights]


def assert_close(model, reference):
    """Same counts and steps, the same thetas up to rounding, nearly the same sets."""
    for one, other in zip(
        tk.sparse_weights(model), tk.sparse_weights(reference), strict=True
    ):
        assert one.step == other.step > 0
        np.testing.assert_allclose(one.dense(), other.dense(), atol=1e-4)
        assert np.mean(one.codes() != other.codes()) <= 0.01
        for mask in ("forward_mask", "backward_mask"):
            counts = [int(getattr(w, mask)().sum()) for w in (one, other)]
            # Where the budget follows the momentum, rounding may move one weight.
            moves = one.method.budget == "global" or one.method.computes_alpha
            assert abs(counts[0] - counts[1]) <= moves


class _Trained(dict):
    """Each method's model after one epoch, trained at its first use."""

    def __init__(self, digits, train):
        self.digits, self.train = digits, train

    def __missing__(self, method):
        self[method] = self.train(method, *self.digits)
        steps = {weight.step for weight in tk.sparse_weights(self[method])}
        assert steps == {STEPS[method]}
        return self[method]


def train_without_xla(method, images, labels):
    model = build(method)
    before = state(model)[0]
    train_by_fit(model, images, labels, jit_compile=False)
    after = state(model)[0]
    assert all(np.any(a != b) for a, b in zip(before, after, strict=True))
    return model


@pytest.fixture(scope="module")
def references(digits):
    """Each method's model after one epoch of compiled `fit`, without XLA."""
    return _Trained(digits, train_without_xla)


@pytest.fixture(scope="module")
def mirrored_references(digits):
    """The same on two devices."""
    return _Trained(digits, train_mirrored)


def test_every_method_has_an_example():
    models = map(build, EXAMPLES)
    used = {w.method.name for model in models for w in tk.sparse_weights(model)}
    assert used == set(METHODS)


@METHOD
def test_configuration_round_trips_field_by_field(method, references):
    for weight in tk.sparse_weights(references[method]):
        for made in filter(None, (weight.method, weight.rule)):
            assert type(made)(**made.get_config()) == made
            fields = {field.name for field in dataclasses.fields(made)}
            assert set(made.get_config()) == fields


@METHOD
def test_fit_under_xla(method, digits, references):
    model = build_optimizer(build(method))
    train_by_fit(model, *digits, jit_compile=True)
    assert_close(model, references[method])


@METHOD
def test_custom_loop(method, digits, references):
    model = build(method)
    train_by_hand(model, *digits)
    assert_close(model, references[method])


@METHOD
@pytest.mark.parametrize(
    "jit_compile",
    [
        pytest.param(False, id="graph"),
        # `fit` under XLA is above, with every method.
        pytest.param(True, id="xla", marks=pytest.mark.slow),
    ],
)
def test_tf_function(method, jit_compile, digits, references):
    model = build(method)
    train_by_hand(model, *digits, lambda f: tf.function(f, jit_compile=jit_compile))
    assert_close(model, references[method])


@METHOD
def test_mixed_precision(method, digits):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = build_optimizer(build(method))
    before = state(model)[0]
    train_by_fit(model, *digits)
    for weight, old in zip(tk.sparse_weights(model), before, strict=True):
        assert weight.dense().dtype == np.float32 and weight.step == STEPS[method]
        assert np.any(weight.dense() != old)


@METHOD
def test_mirrored_on_two_devices(method, references, mirrored_references):
    model = mirrored_references[method]
    if method not in SELECTS_OVER_A_REPLICA:
        assert_close(model, references[method])
    for weight in tk.sparse_weights(model):
        for variable in (weight.variable, weight.sets, weight.counters):
            first, second = (copy.numpy() for copy in variable.values)
            np.testing.assert_array_equal(first, second)


@METHOD
def test_save_and_load(method, digits, references, tmp_path):
    model = references[method]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(state(model), state(loaded), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(model(digits[0]), loaded(digits[0]))


@pytest.mark.parametrize(
    ("method", "mirrored"),
    [
        *((method, False) for method in EXAMPLES if method not in SLOW),
        *(
            pytest.param(
                method, True, marks=[] if method == "swat" else [pytest.mark.slow]
            )
            for method in EXAMPLES
        ),
    ],
)
def test_resumed_run_equals_uninterrupted_run(
    method, mirrored, digits, references, mirrored_references, tmp_path
):
    (images, labels), half = digits, 128
    undisturbed = (mirrored_references if mirrored else references)[method]

    def run(model, part):
        train_by_fit(model, images[part], labels[part])

    def make():
        strategy = tf.distribute.get_strategy()
        if mirrored:
            strategy = zoo.two_devices()
        with strategy.scope():
            return build_optimizer(build(method))

    interrupted = make()
    run(interrupted, slice(None, half))
    interrupted.save_weights(tmp_path / "half.weights.h5")
    resumed = make()
    resumed.load_weights(tmp_path / "half.weights.h5")
    run(resumed, slice(half, None))
    for ours, theirs in zip(state(undisturbed), state(resumed), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


@METHOD
def test_strip(method, digits, references):
    model = references[method]
    plain = tk.strip(model)
    np.testing.assert_allclose(plain(digits[0]), model(digits[0]), rtol=1e-4, atol=1e-5)
    kernels = [w.numpy() for w in plain.weights if w.name == "kernel"]
    for weight, kernel in zip(tk.sparse_weights(model), kernels, strict=True):
        np.testing.assert_array_equal(kernel != 0, weight.effective() != 0)


@METHOD
def test_subclassed_model_built_late(method, digits, tmp_path):
    model = build(method, zoo.Subclassed)
    assert not tk.sparse_weights(model)
    if method in ("grasp", "synflow"):
        model(digits[0][:1])
        pruned(method, model)
    train_by_fit(model, *digits)
    assert [w.step for w in tk.sparse_weights(model)] == [STEPS[method]] * 2
    model.save(tmp_path / "model.keras")
    # Its storage decides which kernels compute, whose sums are in another order.
    with loading_with(storage="packed" if method == "topkast packed" else "dense"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    outputs = model(digits[0])
    np.testing.assert_array_equal(outputs, loaded(digits[0]))
    plain = tk.strip(model)
    np.testing.assert_allclose(plain(digits[0]), outputs, rtol=1e-4, atol=1e-5)


@METHOD
def test_built_inside_a_tf_function(method, digits):
    model = build(method, zoo.Subclassed)
    inputs = tf.constant(digits[0][:4])
    outputs = tf.function(model)(inputs)
    np.testing.assert_allclose(outputs, model(inputs), rtol=1e-4, atol=1e-5)
    assert len(tk.sparse_weights(model)) == 2


@pytest.mark.parametrize("method", ["topkast", "swat", "set", "rigl"])
def test_the_graph_of_a_step_refreshes_all_weights_under_one_condition(method):
    """A subgraph for each weight would make deep models slow to start."""

    def conditions(depth):
        with EXAMPLES[method]():
            model = keras.Sequential(
                [keras.Input((4,)), *[keras.layers.Dense(4) for _ in range(depth)]]
            )
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)

        @tf.function
        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

        graph = step.get_concrete_function(tf.ones([2, 4])).graph
        names = [op.type for op in graph.get_operations()]
        return sum(name in ("If", "StatelessIf", "While") for name in names)

    assert conditions(2) == conditions(6) > 0
