"""Packed storage: training the entries of B is training theta with masked updates."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo
from topkast_tf.compat import raw_variable
from topkast_tf.core import packing
from topkast_tf.gradients import bytes_reduced
from topkast_tf.kernels import library, training
from topkast_tf.variables.of_run import loading_with

NATIVE = pytest.mark.skipif(not library.is_available(), reason="no native kernels")
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.01),
    "clipped": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.5),
    "accumulating": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


FAST = ("adam",)


def _slow_unless(value, fast, name=None):
    is_fast = (name or value) in fast
    return pytest.param(value, id=name, marks=[] if is_fast else [pytest.mark.slow])


def convolutions():
    return keras.Sequential(
        [
            keras.Input((10, 10, 4)),
            keras.layers.Conv2D(12, 3, activation="relu"),
            keras.layers.Conv2D(8, 3, strides=2),
            keras.layers.Flatten(),
            keras.layers.Dense(40, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def data(count=32):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 10, 10, 4)).astype(np.float32)
    return x, rng.integers(0, 10, count)


def built(storage, kernels="masked", builder=convolutions, **arguments):
    keras.utils.set_random_seed(0)
    how = {"refresh_every": 3, "slots": "reset", **arguments}
    with tk.topkast_scope(0.9, 0.7, storage=storage, kernels=kernels, **how):
        return builder()


def trained(model, optimizer, steps=12, **compiled):
    model.compile(OPTIMIZERS[optimizer](), LOSS, jit_compile=False, **compiled)
    x, y = data()
    model.fit(x, y, batch_size=8, epochs=steps // 4, shuffle=False, verbose=0)
    return model


def assert_same(ours, theirs, atol=0.0):
    weights = tk.sparse_weights(ours), tk.sparse_weights(theirs)
    for mine, yours in zip(*weights, strict=True):
        assert mine.step == yours.step > 0
        np.testing.assert_array_equal(mine.codes(), yours.codes())
        np.testing.assert_allclose(mine.dense(), yours.dense(), rtol=0, atol=atol)
    for mine, yours in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), yours.numpy(), rtol=0, atol=atol)


@pytest.mark.parametrize("optimizer", ["momentum", "clipped"])
def test_a_regularizer_acts_on_b_alone(optimizer):
    """In either storage slots outside B are zero, and a norm is that of B."""

    def regularized():
        return keras.Sequential(
            [
                keras.Input((10, 10, 4)),
                keras.layers.Conv2D(6, 3, strides=2, kernel_regularizer="l2"),
                keras.layers.Flatten(),
                keras.layers.Dense(10, kernel_regularizer="l1"),
            ]
        )

    dense, packed = (
        trained(built(storage, builder=regularized), optimizer, steps=8)
        for storage in ("dense", "packed")
    )
    assert_same(packed, dense, atol=1e-6)
    for weight, slot in zip(
        tk.sparse_weights(dense),
        [
            v
            for v in dense.optimizer.variables
            if "kernel" in v.path and "mom" in v.path
        ],
        strict=False,
    ):
        assert not slot.numpy()[~weight.backward_mask()].any()


def by_definition(sets, values):
    """The entries of B in order."""
    return values.ravel()[sets.ravel() > 0]


def test_by_hand():
    """One Dense layer, SGD with momentum, two steps and a refresh, computed by hand."""
    with tk.topkast_scope(
        0.75, 0.5, exploration=0.0, refresh_every=2, storage="packed"
    ):
        layer = keras.layers.Dense(2, use_bias=False)
        model = keras.Sequential([keras.Input((2,)), layer])
    layer.kernel.assign([[4.0, 3.0], [2.0, 1.0]])  # A = {4}, B = {4, 3}
    [entries] = model.trainable_variables
    np.testing.assert_array_equal(entries.numpy(), [4.0, 3.0])
    optimizer = keras.optimizers.SGD(1.0, momentum=0.5)

    def step(gradient):
        optimizer.apply([tf.constant(gradient)], [entries])

    np.testing.assert_array_equal(model(tf.eye(2)), [[4.0, 0.0], [0.0, 0.0]])
    step([1.0, 1.0])  # velocity -1, -1
    np.testing.assert_array_equal(layer.kernel.numpy(), [[3.0, 2.0], [2.0, 1.0]])
    step([0.0, 1.0])  # velocity -0.5, -1.5: theta = 2.5, 0.5, 2, 1
    [weight] = tk.sparse_weights(model)
    np.testing.assert_array_equal(weight.dense(), [[2.5, 0.5], [2.0, 1.0]])
    np.testing.assert_array_equal(weight.codes(), [[2, 0], [1, 0]])
    np.testing.assert_array_equal(entries.numpy(), [2.5, 2.0])
    # The velocity of 2.5 has followed it, that of 2, which has entered, is zero.
    np.testing.assert_array_equal(optimizer.momentums[0].numpy(), [-0.5, 0.0])
    step([0.0, 0.0])
    np.testing.assert_array_equal(layer.kernel.numpy(), [[2.25, 0.5], [2.0, 1.0]])


@pytest.mark.parametrize("optimizer", [_slow_unless(o, FAST) for o in OPTIMIZERS])
def test_equals_masked_updates_bit_for_bit(optimizer):
    masked = trained(built("dense"), optimizer)
    assert_same(trained(built("packed"), optimizer), masked)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adamw"])
@pytest.mark.parametrize("kernels", ["masked", "native"])
def test_equals_masked_updates_over_200_steps(optimizer, kernels):
    # Gradients of native products are rounded otherwise; a constant rate of 0.1 would
    # have that grow.
    arguments = {"refresh_every": 10, "kernels": kernels}
    masked = trained(built("dense", **arguments), optimizer, 200)
    packed = trained(built("packed", **arguments), optimizer, 200)
    assert_same(packed, masked, atol=0.0 if kernels == "masked" else 1e-5)


@pytest.mark.skipif(library.why_unavailable() is not None, reason="no native kernels")
@pytest.mark.parametrize("optimizer", [_slow_unless(o, FAST) for o in ("sgd", "adam")])
def test_native_products_read_the_entries(optimizer):
    packed = trained(built("packed", "native"), optimizer)
    assert_same(packed, trained(built("dense", "native"), optimizer), atol=1e-5)
    kernels = {weight.kernels.kernels for weight in tk.sparse_weights(packed)}
    assert kernels == {"native"}


@pytest.mark.skipif(library.why_unavailable() is not None, reason="no native kernels")
def test_auto_takes_native_products_in_small_layers_too():
    """A masked product makes alpha from the entries, which takes longer than any gain."""
    found = {}
    for storage in ("dense", "packed"):
        model = built(storage, "auto")
        model(data(1)[0])
        found[storage] = {weight.kernels.kernels for weight in tk.sparse_weights(model)}
    assert found == {"dense": {"masked"}, "packed": {"native"}}


@pytest.mark.slow
def test_compiled_by_xla():
    masked = trained(built("dense"), "adam")
    packed = built("packed")
    packed.compile(OPTIMIZERS["adam"](), LOSS, jit_compile=True)
    x, y = data()
    packed.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
    assert_same(packed, masked, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        _slow_unless(arguments, ("exempt",), next(iter(arguments)))
        for arguments in (
            {"backward": "random"},
            {"stop_exploring_at": 6},
            {"distribution": "erk"},
            {"block": (4, 4)},
            {"exempt": ("first", "last")},
            {"exploration_norm": "l1", "exploration": 1e-3},
        )
    ],
)
def test_every_kind_of_scope(arguments):
    masked = trained(built("dense", **arguments), "adam")
    assert_same(trained(built("packed", **arguments), "adam"), masked)


def test_what_the_optimizer_holds_is_as_long_as_b():
    model = trained(built("packed"), "adam")
    weights = tk.sparse_weights(model)
    sizes = [int((weight.codes() > 0).sum()) for weight in weights]
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    assert [v.shape for v in kernels] == [(size,) for size in sizes]
    slots = [v.shape for v in model.optimizer.variables if "kernel" in v.path]
    assert [tuple(shape) for shape in slots] == [(s,) for s in sizes for _ in range(2)]
    for weight, entries in zip(weights, kernels, strict=True):
        expected = by_definition(weight.codes(), weight.dense())
        np.testing.assert_array_equal(entries.numpy(), expected)
        members = weight.packed.members.numpy()
        np.testing.assert_array_equal(
            members, by_definition(weight.codes(), weight.codes())
        )


def test_weights_of_the_model_are_those_of_the_dense_one():
    packed, dense = built("packed"), built("dense")
    assert [v.shape for v in packed.weights] == [v.shape for v in dense.weights]
    assert packed.count_params() == dense.count_params()
    for mine, theirs in zip(packed.get_weights(), dense.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_custom_loop_and_gradients():
    model = built("packed", exploration=0.0)
    x, y = data(8)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss = LOSS(y, model(x))
    found = tape.gradient(loss, [v.value for v in variables])
    dense = built("dense", exploration=0.0)
    with tf.GradientTape() as tape:
        loss = LOSS(y, dense(x))
    expected = tape.gradient(loss, [v.value for v in dense.trainable_variables])
    codes = {w.path: w.codes() for w in tk.sparse_weights(dense)}
    for mine, theirs, variable in zip(
        found, expected, dense.trainable_variables, strict=True
    ):
        theirs = theirs.numpy()
        if variable.path in codes:
            theirs = by_definition(codes[variable.path], theirs)
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("storage", "other"),
    [
        ("packed", "dense"),
        pytest.param("dense", "packed", marks=pytest.mark.slow),
        pytest.param("packed", "packed", marks=pytest.mark.slow),
    ],
)
def test_files_are_of_both_storages(storage, other, tmp_path):
    model = trained(built(storage), "sgd")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    into = built(other)
    into.load_weights(tmp_path / "model.weights.h5")
    assert_same(into, model)
    with tk.topkast_scope(0.9, 0.7, storage=other, kernels="masked"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(loaded, model)
    x, y = data()
    for each in (into, loaded, model):
        each.compile(OPTIMIZERS["sgd"](), LOSS, jit_compile=False)
        each.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert_same(into, model)
    assert_same(loaded, model)


def test_checkpoint_of_tensorflow(tmp_path):
    model = trained(built("packed"), "sgd")
    path = tf.train.Checkpoint(model).save(tmp_path / "checkpoint")
    for storage in ("packed", "dense"):
        into = built(storage)
        into(data(1)[0])
        tf.train.Checkpoint(into).restore(path).assert_existing_objects_matched()
        into(data(1)[0])
        assert_same(into, model)


@pytest.mark.slow  # the conformance table and the launcher's tests resume, too
def test_resumed_training_is_the_same_bit_for_bit(tmp_path):
    whole = trained(built("packed"), "adam", 12)
    first = trained(built("packed"), "adam", 8)
    first.save(tmp_path / "model.keras")
    with tk.topkast_scope(0.9, 0.7, storage="packed", kernels="masked"):
        resumed = keras.models.load_model(tmp_path / "model.keras")
    x, y = data()
    resumed.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert_same(resumed, whole)
    for mine, theirs in zip(
        resumed.optimizer.variables, whole.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())


@NATIVE
@pytest.mark.parametrize("optimizer", [_slow_unless(o, ("adam",)) for o in OPTIMIZERS])
@pytest.mark.parametrize("stop", [pytest.param(None, marks=pytest.mark.slow), 5])
def test_native_selection_has_the_bits_of_tensorflow(optimizer, stop, monkeypatch):
    calls = []
    refresh = training.refresh

    def counted(*args, **kwargs):
        calls.append(len(kwargs["packed"]))
        return refresh(*args, **kwargs)

    monkeypatch.setattr(training, "refresh", counted)
    models = []
    for is_served in (True, False):
        if not is_served:
            monkeypatch.setattr(
                "topkast_tf.variables.serving.serves", lambda *_, **__: 0
            )
        model = built("packed", kernels="native", stop_exploring_at=stop)
        models.append(trained(model, optimizer))
    assert calls and set(calls) == {4}
    assert_same(*models)
    optimizers = [model.optimizer.variables for model in models]
    for mine, theirs in zip(*optimizers, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy(), mine.path)
    for mine, theirs in zip(*map(tk.sparse_weights, models), strict=True):
        for made, other in zip(mine.packed, theirs.packed, strict=True):
            np.testing.assert_array_equal(made.numpy(), other.numpy())


@NATIVE
def test_a_nan_stops_native_selection_and_loses_nothing():
    model = built("packed", kernels="native", refresh_every=1)
    trained(model, "adam", 4)
    [first, *_] = tk.sparse_weights(model)
    before = first.codes()
    values = first.packed.entries.numpy()
    values[3] = np.nan
    first.packed.entries.assign(values)
    x, y = data(8)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="conv2d"):
        model.fit(x, y, batch_size=8, verbose=0)
    np.testing.assert_array_equal(raw_variable(first._sets).numpy(), before)


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["dense", "packed"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_goes_on_in_the_other_storage(storage, optimizer, tmp_path):
    """A file of one storage, with its optimizer, loads in the other, with the same bits."""
    other = {"dense": "packed", "packed": "dense"}[storage]
    whole = trained(built(storage), optimizer, 12)
    trained(built(storage), optimizer, 8).save(tmp_path / "model.keras")
    with loading_with("masked", other):
        resumed = keras.models.load_model(tmp_path / "model.keras")
    x, y = data()
    resumed.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert_same(resumed, whole)
    # The files are equal too, slots and all.
    for each, name in ((resumed, "ours.keras"), (whole, "theirs.keras")):
        each.save(tmp_path / name)
    with loading_with("masked"):
        ours, theirs = (
            keras.models.load_model(tmp_path / name)
            for name in ("ours.keras", "theirs.keras")
        )
    mine, yours = ours.optimizer.variables, theirs.optimizer.variables
    assert len(mine) == len(yours)
    assert any(v.shape == (3, 3, 4, 12) for v in mine) or optimizer == "sgd"
    for a, b in zip(mine, yours, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), a.path)


def test_weights_of_a_subclass_are_loaded_before_its_optimizer(tmp_path):
    @keras.saving.register_keras_serializable()
    class Late(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.zz = keras.layers.Dense(10)  # behind `optimizer`, by name

        def call(self, x):
            return self.zz(keras.ops.reshape(x, (-1, 400)))

        def build(self, shape):
            self.zz.build((None, 400))

    model = built("packed", builder=Late)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True), LOSS)
    x, y = data()
    model.fit(x, y, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    with loading_with("masked", "packed"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    for mine, theirs in zip(
        loaded.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy(), mine.path)


def test_weights_from_outside():
    model = built("packed")
    values = [np.random.default_rng(3).normal(size=v.shape) for v in model.weights]
    model(data(1)[0])
    model.set_weights(values)
    for weight, entries in zip(
        tk.sparse_weights(model),
        [v for v in model.trainable_variables if v.name == "kernel"],
        strict=True,
    ):
        expected = by_definition(weight.codes(), weight.dense())
        np.testing.assert_array_equal(entries.numpy(), expected)
        top = np.sort(np.abs(weight.dense()).ravel())[::-1][: len(expected)]
        np.testing.assert_allclose(np.sort(np.abs(expected))[::-1], top)


@pytest.mark.slow
def test_masks_from_outside():
    model = built("packed")
    weight = tk.sparse_weights(model)[0]
    mask = np.zeros(weight.shape, bool)
    mask[0] = True
    weight.set_masks(mask)
    tk.freeze(model)
    trained(model, "adam")
    np.testing.assert_array_equal(weight.backward_mask(), mask)
    assert model.trainable_variables[0].shape == (int(mask.sum()),)


def test_strip_has_the_same_outputs():
    model = trained(built("packed"), "momentum")
    x, _ = data(4)
    np.testing.assert_allclose(tk.strip(model)(x), model(x), atol=1e-5)


@pytest.mark.slow
def test_two_devices():
    one = trained(built("packed"), "momentum")
    with zoo.two_devices().scope():
        two = trained(built("packed"), "momentum")
    assert_same(two, one, atol=1e-5)
    for variable in two.trainable_variables:
        first, *rest = raw_variable(variable).values
        for other in rest:
            np.testing.assert_array_equal(first.numpy(), other.numpy())


@pytest.mark.slow
def test_mixed_precision_scales_the_loss():
    def model():
        keras.mixed_precision.set_global_policy("mixed_float16")
        try:
            return convolutions()
        finally:
            keras.mixed_precision.set_global_policy("float32")

    masked = trained(built("dense", builder=model), "adam")
    packed = trained(built("packed", builder=model), "adam")
    assert_same(packed, masked)


@pytest.mark.slow
def test_averaged_weights():
    def optimizer():
        return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)

    models = []
    for storage in ("dense", "packed"):
        # No refresh: the average of an entry that has just entered B is another matter.
        model = built(storage, refresh_every=1000)
        model.compile(optimizer(), LOSS, jit_compile=False)
        x, y = data()
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        models.append(model)
    assert_same(models[1], models[0])


def test_averages_follow_their_weights():
    """Those that enter B start from theta, which has not moved outside it."""
    with tk.topkast_scope(
        0.75, 0.5, exploration=0.0, refresh_every=2, storage="packed"
    ):
        layer = keras.layers.Dense(2, use_bias=False)
        model = keras.Sequential([keras.Input((2,)), layer])
    layer.kernel.assign([[4.0, 3.0], [2.0, 1.0]])
    [entries] = model.trainable_variables
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    for gradient in ([1.0, 1.0], [1.0, 1.5]):  # 3, 2; then 2, 0.5
        optimizer.apply([tf.constant(gradient)], [entries])
    np.testing.assert_array_equal(entries.numpy(), [2.0, 2.0])
    [average] = optimizer._model_variables_moving_average
    # Keras begins with the value after the first step: (3 + 2) / 2.
    np.testing.assert_array_equal(average.numpy(), [2.5, 2.0])


@pytest.mark.parametrize(
    ("scope", "message"),
    [
        (
            lambda: tk.topkast_scope(0.9, 0.8, storage="sparse"),
            r"Expected storage in \('dense', 'packed'\). Received: storage='sparse'",
        ),
        (
            lambda: tk.topkast_scope(0.9, 0.8, storage="packed", slots="decay"),
            "Expected slots='reset' for storage='packed'",
        ),
        (
            lambda: tk.topkast_scope(0.9, 0.8, slots="keep"),
            "`slots` must be one of",
        ),
        (
            lambda: tk.sparse_scope(
                "rigl", sparsity=0.9, storage="packed", update_until=100
            ),
            "Received: 'rigl'",
        ),
        (
            lambda: tk.sparse_scope("set", sparsity=0.9, storage="packed"),
            "Received: 'set'",
        ),
        (
            lambda: tk.topkast_scope(0.9, 0.8, storage="packed", distribution="global"),
            "Received: distribution='global'",
        ),
    ],
)
def test_scopes_that_cannot_be_packed_are_refused(scope, message):
    with pytest.raises(ValueError, match=message):
        with scope():
            convolutions()


def test_weights_that_cannot_be_packed_are_refused():
    with pytest.raises(ValueError, match="without a constraint"):
        with tk.topkast_scope(0.9, 0.8, storage="packed"):
            keras.Sequential(
                [keras.Input((8,)), keras.layers.Dense(4, kernel_constraint="max_norm")]
            )
    with pytest.raises(ValueError, match="Received: the variable w"):
        with tk.topkast_scope(0.5, 0.5, storage="packed"):
            tf.Variable([[1.0, 2.0]], name="w")


@pytest.mark.slow
def test_static_masks():
    keras.utils.set_random_seed(0)
    models = []
    for storage in ("dense", "packed"):
        keras.utils.set_random_seed(0)
        with tk.sparse_scope("static", sparsity=0.9, storage=storage, kernels="masked"):
            models.append(trained(convolutions(), "adam"))
    assert_same(models[1], models[0])


def test_packed_by_definition():
    rng = np.random.default_rng(0)
    for _ in range(20):
        shape = tuple(rng.integers(1, 6, 3))
        before, after = (rng.integers(0, 3, shape).astype(np.uint8) for _ in range(2))
        x, y = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
        size = int(max((before > 0).sum(), (after > 0).sum())) + int(rng.integers(3))
        found = packing.packed(x, before, size).numpy()
        expected = by_definition(before, x)
        np.testing.assert_array_equal(found[: len(expected)], expected)
        assert not np.any(found[len(expected) :])
        whole = np.where(before > 0, x, 0)
        np.testing.assert_array_equal(packing.unpacked(found, before), whole)
        merged = packing.merged(y, found, before).numpy()
        np.testing.assert_array_equal(merged, np.where(before > 0, x, y))
        moved = packing.repacked(tf.constant(found), before, after, y).numpy()
        expected = by_definition(after, np.where(before > 0, x, y))
        np.testing.assert_array_equal(moved[: len(expected)], expected)
        compiled = tf.function(packing.packed, jit_compile=True)
        np.testing.assert_array_equal(compiled(x, before, size), found)


def test_the_gradient_that_replicas_exchange():
    found = {}
    for storage in ("dense", "packed"):
        model = built(storage)
        model(data(1)[0])
        found[storage] = bytes_reduced(model)
    assert found["packed"] == found["dense"]
    assert found["packed"].packed < found["packed"].dense
