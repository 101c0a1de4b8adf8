"""Methods that are others with certain arguments."""

import keras
import numpy as np
import pytest

import topkast_tf as tk
from swat_tf import swat_scope
from tests.methods.linear_oracle import MOMENTUM, RATE, batches, layers
from topkast_tf.methods import METHODS, SETTINGS, TopKAST, dnw, rigl_itop, set_itop


def trained(scope, steps=7):
    """Theta and forward masks of two dense layers after some steps in a scope."""
    keras.utils.set_random_seed(0)
    with scope:
        model = keras.Sequential(
            [
                keras.Input((12,)),
                keras.layers.Dense(20, use_bias=False),
                keras.layers.Dense(6, use_bias=False),
            ]
        )
    model.compile(keras.optimizers.SGD(RATE, momentum=MOMENTUM), "mse")
    x, y = batches(steps)
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
    weights = tk.sparse_weights(model)
    return [w.dense() for w in weights], [w.forward_mask() for w in weights]


def assert_equal(one, other, atol=0.0):
    for ours, theirs in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(one[0], other[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol)


def test_dnw_is_topkast_without_its_limits():
    assert dnw(sparsity=0.8) == TopKAST(fwd=0.8, bwd=0.0, exploration=0.0)
    assert_equal(
        trained(tk.sparse_scope("dnw", sparsity=0.8)),
        trained(tk.topkast_scope(0.8, 0.0, exploration=0.0)),
    )


def test_the_weight_side_of_swat_is_dnw():
    assert_equal(
        trained(swat_scope(0.8, activations=0.0)),
        trained(tk.sparse_scope("dnw", sparsity=0.8)),
        atol=1e-6,
    )


def test_rigl_that_drops_nothing_is_static():
    """floor(1e-6 * 48) is 0."""
    common = {"sparsity": 0.8, "seed": 3}
    assert_equal(
        trained(
            tk.sparse_scope(
                "rigl",
                drop_fraction=1e-6,
                update_every=1,
                update_until=None,
                anneal="constant",
                update_replaces_step=False,
                **common,
            )
        ),
        trained(tk.sparse_scope("static", **common)),
        atol=1e-6,
    )


def test_set_and_rigl_differ_in_growth_alone():
    kept = []
    x, y = batches(1)
    for name in ("set", "rigl"):
        arguments = {"update_replaces_step": False} if name == "rigl" else {}
        model = layers(
            name,
            ((12, 20),),
            sparsity=0.5,
            update_every=5,
            update_until=10,
            anneal="constant",
            noise=0.0,
            **arguments,
        )
        [weight] = tk.sparse_weights(model)
        before = weight.forward_mask()
        model.train_on_batch(x[0], np.zeros((8, 20), "float32"))
        after = weight.forward_mask()
        kept.append((before & after, after))
    # What is kept by both: all but what growth returned.
    assert np.sum(kept[0][0] & kept[1][0]) >= 120 - 36
    assert np.any(kept[0][1] != kept[1][1])


def test_settings_of_itop():
    assert set_itop(sparsity=0.9, total_steps=8000).update_every == 1500
    method = rigl_itop(sparsity=0.9, total_steps=8000, update_every=100)
    assert not method.replaces_step and method.last_update == 8000
    assert float(method._fraction.at(8000)) == pytest.approx(0.005)
    assert float(method._fraction.at(0)) == pytest.approx(0.5)


def test_a_share_of_explored_entries_follows_from_mask_dynamics(tmp_path):
    """R_s = 1 - s (1 - reservoir_used), as docs/methods.md says."""
    model = layers("set_itop", sparsity=0.75, total_steps=20, update_every=2)
    [weight] = tk.sparse_weights(model)
    ever = weight.forward_mask()
    x, y = batches(9)
    callback = tk.MaskDynamics(csv=tmp_path / "masks.csv", every=1)
    ever_each = [ever]

    class Ever(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ever_each.append(ever_each[-1] | weight.forward_mask())

    model.fit(
        x.reshape(-1, 12),
        y.reshape(-1, 6),
        batch_size=8,
        shuffle=False,
        verbose=0,
        callbacks=[callback, Ever()],
    )
    rows = (tmp_path / "masks.csv").read_text().splitlines()
    header = rows[0].split(",")
    last = dict(zip(header, rows[-1].split(","), strict=True))
    used = float(last["reservoir_used"])
    assert 1 - 0.75 * (1 - used) == pytest.approx(ever_each[-1].mean(), abs=1e-4)
    assert used > 0.2


@pytest.mark.parametrize("name", [*sorted(METHODS), *sorted(SETTINGS)])
def test_unknown_arguments_are_named(name):
    with pytest.raises(TypeError, match=f"of '?{name}.*Received:.* fraction"):
        tk.sparse_scope(name, sparsity=0.9, fraction=0.5)


def test_missing_arguments_are_named():
    with pytest.raises(TypeError, match="missing.*sparsity.*Received: none"):
        tk.sparse_scope("static")
