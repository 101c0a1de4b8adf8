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


RULES = {
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
    "normalisation after ReLU": (
        {"between": lambda x: layers.BatchNormalization()(layers.ReLU()(x))},
        "an operand has not four dimensions",
    ),
    "added to itself": (
        {"between": lambda x: layers.Add()([x, x])},
        "a tensor is added to itself",
    ),
    "two dense layers": (
        {"end": lambda x: layers.Dense(8)(layers.GlobalAveragePooling2D()(x))},
        "less than three dimensions",
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
}
FAST = ("same", "other reader", "density")


@pytest.mark.parametrize(
    "rule",
    [pytest.param(r, marks=[] if r in FAST else [pytest.mark.slow]) for r in RULES],
)
def test_broken_rule(rule):
    changes, why = RULES[rule]
    rows = found(network(**changes))
    if why is None:  # 5 x 5 padded by 2 on each side, in two layers
        assert rows["expand"].sparse
        return
    assert not any(row.sparse for row in rows.values())
    assert any(why in row.why for row in rows.values())
    # A layer that keeps the rules says what breaks them.
    assert why in rows["expand"].why


@pytest.mark.slow
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


def test_shared_and_nested_layers_are_named():
    with tk.topkast_scope(0.9, 0.8):
        shared = layers.Dense(16, name="shared")
        block = keras.Sequential(
            [keras.Input((16,)), layers.Dense(16, name="inner")], name="block"
        )
        inputs = keras.Input((16,))
        outputs = block(shared(shared(inputs)))
        model = keras.Model(inputs, layers.Dense(4, name="head")(outputs))
    for given in (model, tk.strip(model, kernels="native")):
        names = [row.layer for row in tk.explain(given).rows]
        assert names == ["shared", "shared", "block/inner", "head"]


@keras.saving.register_keras_serializable("test_explain")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mine = layers.Dense(8)

    def call(self, x):
        return self.mine(x) @ tf.transpose(tf.nn.softmax(self.mine(x)))


def test_subclassed_model():
    with tk.topkast_scope(0.9, 0.8):
        model = Subclassed()
        model(tf.zeros((3, 16)))
    rows = tk.explain(model).rows
    assert {row.layer for row in rows} == {"dense"}
    assert not any(row.sparse for row in rows)


def test_mixed_precision_is_refused():
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    with tk.topkast_scope(0.9, 0.8):
        model = keras.Sequential([keras.Input((16,)), layers.Dense(8)])
    with pytest.raises(ValueError, match="computes in float32.*in bfloat16"):
        tk.explain(model)


def test_same_and_given_padding_are_added():
    with tk.topkast_scope(0.9, 0.9, exempt=["head"]):
        images = keras.Input((16, 16, 3))
        x = layers.Conv2D(8, 3, strides=2)(layers.ZeroPadding2D(1)(images))
        x = layers.Conv2D(24, 1, name="expand")(x)
        x = layers.ZeroPadding2D(1)(x)
        x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
        x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1, name="project")(x))
        model = keras.Model(images, layers.Dense(10, name="head")(x))
    rows = found(model)
    assert not any(row.sparse for row in rows.values())
    assert "not padded by 1 on each side" in rows["depthwise"].why
