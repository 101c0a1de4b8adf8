"""The scope of SWAT: sparse weights, weights left dense, invalid arguments."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from swat_tf import swat_scope
from tests import zoo
from tests.swat.swat_models import build

# Which weights


def test_layers_without_a_rule_stay_dense_with_a_warning(caplog):
    def builder():
        inputs = keras.Input((8, 8))
        x = layers.LSTM(6, return_sequences=True)(inputs)
        x = layers.SeparableConv1D(6, 3)(x)
        x = zoo.OwnDense(4)(x)
        return keras.Model(inputs, layers.Dense(10)(x))

    with caplog.at_level("WARNING"):
        model = build(builder)
    shown = {
        path.split("/", 1)[1]: why for path, _, why in tk.summary(model).left_dense
    }
    assert "no rule for the product of LSTMCell" in str(shown)
    assert "no rule for the product of SeparableConv" in str(shown)
    assert "OwnDense computes its output by a `call` of its own" in str(shown)
    assert [w.path for w in tk.sparse_weights(model)] == ["dense/kernel"]
    said = [r for r in caplog.records if "leaves dense" in r.getMessage()]
    assert len(said) == 1


def test_regex_may_match_a_layer_without_a_rule():
    with swat_scope(0.5, exempt="lstm"):
        model = keras.Sequential(
            [keras.Input((5, 4)), keras.layers.LSTM(3), keras.layers.Dense(2)]
        )
    assert [w.path.split("/")[-2] for w in tk.sparse_weights(model)] == ["dense"]


def test_summary_names_weights_not_in_include():
    with swat_scope(0.5, include="kernel"):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    [(path, _, why)] = tk.summary(model).left_dense
    assert path.endswith("bias") and why == "not in `include`"


def test_subclass_is_left_dense_only_with_its_own_call():
    class Own(layers.Dense):
        def call(self, inputs):
            return keras.ops.tanh(keras.ops.matmul(inputs, self.kernel))

    class Same(layers.Dense):
        pass

    with swat_scope(0.5):
        model = keras.Sequential([keras.Input((8,)), Own(4), Same(3)])
    assert [w.shape for w in tk.sparse_weights(model)] == [(4, 3)]


def test_exempt_first_and_last():
    model = build(exempt=("first", "last"), builder=zoo.functional)
    assert [w.path.split("/")[0] for w in tk.sparse_weights(model)] == ["conv2d_1"]
    inputs = tf.constant(zoo.images(zoo.functional))
    model(inputs)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(inputs) ** 2)
    # The layers left dense have dense activations too, and dense gradients.
    last = model.layers[-1]
    gradient = tape.gradient(loss, last.kernel.value)
    features = keras.Model(model.input, last.input)(inputs)
    expected = tf.matmul(features, 2 * model(inputs), transpose_a=True)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


# Arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "Received: sparsity=1.0"),
        ({"sparsity": -0.5}, "Received: sparsity=-0.5"),
        ({"topk_period": 0}, "Received: topk_period=0"),
        ({"topk_period": 2.5}, "Received: topk_period=2.5"),
        ({"topk_period_of": "conv"}, "Received: topk_period_of='conv'"),
        (
            {
                "topk_period": 2,
                "topk_period_of": "convolutions",
                "distribution": "global",
            },
            "'all' with distribution='global'",
        ),
        ({"freeze_at": 0}, "Received: freeze_at=0"),
        ({"activations": 1.5}, "Received: activations=1.5"),
        ({"structured": "row"}, "Received: structured='row'"),
        ({"updates": "none"}, "Received: updates='none'"),
        ({"storage": "disk"}, "Received: storage='disk'"),
        ({"forward": "errors"}, "Received: forward='errors'"),
        ({"distribution": "momentun"}, "'momentum' .* Received: .*'momentun'"),
        ({"distribution": "foo"}, "'momentum' .* Received: distribution='foo'"),
        ({"distribution": "momentum", "structured": "channel"}, "structured='channel'"),
        ({"distribution": "global", "structured": "filter"}, "distribution='global'"),
        ({"updates": "masked", "forward": ()}, "updates='masked'"),
        ({"exempt": "nothing/like/it"}, "Received: 'nothing/like/it'"),
    ],
    ids=str,
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


def test_structured_without_a_convolution_is_refused():
    with pytest.raises(ValueError, match="Expected a convolution.*Received"):
        build(zoo.nested, structured="channel")


def test_a_scope_without_a_layer_that_has_a_rule_is_refused():
    with pytest.raises(ValueError, match="something to sparsify.*`call` of its own"):
        build(zoo.own_layer)
    with pytest.raises(ValueError, match="something to sparsify.*not computed by a"):
        with swat_scope(0.5):
            tf.Variable(tf.ones([4, 4]))
    with pytest.raises(ValueError, match="something to sparsify.*backward_gru/.*GRUC"):
        with swat_scope(0.5):
            gru = keras.layers.GRU(4)
            keras.Sequential([keras.Input((5, 8)), keras.layers.Bidirectional(gru)])


def test_nested_swat_scopes_are_refused():
    with swat_scope(0.5):
        with pytest.raises(ValueError, match="one `swat_scope`.*Received: two nested"):
            with swat_scope(0.9):
                pass
        keras.Sequential([keras.Input((8,)), layers.Dense(4)])


def test_scope_object_can_be_reused():
    again = swat_scope(0.5)
    rules = []
    for _ in range(2):
        with again:
            model = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
        rules.append(tk.sparse_weights(model)[0].rule)
    assert None not in rules
    with tk.topkast_scope(0.9, 0.8) as outer, again as inner:
        assert inner is outer  # beside Top-KAST, wherever the object was made
        keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    with pytest.raises(ValueError, match="two nested"), again, again:
        pass
