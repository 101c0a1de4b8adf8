"""`explain`: one rule of XNNPACK broken at a time, and networks that others made."""

import keras
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from topkast_tf import explaining

pytestmark = pytest.mark.skipif(not hasattr(tf, "lite"), reason="no tf.lite")


def network(
    first=None, between=lambda x: x, depthwise=None, end=None, fwd=0.9, outputs=None
):
    """A network that XNNPACK computes sparse, apart from what is given."""
    first = first or layers.Conv2D(8, 3, strides=2)
    depthwise = depthwise or layers.DepthwiseConv2D(3, padding="same", name="depthwise")
    with tk.topkast_scope(fwd, fwd, exempt=["head"]):
        images = keras.Input((16, 16, 3))
        x = layers.ZeroPadding2D(1)(images)
        x = start = layers.ReLU()(first(x))
        x = between(layers.Conv2D(24, 1, name="expand")(x))
        x = layers.ReLU(6.0)(depthwise(x))
        x = layers.Add()([start, layers.Conv2D(8, 1, name="project")(x)])
        if outputs:
            outputs = outputs(x)
        x = (end or layers.GlobalAveragePooling2D())(x)
        x = layers.Dense(10, name="head")(layers.Flatten(name="flat")(x))
        return keras.Model(images, [x, *(outputs or ())])


def found(model):
    return {row.layer: row for row in tk.explain(model).rows}


def test_sparse_network():
    rows = found(network())
    assert [row.layer for row in rows.values() if row.sparse] == ["expand", "project"]
    assert (rows["expand"].zeros, rows["expand"].size) == (192 - 20, 192)
    assert not rows["head"].sparse


@pytest.mark.parametrize(
    "changes, why",
    {
        "same": (
            {"first": layers.Conv2D(8, 3, strides=2, padding="same")},
            'padding "same" with stride 2',
        ),
        "stride": ({"first": layers.Conv2D(8, 3)}, "3 x 3 with stride 1"),
        "size": ({"first": layers.Conv2D(8, 5, strides=2)}, "5 x 5"),
        "dilation": (
            {
                "depthwise": layers.DepthwiseConv2D(
                    3, dilation_rate=2, padding="same", name="depthwise"
                )
            },
            "BATCH_TO_SPACE_ND",  # how the converter writes it
        ),
        "size of depthwise": (
            {"depthwise": layers.DepthwiseConv2D(7, padding="same", name="depthwise")},
            "depthwise 7 x 7",
        ),
        "no padding": (
            {
                "between": layers.ZeroPadding2D(2, name="by_2"),
                "depthwise": layers.DepthwiseConv2D(5, padding="valid", name="x"),
            },
            None,
        ),
        "other reader": (
            {"between": lambda x: x + layers.MaxPooling2D(3, 1, padding="same")(x)},
            "MAX_POOL_2D",
        ),
        "no end": (
            {"end": layers.Flatten()},
            "no mean or DEPTH_TO_SPACE ends its part",
        ),
        "an output": ({"outputs": lambda x: [x]}, "is an output of the model"),
        "density": ({"fwd": 0.6}, "more than two thirds are asked for"),
    }.values(),
)
def test_broken_rule(changes, why):
    rows = found(network(**changes))
    if why is None:  # 5 x 5 padded by 2 on each side, in two layers
        assert rows["expand"].sparse
        return
    assert not any(row.sparse for row in rows.values())
    assert any(why in row.why for row in rows.values())
    # A layer that keeps the rules says what breaks them.
    assert why in rows["expand"].why


def test_networks_of_keras():
    with tk.topkast_scope(0.9, 0.8):
        model = keras.applications.MobileNetV2(
            weights=None, input_shape=(32, 32, 3), alpha=0.35
        )
    explanation = tk.explain(model)
    assert not explanation.sparse
    assert len(explanation.rows) == len(tk.sparse_weights(model))
    names = {layer.name for layer in model.layers}
    assert {row.layer for row in explanation.rows} <= names
    assert "x86 with AVX" in str(explanation)


def test_dense_layers_alone():
    with tk.topkast_scope(0.9, 0.8):
        model = keras.Sequential([keras.Input((32,)), layers.Dense(32)])
    [row] = tk.explain(model).rows
    assert not row.sparse
    assert row.why == "its part would begin with an input of the model"


def test_what_is_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"Expected engine in \('xnnpack',\)"):
        tk.explain(network(), engine="onnx")
    with pytest.raises(TypeError, match="Expected a Keras model"):
        tk.explain("model")
    monkeypatch.setattr(explaining, "_SCHEMAS", ("no_such_module",))
    with pytest.raises(RuntimeError, match="no_such_module"):
        tk.explain(network())
