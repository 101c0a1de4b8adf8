"""A saved model is restored; a resumed run equals an uninterrupted one."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from tests import zoo
from tests.small_models import build_optimizer
from topkast_tf.variables.of_run import loading_with

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(**scope):
    if not tf.distribute.has_strategy():
        keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    with tk.topkast_scope(**{"fwd": 0.8, "bwd": 0.5, "backward": "random", **scope}):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                layers.Conv2D(4, 3, activation="relu"),
                layers.BatchNormalization(),
                layers.Flatten(),
                layers.Dropout(0.3),
                layers.Dense(10),
            ]
        )
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.01)
    model.compile(optimizer, LOSS)
    return model


def fit(model, digits, epochs, first=0, **kwargs):
    model.fit(
        *digits,
        batch_size=64,
        epochs=epochs,
        initial_epoch=first,
        shuffle=False,
        verbose=0,
        **kwargs,
    )


def assert_same(one, other):
    for ours, theirs in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)
    ours, theirs = one.optimizer.variables, other.optimizer.variables
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)
    assert [w.step for w in tk.sparse_weights(one)] == [
        w.step for w in tk.sparse_weights(other)
    ]


# Models shared by several tests, which only read them: saving, stripping and cloning do
# not change them.


@pytest.fixture(scope="module")
def undisturbed(digits):
    model = build(refresh_every=3)
    fit(model, digits, 4)
    return model


@pytest.fixture(scope="module")
def half(digits, tmp_path_factory):
    """Half of that training, and the folder of its saved files."""
    model, folder = build(refresh_every=3), tmp_path_factory.mktemp("half")
    fit(model, digits, 2)
    model.save(folder / "half.keras")
    model.save_weights(folder / "half.weights.h5")
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    checkpoint.save(str(folder / "half"))
    return model, folder


@pytest.fixture(scope="module")
def untrained():
    return build()


def test_resumed_from_keras_file(undisturbed, half, digits):
    resumed = keras.models.load_model(half[1] / "half.keras")
    fit(resumed, digits, 4, first=2)
    assert_same(undisturbed, resumed)


def test_resumed_from_weights_file(undisturbed, half, digits):
    resumed = build(refresh_every=3)
    fit(resumed, digits, 1)  # the file must replace any state
    resumed.load_weights(half[1] / "half.weights.h5")
    fit(resumed, digits, 4, first=2)
    assert_same(undisturbed, resumed)


def test_resumed_from_tensorflow_checkpoint(undisturbed, half, digits):
    resumed = build(refresh_every=3)
    build_optimizer(resumed)
    checkpoint = tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer)
    status = checkpoint.restore(str(half[1] / "half-1"))
    status.assert_existing_objects_matched()
    fit(resumed, digits, 4, first=2)
    assert_same(undisturbed, resumed)


def test_resumed_by_backup_and_restore(undisturbed, digits, tmp_path):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        fit(build(refresh_every=3), digits, 4, callbacks=[backup, Interrupt()])
    resumed = build(refresh_every=3)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    fit(resumed, digits, 4, callbacks=[backup])
    assert_same(undisturbed, resumed)


@pytest.mark.parametrize(
    "distribution",
    [
        pytest.param("erk", marks=pytest.mark.slow),
        "global",
        pytest.param({"dense": (0.5, 0.5)}, marks=pytest.mark.slow),
    ],
)
def test_every_distribution_is_restored(distribution, digits, tmp_path):
    model = build(distribution=distribution, exempt="conv", backward="topk")
    fit(model, digits, 1)
    before = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    model.save(tmp_path / "model.keras")
    after = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)  # saving changes nothing
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        fit(each, digits, 2, first=1)
    assert_same(model, loaded)
    assert len(tk.sparse_weights(loaded)) == 1


def test_first_and_last_are_restored(tmp_path):
    with tk.topkast_scope(fwd=0.9, bwd=0.8, exempt=("first", "last")):
        model = zoo.functional()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for each in (model, loaded):
        table = tk.summary(each)
        assert [row.path for row in table.rows] == ["conv2d_1/kernel"]
        assert [why for *_, why in table.left_dense] == [
            "`exempt` names the first",
            "`exempt` names the last",
        ]


def test_file_loaded_twice_makes_independent_models(digits, tmp_path):
    model = build(distribution="global", backward="topk")
    model.save(tmp_path / "model.keras")
    one = keras.models.load_model(tmp_path / "model.keras")
    two = keras.models.load_model(tmp_path / "model.keras")
    before = [w.codes() for w in tk.sparse_weights(two)]
    fit(one, digits, 1)
    for codes, weight in zip(before, tk.sparse_weights(two), strict=True):
        np.testing.assert_array_equal(codes, weight.codes())


def test_exported_model_predicts_the_same(half, digits, tmp_path):
    model, _ = half
    expected = model.predict(digits[0], verbose=0)
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.serve(digits[0]), expected, rtol=1e-5, atol=1e-5)
    tf.saved_model.save(model, str(tmp_path / "saved"))
    restored = tf.saved_model.load(str(tmp_path / "saved"))
    out = restored.signatures["serving_default"](tf.constant(digits[0]))
    np.testing.assert_allclose(next(iter(out.values())), expected, rtol=1e-5, atol=1e-5)


def test_cloned_model_is_sparse_too(untrained):
    model, clone = untrained, keras.models.clone_model(untrained)
    assert [w.path for w in tk.sparse_weights(clone)] == [
        w.path for w in tk.sparse_weights(model)
    ]
    clone.set_weights(model.get_weights())
    for one, other in zip(
        tk.sparse_weights(model), tk.sparse_weights(clone), strict=True
    ):
        np.testing.assert_array_equal(one.codes(), other.codes())


def test_loading_without_the_library_names_the_missing_import(untrained, tmp_path):
    untrained.save(tmp_path / "model.keras")
    code = f"""if True:
        import keras
        path = {str(tmp_path / "model.keras")!r}
        try:
            keras.models.load_model(path)
        except Exception as error:
            print("the package to import is named:", "topkast_tf" in str(error))
        import topkast_tf
        keras.models.load_model(path)
    """
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "the package to import is named: True" in run.stdout


def test_stripped_model_continues_with_the_same_dropout(digits):
    model = build()
    images = digits[0][:4]
    first = model(images, training=True)
    plain = tk.strip(model)
    second = model(images, training=True)
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_allclose(plain(images, training=True), second, rtol=1e-5)


def test_sparse_weights_do_not_load_into_a_dense_model(untrained, tmp_path):
    untrained.save_weights(tmp_path / "sparse.weights.h5")
    dense = tk.strip(untrained)
    before = dense.get_weights()
    with pytest.raises(ValueError, match="strip.*Received"):
        dense.load_weights(tmp_path / "sparse.weights.h5")
    kernels = [before[0], before[-2]], [dense.get_weights()[i] for i in (0, -2)]
    for old, new in zip(*kernels, strict=True):
        np.testing.assert_array_equal(old, new)


def test_partial_restore_into_a_dense_model_raises(untrained, tmp_path):
    path = tf.train.Checkpoint(model=untrained).save(str(tmp_path / "sparse"))
    checkpoint = tf.train.Checkpoint(model=tk.strip(untrained))
    with pytest.raises(AssertionError, match="Unresolved object"):
        checkpoint.restore(path).assert_consumed()


def test_weights_of_other_sparsities_are_refused(tmp_path):
    build(fwd=0.9).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"fwd=0.8, bwd=0.5\).*Received"):
        build(fwd=0.8).load_weights(tmp_path / "other.weights.h5")


def test_checkpoint_of_a_dense_model_selects_new_sets(untrained, tmp_path):
    dense = tk.strip(untrained)
    for variable in dense.trainable_variables:
        variable.assign(np.random.default_rng(0).standard_normal(variable.shape))
    path = tf.train.Checkpoint(model=dense).save(str(tmp_path / "dense"))
    model = build()
    tf.train.Checkpoint(model=model).restore(path).expect_partial()
    for weight in tk.sparse_weights(model):
        magnitudes, mask = np.abs(weight.dense()), weight.forward_mask()
        assert magnitudes[mask].min() >= magnitudes[~mask].max()


def test_checkpoint_of_other_sparsities_is_refused(tmp_path):
    path = tf.train.Checkpoint(model=build(fwd=0.9)).save(str(tmp_path / "other"))
    model = build(fwd=0.8)
    tf.train.Checkpoint(model=model).restore(path)
    with pytest.raises(ValueError, match=r"fwd=0.8, bwd=0.5\).*Received"):
        model(np.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match=r"fwd=0.8, bwd=0.5\).*Received"):
        tk.summary(model)


def test_truncated_files_are_refused(untrained, tmp_path):
    untrained.save(tmp_path / "model.keras")
    content = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    with pytest.raises(Exception, match="(?i)zip|not found|corrupt"):
        keras.models.load_model(tmp_path / "cut.keras")


def test_loading_under_a_strategy_restores_the_reservoir(half):
    model, folder = half
    with zoo.two_devices().scope():
        mirrored = build(seed=3)
        for variable in mirrored.trainable_variables:
            variable.assign(tf.ones_like(variable) * 0.25)
        build_optimizer(mirrored)
        mirrored.load_weights(folder / "half.weights.h5")
    for one, other in zip(
        tk.sparse_weights(model), tk.sparse_weights(mirrored), strict=True
    ):
        for copy in other.variable.values:
            np.testing.assert_array_equal(one.dense(), copy.numpy())
        np.testing.assert_array_equal(one.codes(), other.codes())


def test_global_budget_is_restored_between_selections(tmp_path):
    keras.utils.set_random_seed(0)
    with tk.topkast_scope(fwd=0.8, bwd=0.5, distribution="global", refresh_every=3):
        model = keras.Sequential(
            [keras.Input((8,))] + [keras.layers.Dense(n) for n in (16, 16, 4)]
        )
    model.compile(keras.optimizers.SGD(0.1), "mse")
    random = np.random.default_rng(0)
    x, y = random.standard_normal((32, 8)), random.standard_normal((32, 4))
    model.fit(x, y, batch_size=8, verbose=0)  # four steps: the sets are of the third
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(
        tk.sparse_weights(model), tk.sparse_weights(again), strict=True
    ):
        np.testing.assert_array_equal(ours.codes(), theirs.codes())


def test_legacy_h5_format_is_refused(tmp_path):
    with tk.topkast_scope(0.9, 0.8):
        model = zoo.sequential()
    with pytest.raises(ValueError, match="`.keras`, weights"):
        model.save(tmp_path / "model.h5")
    tk.strip(model).save(tmp_path / "plain.h5")
    keras.models.load_model(tmp_path / "plain.h5")


@pytest.mark.parametrize("storage", ["dense", "packed"])
def test_a_model_with_a_frozen_layer_comes_back(storage, tmp_path):
    with tk.topkast_scope(0.7, 0.5, storage=storage):
        model = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(10), keras.layers.Dense(3)]
        )
    model.layers[0].trainable = False
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 12)), np.ones((4, 3)), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not loaded.layers[0].trainable
    for ours, theirs in zip(
        tk.sparse_weights(loaded), tk.sparse_weights(model), strict=True
    ):
        np.testing.assert_array_equal(ours.codes(), theirs.codes())
        np.testing.assert_array_equal(ours.dense(), theirs.dense())
    x = np.random.default_rng(0).normal(size=(4, 12))
    with loading_with(storage=storage):  # which decides the kernels, and so the bits
        same = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(same(x), model(x))
    loaded.layers[0].trainable = True  # and can be trained again
    loaded.compile("sgd", "mse")
    loaded.fit(np.ones((4, 12)), np.ones((4, 3)), verbose=0)
