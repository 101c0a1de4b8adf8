"""Filter pruning: scores, counts, and what is a filter in each layer."""

import keras
import numpy as np
import pytest
from keras import layers

import topkast_tf as tk
from tests.methods.linear_oracle import Linear, batches
from tests.methods.linear_oracle import layers as linear_model
from topkast_tf.methods import FilterPruning


def sparse_layer(layer, shape, sparsity=0.5, **scope):
    with tk.sparse_scope("filters", sparsity=sparsity, **scope):
        model = keras.Sequential([keras.Input(shape), layer()])
    return model, tk.sparse_weights(model)


def largest_outputs(kernel, axes, count):
    """One output after another, from the definition: its L1 norm, in float64."""
    theta = np.abs(kernel.astype(float))
    norms = theta.sum(tuple(a for a in range(theta.ndim) if a not in axes))
    best = sorted(range(norms.size), key=lambda o: (-norms.flat[o], o))[:count]
    kept = np.isin(np.arange(norms.size), best).reshape(norms.shape)
    shape = [size if a in axes else 1 for a, size in enumerate(theta.shape)]
    return np.broadcast_to(kept.reshape(shape), theta.shape)


@pytest.mark.parametrize(
    ("layer", "shape", "axes", "count"),
    [
        (lambda: layers.Dense(7), (5,), (1,), 4),
        (lambda: layers.Conv1D(6, 3), (9, 4), (2,), 3),
        (lambda: layers.Conv2D(6, (3, 2)), (9, 9, 4), (3,), 3),
        (lambda: layers.Conv2D(6, 3, groups=2), (9, 9, 4), (3,), 3),
        (lambda: layers.Conv2DTranspose(6, 3), (9, 9, 4), (2,), 3),
        (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), (9, 9, 3), (2, 3), 3),
    ],
)
def test_the_largest_norms_of_outputs_are_kept(layer, shape, axes, count):
    _, [weight] = sparse_layer(layer, shape)
    expected = largest_outputs(weight.dense(), axes, count)
    np.testing.assert_array_equal(weight.forward_mask(), expected)
    np.testing.assert_array_equal(weight.backward_mask(), expected)


def test_a_hand_worked_selection():
    """Norms 4, 3, 4, 1: of equal ones the first; one large entry is not a large norm."""
    _, [weight] = sparse_layer(lambda: layers.Dense(4), (2,), sparsity=0.75)
    weight.variable.assign([[2.0, 3.0, 4.0, 1.0], [-2.0, 0.0, 0.0, 0.0]])
    assert weight.forward_mask().tolist() == [[True, False, False, False]] * 2


def test_training_leaves_the_mask_and_the_other_outputs_alone():
    model = linear_model("filters", sparsity=0.5)
    oracle = Linear(model)
    x, y = batches(4)
    for a, b in zip(x, y, strict=True):
        model.train_on_batch(a, b)
        oracle.step(a, b)
        oracle.check(model)


def test_a_refresh_selects_again():
    model = linear_model("filters", sparsity=0.5)
    [weight] = tk.sparse_weights(model)
    x, y = batches(1)
    model.train_on_batch(x[0], y[0])
    before = weight.forward_mask()
    norms = np.where(before[0], 0.1, 1.0) * np.ones(before.shape)
    weight.variable.assign(norms)  # a step was taken: masks stay
    np.testing.assert_array_equal(weight.forward_mask(), before)
    tk.refresh(model)
    np.testing.assert_array_equal(weight.forward_mask(), ~before)


def test_the_last_weight_can_stay_dense_and_layers_may_differ():
    with tk.sparse_scope(
        "filters", sparsity=0.5, exempt="last", distribution={"a/": 0.75}
    ):
        model = keras.Sequential(
            [keras.Input((6,)), layers.Dense(8, name="a"), layers.Dense(4, name="b")]
        )
    [first] = tk.sparse_weights(model)
    assert first.path.endswith("a/kernel") and first.forward_mask().any(0).sum() == 2


def test_saved_masks_must_be_of_whole_outputs():
    _, [weight] = sparse_layer(lambda: layers.Dense(4), (3,))
    mask = np.zeros((3, 4), bool)
    mask[0] = True
    with pytest.raises(ValueError, match="Expected"):
        weight.set_masks(mask)


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="sparsities are fractions"):
        FilterPruning(sparsity=1.0)
    with pytest.raises(ValueError, match="global"):
        sparse_layer(lambda: layers.Dense(4), (3,), distribution="global")


def test_nan_is_an_error():
    model, [weight] = sparse_layer(lambda: layers.Dense(4), (3,))
    with pytest.raises(Exception, match="NaN"):
        weight.variable.assign(np.full((3, 4), np.nan))
        weight.forward_mask()
