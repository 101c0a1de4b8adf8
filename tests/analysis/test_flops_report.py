"""The FLOP report: by hand, for models in a scope, and uncounted operations."""

import types

import keras
import pytest
import tensorflow as tf
from keras import layers

from topkast_tf.analysis import flops
from topkast_tf.analysis.flops import (
    FlopCount,
    SelectionCost,
    count_flops,
    count_macs,
)
from topkast_tf.core.blocks import MatrixView
from topkast_tf.methods import TopKAST


@pytest.fixture
def sparsify(monkeypatch):
    """Stands in for `sparse_weights`: sets the sparsities of a model's kernels."""
    sparsities = {}

    def sparse_weights(variables):
        return [
            types.SimpleNamespace(
                path=variable.path,
                variable=variable.value,
                forward_sparsity=sparsities[variable.path][0],
                backward_sparsity=sparsities[variable.path][1],
                rule=None,
                trained={},
                exempt=False,
                view=MatrixView(tuple(variable.shape)),
                method=TopKAST(0.9, 0.8, refresh_every=10),
            )
            for variable in variables
            if getattr(variable, "path", None) in sparsities
        ]

    monkeypatch.setattr(flops, "sparse_weights", sparse_weights)
    return sparsities.update


def test_report_by_hand(sparsify):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3, name="conv"),  # 16 places * 27 * 4 = 1728
            layers.Flatten(),
            layers.Dense(10, name="head"),  # 64 * 10 = 640
        ],
        name="net",
    )
    sparsify({"net/conv/kernel": (0.75, 0.5)})
    report = count_flops(model)
    conv, head = report.rows
    assert (conv.path, conv.macs) == ("net/conv/kernel", 1728)
    assert (head.path, head.macs) == ("net/head/kernel", 640)
    assert report.dense == FlopCount(2 * 2368, 2 * 2368, 2 * 2368)
    assert report.sparse.forward == 2 * (432 + 640)
    assert report.sparse.training == 2 * (432 + 432 + 864 + 3 * 640)
    assert report.inference_ratio == pytest.approx(1072 / 2368)
    assert report.training_ratio == pytest.approx(3648 / 7104)
    assert (conv.forward_sparsity, head.forward_sparsity) == (0.75, 0.0)
    lines = str(report).splitlines()
    assert lines[0].split() == [
        *("weight", "MACs", "share", "fwd", "bwd", "forward"),
        *("input", "gradient", "weight", "gradient", "training"),
    ]
    assert lines[2].split() == [
        *("net/conv/kernel", "1.728k", "73.0%", "0.7500", "0.5000"),
        *("0.250x", "0.250x", "0.500x", "0.333x"),
    ]
    assert lines[-2] == (
        "training: 7.296k of 14.208k dense FLOPs per example (0.514x), counted"
    )
    # Two thresholds among 108 entries, four operations each, in one of ten steps.
    assert report.selection == SelectionCost(weights=2 * 4 * 108 / 10)
    assert lines[-1] == (
        "selection, beside that: 86 operations a step for weights, 0 an example for "
        "activations"
    )


def test_report_counts_products_of_activations_as_dense(sparsify):
    inputs = keras.Input((6, 8))
    layer = layers.MultiHeadAttention(2, 4, name="mha")
    model = keras.Model(inputs, layer(inputs, inputs))
    sparsify({v.path: (0.5, 0.5) for v in model.variables if v.path.endswith("kernel")})
    report = count_flops(model)
    assert report.rows[-1].path == "(activations)"
    assert report.rows[-1].macs == 2 * 2 * 6 * 6 * 4
    kernels, activations = 4 * 6 * 8 * 8, 576
    assert report.sparse.forward == kernels + 2 * activations
    assert report.dense.training == 6 * (kernels + activations)


def test_report_of_a_dense_or_empty_model(sparsify):
    report = count_flops(keras.Sequential([keras.Input((8,)), layers.Dense(4)]))
    assert report.sparse == report.dense
    assert report.training_ratio == report.inference_ratio == 1.0
    empty = count_flops(keras.Sequential([keras.Input((8,)), layers.ReLU()]))
    assert (empty.rows, empty.training_ratio) == ((), 1.0)
    assert "0 of 0 dense FLOPs" in str(empty)


def test_report_names_uncounted_operations(sparsify):
    class Opaque(keras.layers.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.py_function(lambda y: y, [x], x.dtype), x.shape)

    report = count_flops(
        keras.Sequential([keras.Input((8,)), Opaque(), layers.Dense(4)])
    )
    assert "NOT counted, so lower bounds: EagerPyFunc" in str(report)


# --- Inside the scope -----------------------------------------------------------------


def small_model():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="conv")(inputs)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Reshape((16, 8))(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LSTM(4, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(x), name="net")


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_all_products_of_sparse_weights_are_found(policy):
    from topkast_tf import topkast_scope

    keras.config.set_dtype_policy(policy)
    try:
        dense = count_macs(small_model())
        with topkast_scope(fwd=0.75, bwd=0.5, exempt=["head"]):
            model = small_model()
        report = count_flops(model)
    finally:
        keras.config.set_dtype_policy("float32")
    assert {row.path: row.macs for row in report.rows} == {
        **dense,
        "(activations)": dense.activations,
    }
    for row in report.rows:
        asked = row.path.endswith("kernel") and "head" not in row.path
        assert row.forward_sparsity == pytest.approx(0.75 if asked else 0.0)
        assert row.backward_sparsity == pytest.approx(0.5 if asked else 0.0)
    rest = dense["head/kernel"] + dense.activations
    assert report.sparse.training == pytest.approx(
        2 * (3 * rest + (2 * 0.25 + 0.5) * (dense.total - rest))
    )


def test_report_of_a_callable():
    from topkast_tf import topkast_scope

    with topkast_scope(fwd=0.75, bwd=0.5):
        model = keras.Sequential([keras.Input((8,)), layers.Dense(4), layers.Dense(4)])
    twice = count_flops(lambda x: (model(x), model(-x)), (None, 8))
    once = count_flops(model)
    assert [row.path for row in twice.rows] == [row.path for row in once.rows]
    assert twice.sparse.training == 2 * once.sparse.training < once.dense.training
