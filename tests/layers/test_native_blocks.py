"""Layers whose sets are blocks: native as masked, by kernels of blocks where they are."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from tests.layers.test_native import output_and_gradients
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.choice import BLOCK_COSTS

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)

DENSE = ("Dense", (5, 36), {"units": 40})
EINSUM = (
    "EinsumDense",
    (2, 3, 36),
    {"equation": "abc,cde->abde", "output_shape": (3, 5, 8)},
)
POINTWISE = ("Conv2D", (2, 4, 5, 36), {"filters": 40, "kernel_size": 1, "strides": 2})
WINDOW = ("Conv2D", (2, 4, 5, 36), {"filters": 40, "kernel_size": 3})
BY_ENTRIES = "TopkastSparseMatMul"
BY_BLOCKS = "TopkastBlockMatMul" if kernels.fastest() in BLOCK_COSTS else BY_ENTRIES


def layer_with_blocks(case, block, kernels):
    name, shape, arguments = case
    with tk.topkast_scope(0.7, 0.4, block=block, kernels=kernels):
        layer = getattr(keras.layers, name)(**arguments, bias_initializer="ones")
        layer.build(shape)
    values = np.random.default_rng(1).normal(size=layer.kernel.shape)
    layer.kernel.assign(values.astype("float32"))
    return layer


def operations(layer, shape):
    traced = tf.function(layer).get_concrete_function(tf.TensorSpec(shape))
    return {op.type for op in traced.graph.get_operations()}


@pytest.mark.parametrize(
    ("case", "block", "operation"),
    [
        (DENSE, (1, 16), BY_BLOCKS),
        (DENSE, (16, 1), BY_BLOCKS),
        (DENSE, (16, 16), BY_BLOCKS),
        (DENSE, (2, 100), BY_BLOCKS),
        (DENSE, (4, 2), BY_ENTRIES),
        (EINSUM, (1, 16), BY_BLOCKS),
        (EINSUM, (16, 1), BY_BLOCKS),
        (POINTWISE, (1, 16), BY_BLOCKS),
        (POINTWISE, (32, 1), BY_BLOCKS),
        (WINDOW, (1, 16), "TopkastSparseConv"),
    ],
)
def test_native_layer_equals_masked(case, block, operation):
    shape = case[1]
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    masked, native = (
        layer_with_blocks(case, block, kernels) for kernels in ("masked", "native")
    )
    expected, found = output_and_gradients(masked, x), output_and_gradients(native, x)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert operation in operations(native, shape)


@pytest.mark.parametrize("block", [(1, 16), (16, 1)])
@pytest.mark.parametrize("backward", ["topk", "random"])
def test_training_equals_masked(block, backward):
    x = np.random.default_rng(3).normal(size=(256, 50)).astype("float32")
    models = []
    for chosen in ("masked", "native"):
        keras.utils.set_random_seed(0)
        with tk.topkast_scope(
            *(0.8, 0.6), refresh_every=2, block=block, backward=backward, kernels=chosen
        ):
            model = keras.Sequential(
                [keras.Input((50,)), *(keras.layers.Dense(n) for n in (70, 20))]
            )
        model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=False)
        model.fit(x, np.tanh(x[:, :20]), batch_size=64, shuffle=False, verbose=0)
        models.append(tk.sparse_weights(model))
    for masked, native in zip(*models, strict=True):
        assert native.kernels.kernels == "native"
        np.testing.assert_array_equal(masked.codes(), native.codes())
        np.testing.assert_allclose(masked.dense(), native.dense(), atol=1e-5)
