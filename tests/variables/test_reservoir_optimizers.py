"""Every optimizer keeps the reservoir C bitwise; slots outside B decay."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import optimizers

import topkast_tf as tk
from tests.small_models import LOSS, build_optimizer, dense_layer, thetas
from tests.variables.variable_models import two_kernels


def bits(array):
    return np.ascontiguousarray(array).view(np.uint8)


OPTIMIZERS = {
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optimizers.Adam(0.01),
    "adamw": lambda: optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.9, centered=True),
    "lamb": lambda: optimizers.Lamb(0.01),
    "clipped": lambda: optimizers.SGD(0.1, momentum=0.9, global_clipnorm=0.1),
    "accumulated": lambda: optimizers.SGD(
        0.1, momentum=0.9, gradient_accumulation_steps=2
    ),
    "ema": lambda: optimizers.AdamW(
        0.01, weight_decay=0.1, use_ema=True, ema_overwrite_frequency=3
    ),
    "scaled": lambda: optimizers.LossScaleOptimizer(
        optimizers.SGD(0.1, momentum=0.9), initial_scale=8.0
    ),
}


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [
        pytest.param(
            name,
            jit_compile,
            marks=[pytest.mark.slow] if jit_compile and name != "adamw" else [],
            id=f"{name}-{'xla' if jit_compile else 'graph'}",
        )
        for name in OPTIMIZERS
        for jit_compile in (False, True)
    ],
)
def test_every_optimizer_keeps_c_bitwise(name, jit_compile, digits):
    # Entries that have left B still carry momentum; they must not move.
    model = two_kernels(refresh_every=2)
    model.compile(OPTIMIZERS[name](), LOSS, jit_compile=jit_compile)
    if name != "momentum":
        build_optimizer(model)
    images, labels = digits
    left_with_momentum = 0
    before_fit = None
    for start in range(0, 96, 16):
        batch = slice(start, start + 16)
        masks = [weight.backward_mask() for weight in tk.sparse_weights(model)]
        before = thetas(model)
        model.train_on_batch(images[batch], labels[batch])
        for mask, old, new in zip(masks, before, thetas(model), strict=True):
            np.testing.assert_array_equal(bits(old[~mask]), bits(new[~mask]))
        if name != "accumulated":
            assert any(
                np.any(a != b) for a, b in zip(before, thetas(model), strict=True)
            )
        if before_fit is not None:
            left_with_momentum += sum(
                np.sum(first & ~now)
                for first, now in zip(before_fit, masks, strict=True)
            )
        before_fit = before_fit or masks
    assert left_with_momentum > 0
    steps = 3 if name == "accumulated" else 6
    assert {weight.step for weight in tk.sparse_weights(model)} == {steps}


def test_averages_written_after_fit_do_not_change_c(digits):
    model = two_kernels(refresh_every=100)
    model.compile(optimizers.SGD(0.1, use_ema=True, ema_momentum=0.7), LOSS)
    weights = tk.sparse_weights(model)
    before = [(weight.dense(), weight.backward_mask()) for weight in weights]
    model.fit(digits[0][:96], digits[1][:96], batch_size=16, verbose=0)
    averages = [v for v in model.optimizer.variables if "average" in v.path]
    averages = [v.numpy() for v in averages if "kernel" in v.path]
    for weight, average, (theta, mask) in zip(weights, averages, before, strict=True):
        np.testing.assert_array_equal(bits(weight.dense()[~mask]), bits(theta[~mask]))
        np.testing.assert_array_equal(weight.dense()[mask], average[mask])


def test_averages_swapped_in_and_out_change_nothing(digits):
    model = two_kernels(refresh_every=100)
    model.compile(
        optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=None), LOSS
    )
    build_optimizer(model)
    for step in range(4):  # and not `fit`, which ends with the averages in place
        batch = slice(16 * step, 16 * step + 16)
        model.train_on_batch(digits[0][batch], digits[1][batch])
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    swap.set_model(model)
    weights = tk.sparse_weights(model)
    before = [(w.dense(), w.codes(), w.step) for w in weights]
    swap._swap_variables()
    assert any(
        np.any(w.dense() != old[0]) for w, old in zip(weights, before, strict=True)
    )
    swap._swap_variables()
    for weight, (theta, codes, step) in zip(weights, before, strict=True):
        np.testing.assert_allclose(weight.dense(), theta, atol=1e-6)  # Keras subtracts
        np.testing.assert_array_equal(weight.codes(), codes)
        assert weight.step == step


def test_slots_outside_b_see_zero_gradients_and_decay(digits):
    model = two_kernels(refresh_every=1000, exploration=0.0)
    optimizer = optimizers.SGD(0.1, momentum=0.5)
    model.compile(optimizer, LOSS)
    build_optimizer(model)
    model.train_on_batch(digits[0][:16], digits[1][:16])
    [weight, *_] = tk.sparse_weights(model)
    slot = next(v for v in optimizer.variables if "kernel" in v.path)
    marked = np.where(weight.backward_mask(), slot.numpy(), 8.0).astype(np.float32)
    slot.assign(marked)
    model.train_on_batch(digits[0][16:32], digits[1][16:32])
    after = slot.numpy()[~weight.backward_mask()]
    np.testing.assert_array_equal(after, np.full_like(after, 4.0))


def test_frozen_values_include_signed_zero_and_denormals():
    theta = [[4.0, -0.0], [1e-40, -3.0]]
    model, weight = dense_layer(theta, fwd=0.75, bwd=0.5)
    old = weight.dense()
    optimizer = optimizers.SGD(0.1)
    optimizer.apply([tf.ones((2, 2))], [model.layers[0].kernel])
    new = weight.dense()
    np.testing.assert_array_equal(bits(old[[0, 1], [1, 0]]), bits(new[[0, 1], [1, 0]]))
    np.testing.assert_allclose(new[[0, 1], [0, 1]], [3.9, -3.1], rtol=1e-6)
