"""Models train the same, bit for bit, with native selection and updates and without."""

import multiprocessing
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo
from tests.small_models import LOSS, build_optimizer, scope, three_layers
from topkast_tf.core import trace_once
from topkast_tf.kernels import choice, training
from topkast_tf.kernels import library as kernels
from topkast_tf.methods.topkast import TopKAST
from topkast_tf.variables import serving

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


@pytest.fixture(autouse=True)
def masked_products(monkeypatch):
    """Products are masked everywhere: native ones round otherwise."""
    monkeypatch.setattr(choice, "speedup", lambda *args, **kwargs: 0.0)


@pytest.fixture
def natively(monkeypatch):
    """Models of any size are large; returns the native operations that were called."""
    monkeypatch.setattr(serving, "MANY_ENTRIES", 1)
    called = set()

    def noted(name):
        original = getattr(training, name)

        def call(*args, **kwargs):
            called.add(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(training, name, call)

    for name in ("refresh", "step", "mask", "exploration_loss"):
        noted(name)
    return called


EVERYTHING = {"refresh", "step", "mask", "exploration_loss"}


def digits_for(model, count=32):
    x = np.random.default_rng(0).normal(size=(count, *model.input_shape[1:]))
    y = np.random.default_rng(1).integers(0, model.output_shape[-1], count)
    return x.astype(np.float32), y


def trained(kernels, make_optimizer, builder=three_layers, steps=4, **arguments):
    """What training has made of a model: thetas, sets, counters and slots."""
    keras.utils.set_random_seed(0)
    with scope(kernels=kernels, **arguments):
        model = builder()
    model.compile(make_optimizer(), LOSS, jit_compile=False)
    build_optimizer(model)
    x, y = digits_for(model)
    model.fit(x, y, batch_size=32 // 4, epochs=steps // 4, shuffle=False, verbose=0)
    return state_of(model), model


def state_of(model):
    found = [np.asarray(v) for v in model.optimizer.variables]
    for weight in tk.sparse_weights(model):
        counters = weight.replica().counters.numpy()
        found += [weight.dense(), weight.codes(), counters]
    return found


def assert_same(first, second):
    for ours, theirs in zip(first, second, strict=True):
        assert ours.tobytes() == theirs.tobytes()


slow = pytest.mark.slow
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1, clipnorm=1.0),
    "averaged": lambda: keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9),
    "accumulating": lambda: keras.optimizers.SGD(0.1, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)),
}


@pytest.mark.parametrize(
    "optimizer",
    ["adamw", "accumulating"]
    + [
        pytest.param(name, marks=slow)
        for name in ("sgd", "momentum", "averaged", "scaled")
    ],
)
def test_fit_gives_the_same_bits(optimizer, natively):
    make = OPTIMIZERS[optimizer]
    arguments = {"refresh_every": 2, "steps": 8, "total_steps": 8}
    if optimizer == "sgd":
        arguments |= {"refresh_every": 1, "stop_exploring_at": 3}
    expected, _ = trained("masked", make, **arguments)
    assert not natively
    found, _ = trained("auto", make, **arguments)
    assert natively == EVERYTHING
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("arguments", "called"),
    [
        ({"backward": "random"}, EVERYTHING - {"refresh"}),
        pytest.param({"block": (2, 2)}, EVERYTHING - {"refresh"}, marks=slow),
        pytest.param({"distribution": "global"}, EVERYTHING - {"refresh"}, marks=slow),
        pytest.param(
            {"exploration": 0.0}, EVERYTHING - {"exploration_loss"}, marks=slow
        ),
        ({"exploration_norm": "l1"}, EVERYTHING - {"exploration_loss"}),
    ],
)
def test_what_is_not_served_takes_tensorflow(arguments, called, natively):
    sgd = OPTIMIZERS["momentum"]
    expected, _ = trained("masked", sgd, **arguments)
    found, _ = trained("auto", sgd, **arguments)
    assert natively == called
    assert_same(found, expected)


@slow
def test_convolutions_give_the_same_bits(natively):
    expected, _ = trained("masked", OPTIMIZERS["momentum"], zoo.convolutions)
    found, _ = trained("auto", OPTIMIZERS["momentum"], zoo.convolutions)
    assert natively == EVERYTHING
    assert_same(found, expected)


@pytest.mark.parametrize("how", ["eager", "function"])
def test_custom_loops_of_modules_give_the_same_bits(how, natively):
    def run(kernels):
        keras.utils.set_random_seed(0)
        with tk.topkast_scope(0.8, 0.5, refresh_every=2, kernels=kernels):
            made = tf.Variable(tf.random.normal([40, 30]), name="w")
        module = tf.Module()
        module.w = made

        def step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.tanh(x @ made) ** 2)
            made.assign_sub(0.1 * tape.gradient(loss, made))

        take = tf.function(step) if how == "function" else step
        for i in range(5):
            take(tf.random.stateless_normal([8, 40], [0, i]))
        [weight] = tk.sparse_weights(module)
        counters = weight.replica().counters.numpy()
        return weight.dense(), weight.codes(), counters

    expected = run("masked")
    assert not natively
    found = run("auto")
    assert {"refresh", "step"} <= natively
    assert_same(found, expected)


def test_what_an_assignment_returns_follows_it(natively):
    with tk.topkast_scope(0.5, 0.5):
        made = tf.Variable([[1.0, 2.0], [3.0, 4.0]], name="w")
    result = made.assign_add(tf.ones([2, 2]))
    np.testing.assert_array_equal(result.numpy(), [[1.0, 2.0], [4.0, 5.0]])
    assert made.assign_sub(tf.ones([]), read_value=False) is None
    np.testing.assert_array_equal(made.numpy(), [[1.0, 2.0], [3.0, 4.0]])
    assert "step" in natively


def test_two_devices_give_the_same_bits(natively):
    def run(kernels):
        strategy = zoo.two_devices()
        with strategy.scope():
            return trained(kernels, OPTIMIZERS["momentum"], refresh_every=2)[0]

    expected = run("masked")
    assert not natively
    assert_same(run("auto"), expected)
    assert natively == EVERYTHING


@pytest.mark.parametrize("eagerly", [False, True], ids=["graph", "eager"])
def test_nan_is_the_error_that_it_is_in_tensorflow(eagerly, natively):
    def run(kernels):
        with scope(kernels=kernels):
            model = three_layers()
        model.compile("sgd", LOSS, jit_compile=False, run_eagerly=eagerly)
        x, y = digits_for(model)
        x[0, 0] = np.nan
        with pytest.raises(
            ValueError if eagerly else tf.errors.InvalidArgumentError
        ) as error:
            model.train_on_batch(x, y)
        [first, *_] = tk.sparse_weights(model)
        with pytest.raises(ValueError, match="Received: NaN in"):
            first.codes()
        message = next(m for m in str(error.value).split("\n") if "NaN in" in m)
        return message.replace("sequential_1", "sequential")

    expected = run("masked")
    assert run("auto") == expected
    assert "refresh" in natively


def test_frozen_sets_stay(natively):
    _, model = trained("auto", OPTIMIZERS["momentum"])
    tk.freeze(model)
    before = [weight.codes() for weight in tk.sparse_weights(model)]
    x, y = digits_for(model)
    model.fit(x, y, epochs=2, verbose=0)
    for weight, codes in zip(tk.sparse_weights(model), before, strict=True):
        np.testing.assert_array_equal(weight.codes(), codes)
        assert weight.step == 6


def test_xla_takes_tensorflow(natively):
    with scope():
        model = three_layers()
    model.compile("sgd", LOSS, jit_compile=True)
    model.train_on_batch(*digits_for(model))
    assert not natively


def test_resumed_run_equals_an_uninterrupted_one_bitwise(natively, tmp_path):
    def fit(model):
        x, y = digits_for(model)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)

    whole, model = trained("auto", OPTIMIZERS["adamw"])
    model.save(tmp_path / "model.keras")
    fit(model)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    natively.clear()
    fit(loaded)
    assert natively == EVERYTHING
    assert_same(state_of(loaded), state_of(model))


def test_methods_of_ones_own_select_by_their_own_rule():
    class Changed(TopKAST):
        def update(self, weights, step):
            return super().update(weights, step)

        def penalty(self, *args):
            return super().penalty(*args)

    plain, changed = TopKAST(0.9, 0.8), Changed(0.9, 0.8)
    assert (plain.nests_by_magnitude, changed.nests_by_magnitude) == (True, False)
    assert (plain.exploration_coefficient, changed.exploration_coefficient) == (1e-4, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="TensorFlow forks on Linux alone")
def test_forked_processes_take_tensorflow(natively):
    with scope():
        model = three_layers()
    [weight, *_] = tk.sparse_weights(model)
    assert serving.serves(weight.replica())
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(trace_once.is_forked).get(timeout=60)
    assert not trace_once.is_forked()


def test_small_models_do_not_ask_for_the_library(monkeypatch):
    monkeypatch.setattr(kernels, "library", lambda: pytest.fail("asked for"))
    monkeypatch.setattr(kernels, "why_unavailable", lambda: pytest.fail("asked for"))
    trained("auto", OPTIMIZERS["momentum"])


def test_a_native_layer_takes_the_operations_with_the_same_bits(natively, monkeypatch):
    """The library is there then; the loss has other bits, and goes by the size alone."""
    monkeypatch.setattr(serving, "MANY_ENTRIES", 10**9)
    trained("auto", OPTIMIZERS["momentum"])
    assert not natively
    monkeypatch.setattr(choice, "speedup", lambda *args, **kwargs: 2.0)
    trained("auto", OPTIMIZERS["momentum"])
    assert natively == {"refresh", "step"}
    natively.clear()
    trained("masked", OPTIMIZERS["momentum"])
    assert not natively


def test_size_of_a_scope_is_that_of_all_its_weights(natively, monkeypatch):
    with scope() as scoped:
        three_layers()
    assert scoped._size.entries == 1400
    monkeypatch.setattr(serving, "MANY_ENTRIES", 1401)
    assert not scoped.wants_native(False)
    monkeypatch.setattr(serving, "MANY_ENTRIES", 1400)
    assert scoped.wants_native(False)


def test_size_of_a_loaded_model_is_that_of_all_its_layers(tmp_path, monkeypatch):
    with scope():
        model = three_layers()
    model.save(tmp_path / "model.keras")
    del model
    loaded = keras.models.load_model(tmp_path / "model.keras")
    monkeypatch.setattr(serving, "MANY_ENTRIES", 1400)
    assert all(weight.wants_native(False) for weight in tk.sparse_weights(loaded))


def test_without_a_library_tensorflow_is_taken(natively, monkeypatch):
    monkeypatch.setattr(kernels, "why_unavailable", lambda: "no compiler")
    expected, _ = trained("masked", OPTIMIZERS["momentum"])
    found, _ = trained("auto", OPTIMIZERS["momentum"])
    assert not natively
    assert_same(found, expected)
