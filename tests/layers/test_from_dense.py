"""Sparse models that start from the weights of dense ones, and the way back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from tests import zoo
from tests.layers.begun_models import LOSS, SCOPES, dense_model, sparse_model, trained


@pytest.fixture(scope="module")
def once_trained():
    """A dense and a sparse model; the first is only read, the second is reset."""
    dense_model()  # so that names differ from those of a test's own model
    dense, sparse = trained(dense_model()), trained(sparse_model())
    return dense, sparse, sparse.get_weights()


@pytest.fixture
def trained_dense(once_trained):
    return once_trained[0]


@pytest.fixture
def trained_sparse(once_trained):
    _, model, weights = once_trained
    model.set_weights(weights)
    return model


def kernels_of(dense):
    return [w.numpy() for w in dense.weights if "kernel" in w.name]


def by_set_weights(model, dense, path):
    model.set_weights(dense.get_weights())


def by_layers(model, dense, path):
    for mine, theirs in zip(model.layers, dense.layers, strict=True):
        mine.set_weights(theirs.get_weights())


def by_weights_file(model, dense, path):
    dense.save_weights(path / "dense.weights.h5")
    model.load_weights(path / "dense.weights.h5")


def by_keras_file(model, dense, path):
    dense.save(path / "dense.keras")
    model.load_weights(path / "dense.keras")


def by_legacy_file(model, dense, path):
    dense.save(path / "dense.h5")
    model.load_weights(path / "dense.h5")


def skipping_mismatches(model, dense, path):
    dense.save_weights(path / "dense.weights.h5")
    model.load_weights(path / "dense.weights.h5", skip_mismatch=True)


def by_checkpoint(model, dense, path):
    saved = tf.train.Checkpoint(model=dense).save(str(path / "dense"))
    tf.train.Checkpoint(model=model).restore(saved).expect_partial()


WAYS = (
    by_set_weights,
    by_layers,
    by_weights_file,
    by_keras_file,
    by_legacy_file,
    skipping_mismatches,
    by_checkpoint,
)


def assert_begun_from(model, dense):
    """Theta equals the dense kernels; the sets are a first selection from them."""
    weights = tk.sparse_weights(model)
    for weight, kernel in zip(weights, kernels_of(dense), strict=True):
        np.testing.assert_array_equal(weight.dense(), kernel)
        assert weight.step == 0
    before = [weight.codes() for weight in weights]
    tk.refresh(model)
    for weight, codes in zip(weights, before, strict=True):
        np.testing.assert_array_equal(weight.codes(), codes)
        if weight.budget is None:
            # The definition: the kept(n, s) largest, all larger than all others.
            kept = weight.kept_forward
            assert weight.forward_mask().sum() == kept
            magnitudes = np.abs(weight.dense())
            inside = magnitudes[weight.forward_mask()].min()
            assert inside >= magnitudes[~weight.forward_mask()].max()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("scope", SCOPES)
def test_sparse_model_starts_from_dense_weights(way, scope, trained_dense, tmp_path):
    model = sparse_model(scope)
    way(model, trained_dense, tmp_path)
    assert_begun_from(model, trained_dense)


@pytest.mark.parametrize("way", WAYS)
def test_trained_sparse_model_restarts_from_dense_weights(
    way, trained_sparse, tmp_path
):
    dense = dense_model()
    assert tk.sparse_weights(trained_sparse)[0].step == 3
    way(trained_sparse, dense, tmp_path)
    assert_begun_from(trained_sparse, dense)


@pytest.mark.parametrize("way", WAYS)
def test_stripped_model_serves_as_a_dense_one(way, trained_sparse, tmp_path):
    plain = tk.strip(trained_sparse)
    model = sparse_model()
    way(model, plain, tmp_path)
    assert_begun_from(model, plain)


def test_training_after_dense_weights_starts_at_step_0():
    dense = dense_model()
    model, twin = trained(sparse_model()), sparse_model()
    for momentum in model.optimizer.momentums:  # the twin has none yet
        momentum.assign(tf.zeros_like(momentum))
    for each in (model, twin):
        each.set_weights(dense.get_weights())
        trained(each)
    for one, other in zip(
        tk.sparse_weights(model), tk.sparse_weights(twin), strict=True
    ):
        assert one.step == other.step == 3
        np.testing.assert_array_equal(one.codes(), other.codes())
        np.testing.assert_array_equal(one.dense(), other.dense())


def test_clone_in_a_scope():
    dense = dense_model()
    with SCOPES["topkast"]():
        model = keras.models.clone_model(dense)
    model.set_weights(dense.get_weights())
    assert_begun_from(model, dense)


def test_applications_read_a_file_in_a_scope(tmp_path):
    def make(weights=None):
        return keras.applications.MobileNet(
            (32, 32, 3), alpha=0.25, weights=weights, include_top=False
        )

    dense = make()
    for name in ("dense.weights.h5", "dense.h5"):
        path = tmp_path / name
        (dense.save_weights if "weights" in name else dense.save)(path)
        with SCOPES["topkast"]():
            model = make(str(path))
        assert_begun_from(model, dense)


def test_only_mismatched_layers_are_refused(tmp_path):
    def make(classes):
        return keras.Sequential(
            [keras.Input((8,)), layers.Dense(6), layers.Dense(classes, name="head")]
        )

    dense = make(3)
    dense.save_weights(tmp_path / "dense.weights.h5")
    with SCOPES["topkast"]():
        model = make(4)
    old_head = tk.sparse_weights(model)[1].dense()
    with pytest.raises(ValueError, match="shape"):
        model.load_weights(tmp_path / "dense.weights.h5")
    with pytest.warns(UserWarning, match="head"):
        model.load_weights(tmp_path / "dense.weights.h5", skip_mismatch=True)
    body, head = tk.sparse_weights(model)
    np.testing.assert_array_equal(body.dense(), kernels_of(dense)[0])
    np.testing.assert_array_equal(head.dense(), old_head)
    with pytest.raises(ValueError, match="Expected 4 arrays"):
        model.set_weights(dense.get_weights()[:3])


def test_loading_sparse_weights_into_dense_names_strip(tmp_path):
    model, dense = sparse_model(), dense_model()
    with pytest.raises(ValueError, match="strip"):
        dense.set_weights(model.get_weights())
    model.save_weights(tmp_path / "sparse.weights.h5")
    model.save(tmp_path / "sparse.keras")
    for name in ("sparse.weights.h5", "sparse.keras"):
        with pytest.raises(ValueError, match="strip"):
            dense.load_weights(tmp_path / name)
    tk.strip(model).save_weights(tmp_path / "plain.weights.h5")
    dense.load_weights(tmp_path / "plain.weights.h5")


# Lists of weights.


def test_weight_lists_match_the_dense_twin():
    model, dense = sparse_model(), dense_model()
    assert [w.shape for w in model.weights] == [w.shape for w in dense.weights]
    assert model.count_params() == dense.count_params()
    pairs = zip(model.weights, model.get_weights(), strict=False)
    for variable, value in pairs:
        np.testing.assert_array_equal(variable.numpy(), value)


def test_keras_summary_totals_match_the_dense_twin():
    def totals(model):
        lines: list[str] = []
        model.summary(print_fn=lambda text, **_: lines.extend(text.splitlines()))
        return [line for line in lines if "params" in line]

    expected = totals(dense_model())
    assert len(expected) == 3  # total, trainable, non-trainable
    assert totals(sparse_model()) == expected


def test_set_weights_restores_weights_sets_and_step(trained_sparse):
    model, saved = trained_sparse, trained_sparse.get_weights()
    codes = [w.codes() for w in tk.sparse_weights(model)]
    outputs = model.predict(zoo.images(zoo.functional), verbose=0)
    trained(model, 100)  # past the next selection
    assert any(
        np.any(w.codes() != old)
        for w, old in zip(tk.sparse_weights(model), codes, strict=True)
    )
    model.set_weights(saved)
    for weight, old in zip(tk.sparse_weights(model), codes, strict=True):
        np.testing.assert_array_equal(weight.codes(), old)
        assert weight.step == 3
    np.testing.assert_array_equal(
        model.predict(zoo.images(zoo.functional), verbose=0), outputs
    )


def test_early_stopping_restores_the_sets():
    model = sparse_model()
    model.compile(keras.optimizers.SGD(1.0), LOSS)
    images, labels = zoo.images(zoo.functional, 64), zoo.labels(64)

    class Best(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            logs["quality"] = -epoch  # the first epoch is the best
            if epoch == 0:
                self.codes = [w.codes() for w in tk.sparse_weights(model)]

    best = Best()
    stop = keras.callbacks.EarlyStopping(
        "quality", mode="max", patience=13, restore_best_weights=True
    )
    model.fit(
        images, labels, batch_size=8, epochs=13, verbose=0, callbacks=[best, stop]
    )
    for weight, codes in zip(tk.sparse_weights(model), best.codes, strict=True):
        np.testing.assert_array_equal(weight.codes(), codes)
        assert weight.step == 8
