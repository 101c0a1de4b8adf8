"""Sparse models that begin from the weights of dense ones, and the way back."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from swat_tf import swat_scope
from tests import zoo

SCOPES = {
    "topkast": lambda: tk.topkast_scope(0.9, 0.8, refresh_every=100),
    "topkast global": lambda: tk.topkast_scope(0.9, 0.8, distribution="global"),
    "topkast erk": lambda: tk.topkast_scope(0.5, 0.4, distribution="erk"),
    "swat": lambda: swat_scope(0.9, topk_period=5),
    "swat-m": lambda: swat_scope(0.8, distribution="momentum"),
}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense_model(builder=zoo.functional, seed=3):
    keras.utils.set_random_seed(seed)
    model = builder()
    model(zoo.images(builder))
    return model


def sparse_model(scope="topkast", builder=zoo.functional, seed=4):
    keras.utils.set_random_seed(seed)
    with SCOPES[scope]():
        model = builder()
    model(zoo.images(builder))
    return model


def trained(model, steps=3):
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    model.fit(
        zoo.images(zoo.functional, 8 * steps),
        zoo.labels(8 * steps),
        batch_size=8,
        verbose=0,
    )
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
    """Theta is the dense kernels; the sets are those of a first selection from them."""
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
def test_dense_weights_are_taken_and_the_sets_follow(way, scope, tmp_path):
    dense = trained(dense_model())
    model = sparse_model(scope)
    way(model, dense, tmp_path)
    assert_begun_from(model, dense)


@pytest.mark.parametrize("way", WAYS)
def test_also_after_training(way, tmp_path):
    dense = dense_model()
    model = trained(sparse_model())
    assert tk.sparse_weights(model)[0].step == 3
    way(model, dense, tmp_path)
    assert_begun_from(model, dense)


@pytest.mark.parametrize("way", WAYS)
def test_a_stripped_model_is_a_dense_one(way, tmp_path):
    plain = tk.strip(trained(sparse_model()))
    model = sparse_model()
    way(model, plain, tmp_path)
    assert_begun_from(model, plain)


def test_what_comes_next_counts_from_step_0():
    dense = dense_model()
    model, twin = trained(sparse_model()), sparse_model()
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
        return keras.applications.MobileNetV2(
            (32, 32, 3), alpha=0.35, weights=weights, include_top=False
        )

    dense = make()
    for name in ("dense.weights.h5", "dense.h5"):
        path = tmp_path / name
        (dense.save_weights if "weights" in name else dense.save)(path)
        with SCOPES["topkast"]():
            model = make(str(path))
        assert_begun_from(model, dense)


def test_only_what_does_not_fit_is_refused(tmp_path):
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


def test_the_reverse_names_strip(tmp_path):
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


def test_lists_count_and_order_as_in_the_dense_twin():
    model, dense = sparse_model(), dense_model()
    assert [w.shape for w in model.weights] == [w.shape for w in dense.weights]
    assert model.count_params() == dense.count_params()
    pairs = zip(model.weights, model.get_weights(), strict=False)
    for variable, value in pairs:
        np.testing.assert_array_equal(variable.numpy(), value)


def test_the_table_of_keras_has_the_totals_of_the_dense_twin():
    def totals(model):
        lines: list[str] = []
        model.summary(print_fn=lambda text, **_: lines.extend(text.splitlines()))
        return [line for line in lines if "params" in line]

    expected = totals(dense_model())
    assert len(expected) == 3  # total, trainable, non-trainable
    assert totals(sparse_model()) == expected


def test_a_list_restores_everything():
    model = trained(sparse_model())
    saved = model.get_weights()
    codes = [w.codes() for w in tk.sparse_weights(model)]
    outputs = model.predict(zoo.images(zoo.functional), verbose=0)
    trained(model, 200)
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
        "quality", mode="max", patience=30, restore_best_weights=True
    )
    model.fit(
        images, labels, batch_size=8, epochs=30, verbose=0, callbacks=[best, stop]
    )
    for weight, codes in zip(tk.sparse_weights(model), best.codes, strict=True):
        np.testing.assert_array_equal(weight.codes(), codes)
        assert weight.step == 8


# `sparsify`.


def magnitude_pruned(kernel, sparsity):
    """The definition: the kept(n, s) largest stay, ties by the lower index."""
    flat = kernel.ravel()
    order = sorted(range(flat.size), key=lambda i: (-abs(flat[i]), i))
    keep = order[: max(1, flat.size - int(sparsity * flat.size))]
    pruned = np.zeros_like(flat)
    pruned[keep] = flat[keep]
    return pruned.reshape(kernel.shape)


@pytest.mark.parametrize(
    "builder", [b for b in zoo.KERNELS if b is not zoo.application]
)
def test_sparsify_prunes_any_model_at_once(builder):
    dense = dense_model(builder)
    before = [v.numpy() for v in dense.weights]
    model = tk.sparsify(dense, 0.5, 0.25)
    weights = tk.sparse_weights(model)
    assert len(weights) == zoo.KERNELS[builder]
    thetas = {id(w.variable): w for w in weights}
    twin = builder()
    twin(zoo.images(builder))
    for old, made, target in zip(before, model.weights, twin.weights, strict=True):
        np.testing.assert_array_equal(made.numpy(), old)
        is_sparse = id(made.value) in thetas
        target.assign(magnitude_pruned(old, 0.5) if is_sparse else old)
    np.testing.assert_allclose(
        model(zoo.images(builder)), twin(zoo.images(builder)), rtol=1e-4, atol=1e-5
    )
    for old, variable in zip(before, dense.weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)


def test_sparsify_with_the_scope_of_another_method():
    dense = trained(dense_model())
    model = tk.sparsify(dense, swat_scope(0.9, exempt="first"))
    assert [w.method.name for w in tk.sparse_weights(model)] == ["swat"] * 2
    with pytest.raises(ValueError, match="no other arguments"):
        tk.sparsify(dense, swat_scope(0.9), refresh_every=3)


def test_sparsify_keeps_what_was_compiled():
    dense = trained(dense_model())
    dense.optimizer.learning_rate.assign(0.025)
    model = tk.sparsify(dense, 0.5, 0.25)
    assert float(model.optimizer.learning_rate) == np.float32(0.025)
    assert int(model.optimizer.iterations) == 0
    model.fit(
        zoo.images(zoo.functional), zoo.labels(), batch_size=4, epochs=1, verbose=0
    )
    assert [w.step for w in tk.sparse_weights(model)] == [2, 2, 2]
    uncompiled = tk.sparsify(dense_model(), 0.5, 0.25)
    assert not uncompiled.compiled


def test_sparsify_keeps_losses_and_metrics_that_nobody_registered():
    class Calls(keras.metrics.Metric):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.count = self.add_weight(name="count", initializer="zeros")

        def update_state(self, *args, **kwargs):
            self.count.assign_add(1.0)

        def result(self):
            return self.count

    images, labels = zoo.images(zoo.functional), zoo.labels()
    dense = dense_model()
    dense.compile("adam", lambda y, p: LOSS(y, p), metrics=[Calls(name="calls")])
    dense.fit(images, labels, batch_size=4, verbose=0)
    model = tk.sparsify(dense, 0.5, 0.25)
    history = model.fit(images, labels, batch_size=2, verbose=0).history
    assert history["calls"] == [4.0]
    assert dense.get_metrics_result()["calls"] == 2.0


def test_sparsify_leaves_frozen_layers_dense():
    dense = dense_model()
    dense.layers[1].trainable = False
    model = tk.sparsify(dense, 0.5, 0.25)
    assert len(tk.sparse_weights(model)) == 2
    assert not model.layers[1].trainable


def test_sparsify_and_strip_are_inverse_at_no_sparsity():
    dense = trained(dense_model())
    plain = tk.strip(tk.sparsify(dense, 0.0, 0.0))
    for one, other in zip(dense.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_sparsify_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="which has sparse weights"):
        tk.sparsify(sparse_model(), 0.5, 0.25)
    with pytest.raises(TypeError, match="Keras model"):
        tk.sparsify(np.ones(3), 0.5, 0.25)
    with pytest.raises(ValueError, match="built model"):
        tk.sparsify(zoo.unbuilt_sequential(), 0.5, 0.25)
    with pytest.raises(ValueError, match="0 <= bwd <= fwd < 1"):
        tk.sparsify(dense_model(), 0.5)

    class NoConfig(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.inner = layers.Dense(units)

        def call(self, inputs):
            return self.inner(inputs)

        def get_config(self):
            raise NotImplementedError

    model = NoConfig(3)
    model(np.ones((2, 4), np.float32))
    with pytest.raises(ValueError, match="get_config"):
        tk.sparsify(model, 0.5, 0.25)
