"""A constraint of a sparse weight applies to the entries that are updated."""

import keras
import numpy as np
import pytest
import tf_keras

import topkast_tf as tk
from swat_tf import swat_scope
from tests import zoo

LIBRARIES = pytest.mark.parametrize("library", [keras, tf_keras])


def trained(scope, library, steps=3, **optimizer):
    library.utils.set_random_seed(0)
    with scope:
        layer = library.layers.Dense(
            5, kernel_constraint="unit_norm", use_bias=False, input_shape=(12,)
        )
        model = library.Sequential([layer])
    model.build((None, 12))
    model.compile(library.optimizers.SGD(0.1, **optimizer), "mse")
    [weight] = tk.sparse_weights(model)
    before = weight.dense()
    x = np.random.default_rng(0).normal(size=(16 * steps, 12)).astype("float32")
    model.fit(x, x[:, :5], batch_size=16, verbose=0)
    return weight, before


@LIBRARIES
@pytest.mark.parametrize(
    "scope",
    [
        lambda: tk.sparse_scope("static", sparsity=0.5),
        lambda: tk.topkast_scope(0.6, 0.4, refresh_every=100),
    ],
    ids=["static", "topkast"],
)
def test_unit_norm_applies_to_the_backward_set(library, scope):
    weight, before = trained(scope(), library)
    theta, backward = weight.dense(), weight.backward_mask()
    norms = np.linalg.norm(np.where(backward, theta, 0), axis=0)
    np.testing.assert_allclose(norms, 1, rtol=1e-5)
    np.testing.assert_array_equal(theta[~backward], before[~backward])


def test_constraint_on_two_devices():
    with zoo.two_devices().scope():
        weight, _ = trained(tk.sparse_scope("static", sparsity=0.5), keras)
    np.testing.assert_allclose(np.linalg.norm(weight.effective(), axis=0), 1, rtol=1e-5)


def test_constraint_applies_to_theta_if_all_entries_are_updated():
    weight, _ = trained(swat_scope(0.5), keras)
    np.testing.assert_allclose(np.linalg.norm(weight.dense(), axis=0), 1, rtol=1e-5)


def test_repeated_constraint_has_no_further_effect():
    """Keras applies a constraint in each call, also while it accumulates gradients."""
    one, _ = trained(tk.sparse_scope("static", sparsity=0.5), keras, steps=2)
    weight, _ = trained(
        tk.sparse_scope("static", sparsity=0.5),
        keras,
        steps=3,
        gradient_accumulation_steps=4,
    )
    np.testing.assert_allclose(np.linalg.norm(weight.effective(), axis=0), 1, rtol=1e-5)
    np.testing.assert_array_equal(weight.forward_mask(), one.forward_mask())


@LIBRARIES
def test_constraint_keeps_its_class_and_configuration(library):
    constraint = library.constraints.MaxNorm(3, axis=0)
    with tk.topkast_scope(0.6, 0.4):
        layer = library.layers.Dense(5, kernel_constraint=constraint)
        layer.build((None, 12))
    assert isinstance(layer.kernel.constraint, library.constraints.MaxNorm)
    assert layer.kernel.constraint.get_config() == constraint.get_config()
    assert layer.kernel_constraint is constraint
