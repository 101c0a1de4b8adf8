"""The columns of the conformance table for native kernels: every method, in every mode.

Layers of the small models take native kernels wherever there are any.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests import zoo
from tests.kernels.common import tensorflow_rounds_bfloat16_once
from tests.small_models import build_optimizer
from tests.test_conformance import (
    EXAMPLES,
    METHOD,
    SELECTS_OVER_A_REPLICA,
    _Trained,
    assert_close,
    build,
    pruned,
    state,
    train_by_fit,
    train_by_hand,
    train_mirrored,
    train_without_xla,
)
from topkast_tf.kernels import library as kernels
from topkast_tf.layers import counting, native

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)
BY_GRADIENT = ("rigl", "granet", "srigl", "snfs", "snip", "grasp")
HAVE_LONG_SUMS = ("pruning", "pruning global", "acdc", "nm", "synflow")
SOME = pytest.mark.parametrize(
    "method",
    [
        pytest.param(m, marks=[] if m in ("topkast", "swat") else [pytest.mark.slow])
        for m in EXAMPLES
    ],
)


@pytest.fixture(scope="module", autouse=True)
def native_wherever_possible():
    """As if the kernels paid for every layer, so that no scope has to ask for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "_speedup", lambda *args: 2.0)
        yield


def assert_native(model):
    weights = tk.sparse_weights(model)
    method, rule = weights[0].method, weights[0].rule
    # Which only masks can serve: alpha computed by the method; sparse error gradients.
    is_masked = method.computes_alpha or bool(rule and getattr(rule, "errors", 0))
    found = {weight.kernels and weight.kernels.kernels for weight in weights}
    assert ("native" in found) != is_masked
    return model


@pytest.fixture(scope="module")
def references(digits):
    """Each method's model after one epoch with masked products."""

    def train(method, images, labels):
        with counting.counting():
            return train_without_xla(method, images, labels)

    return _Trained(digits, train)


@pytest.fixture(scope="module")
def trained(digits):
    """The same with native kernels."""
    return _Trained(digits, lambda *args: assert_native(train_without_xla(*args)))


@METHOD
def test_fit(method, references, trained):
    assert_close(trained[method], references[method])


@SOME
@pytest.mark.parametrize(
    "wrap", [lambda f: f, tf.function], ids=["custom loop", "tf.function"]
)
def test_loop_by_hand(method, wrap, digits, references):
    model = build(method)
    train_by_hand(model, *digits, wrap)
    assert_close(assert_native(model), references[method])


@SOME
def test_two_devices(method, digits, references):
    model = assert_native(train_mirrored(method, *digits))
    if method not in SELECTS_OVER_A_REPLICA:
        assert_close(model, references[method])
    for weight in tk.sparse_weights(model):
        for variable in (weight.variable, weight.sets):
            first, second = (copy.numpy() for copy in variable.values)
            np.testing.assert_array_equal(first, second)


@SOME
def test_masked_under_xla(method, digits, references):
    model = build_optimizer(build(method))
    train_by_fit(model, *digits, jit_compile=True)
    assert_close(model, references[method])


@METHOD
def test_mixed_precision(method, digits):
    if method in BY_GRADIENT and not tensorflow_rounds_bfloat16_once():
        pytest.skip(
            "the masked product, by whose gradient it selects, is rounded twice"
        )
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    with counting.counting():
        reference = train_without_xla(method, *digits)
    model = assert_native(train_without_xla(method, *digits))
    # Weights change by 0.02 and more in eight steps. Where activations are selected over a
    # batch, of many that 8 bits make equal, a rounding error selects others.
    # Sums of more terms, of networks that begin dense or have all zeros elsewhere, are
    # rounded more often.
    atol = 2e-2 if method in SELECTS_OVER_A_REPLICA else 1e-3
    atol = 3e-3 if method in HAVE_LONG_SUMS else atol
    for one, other in zip(
        tk.sparse_weights(model), tk.sparse_weights(reference), strict=True
    ):
        assert one.dense().dtype == np.float32 and one.step == other.step > 0
        np.testing.assert_allclose(one.dense(), other.dense(), atol=atol)


@SOME
def test_resumed_in_mixed_precision(method, digits, tmp_path):
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    whole = assert_native(train_without_xla(method, *digits))
    assert_resumed_equals(whole, method, digits, tmp_path)


@METHOD
def test_resumed_run_equals_uninterrupted_run(method, digits, trained, tmp_path):
    assert_resumed_equals(trained[method], method, digits, tmp_path)


def assert_resumed_equals(whole, method, digits, tmp_path):
    """A run that is interrupted and resumed ends as the whole one, bit by bit."""
    (images, labels), half = digits, 128
    interrupted = build_optimizer(build(method))
    train_by_fit(interrupted, images[:half], labels[:half])
    interrupted.save_weights(tmp_path / "half.weights.h5")
    resumed = build_optimizer(build(method))
    resumed.load_weights(tmp_path / "half.weights.h5")
    train_by_fit(resumed, images[half:], labels[half:])
    for ours, theirs in zip(state(whole), state(resumed), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one, other)


@METHOD
def test_saved_model_computes_the_same_with_either(method, digits, trained, tmp_path):
    model = trained[method]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(digits[0]), loaded(digits[0]))
    with counting.counting():
        masked = keras.models.load_model(tmp_path / "model.keras")(digits[0])
    plain = tk.strip(model)(digits[0])
    for outputs in (masked, plain):
        np.testing.assert_allclose(outputs, model(digits[0]), rtol=1e-4, atol=1e-5)


@SOME
def test_subclassed_model_built_late(method, digits):
    model = build(method, zoo.Subclassed)
    if method in ("grasp", "synflow"):
        model(digits[0][:1])
        pruned(method, model)
    train_by_fit(model, *digits)
    assert_native(model)
