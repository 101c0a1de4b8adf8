"""Counted multiply-adds: each layer type by hand, and models of every kind."""

import keras
import pytest
import tensorflow as tf
from keras import layers

from topkast_tf.analysis.flops import MacCount, count_macs


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def by_name(count):
    """{last two parts of the path: multiply-adds}."""
    short = {"/".join(path.split("/")[-2:]): n for path, n in count.items()}
    assert len(short) == len(count)
    return short


# --- Layers by hand -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "layer", "expected"),
    [
        ((8,), layers.Dense(4), 8 * 4),
        ((5, 8), layers.Dense(4), 5 * 8 * 4),
        ((2, 5, 8), layers.Dense(4), 2 * 5 * 8 * 4),
        ((8, 9, 3), layers.Conv2D(4, 3), 6 * 7 * 3 * 3 * 3 * 4),
        ((8, 9, 3), layers.Conv2D(4, 3, padding="same"), 8 * 9 * 3 * 3 * 3 * 4),
        ((8, 9, 3), layers.Conv2D(4, 3, strides=2, padding="same"), 4 * 5 * 27 * 4),
        ((8, 9, 3), layers.Conv2D(4, (3, 2), strides=(1, 3)), 6 * 3 * 3 * 2 * 3 * 4),
        ((8, 8, 4), layers.Conv2D(6, 3, groups=2), 6 * 6 * 3 * 3 * 2 * 6),
        ((9, 9, 3), layers.Conv2D(4, 3, dilation_rate=2), 5 * 5 * 27 * 4),
        ((9, 9, 3), layers.Conv2D(4, 3, dilation_rate=3, padding="same"), 81 * 27 * 4),
        ((9, 3), layers.Conv1D(4, 3, dilation_rate=2), 5 * 3 * 3 * 4),
        ((9, 3), layers.Conv1D(4, 3, padding="causal"), 9 * 3 * 3 * 4),
        ((4, 5, 6, 2), layers.Conv3D(3, 2), 3 * 4 * 5 * 2 * 2 * 2 * 2 * 3),
        ((8, 8, 4), layers.DepthwiseConv2D(3, depth_multiplier=2), 6 * 6 * 9 * 4 * 2),
        ((9, 9, 4), layers.DepthwiseConv2D(3, dilation_rate=2), 5 * 5 * 9 * 4),
        ((8, 4), layers.DepthwiseConv1D(3), 6 * 3 * 4),
        # Transposed: each input position is multiplied by each tap of the kernel.
        ((8, 8, 4), layers.Conv2DTranspose(3, 5, strides=2), 8 * 8 * 4 * 5 * 5 * 3),
        ((8, 4), layers.Conv1DTranspose(3, 5, strides=2), 8 * 4 * 5 * 3),
        ((2, 3, 4, 5), layers.Conv3DTranspose(3, 2), 2 * 3 * 4 * 5 * 2 * 2 * 2 * 3),
        ((5, 8), layers.EinsumDense("abc,cd->abd", (None, 4)), 5 * 8 * 4),
        ((5, 8), layers.EinsumDense("abc,bcd->abd", (5, 4)), 5 * 8 * 4),
        ((5, 8), layers.EinsumDense("...c,cd->...d", 4), 5 * 8 * 4),
        ((5, 8), layers.TimeDistributed(layers.Dense(4)), 5 * 8 * 4),
    ],
)
def test_one_weight(shape, layer, expected):
    count = count_macs(sequential(shape, layer))
    assert list(count.values()) == [expected]
    assert count.total == expected
    assert count.activations == 0
    assert count.uncounted == ()


@pytest.mark.parametrize(
    ("shape", "stack", "expected"),
    [
        (
            (8, 8, 4),
            [layers.SeparableConv2D(5, 3, name="sep")],
            {
                "sep/depthwise_kernel": 6 * 6 * 9 * 4,
                "sep/pointwise_kernel": 6 * 6 * 4 * 5,
            },
        ),
        (
            (8, 4),
            [layers.SeparableConv1D(5, 3, name="sep")],
            {"sep/depthwise_kernel": 6 * 3 * 4, "sep/pointwise_kernel": 6 * 4 * 5},
        ),
        (
            (5,),
            [layers.Embedding(100, 8), layers.Dense(4, name="d")],  # a look-up is free
            {"d/kernel": 5 * 8 * 4},
        ),
        (
            (6, 6, 3),
            [
                layers.Conv2D(4, 3, name="c"),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.ReLU(),
                layers.GlobalAveragePooling2D(),
                layers.Dense(2, name="d"),
            ],
            {"c/kernel": 4 * 4 * 27 * 4, "d/kernel": 8},
        ),
    ],
)
def test_several_weights(shape, stack, expected):
    count = count_macs(sequential(shape, *stack))
    assert by_name(count) == expected
    assert count.activations == 0


@pytest.mark.parametrize(
    ("layer", "gates"),
    [
        (layers.SimpleRNN(3), 1),
        (layers.GRU(3), 3),
        (layers.GRU(3, reset_after=False), 3),
        (layers.LSTM(3), 4),
        (layers.LSTM(3, return_sequences=True), 4),
        (layers.LSTM(3, go_backwards=True), 4),
        (layers.LSTM(3, unroll=True), 4),
        (layers.RNN([layers.LSTMCell(3)]), 4),
    ],
)
def test_recurrent_layers_count_every_step_once(layer, gates):
    count = count_macs(sequential((7, 5), layer))
    kernel, recurrent = count.values()
    assert kernel == 7 * 5 * 3 * gates
    # The product with the zero state counts too, unrolled or in a loop.
    assert recurrent == 7 * 3 * 3 * gates
    assert count.activations == 0


def test_masked_bidirectional_and_convolutional_recurrence():
    stack = [layers.Masking(), layers.Bidirectional(layers.LSTM(3))]
    assert sorted(count_macs(sequential((7, 5), *stack)).values()) == (
        [7 * 3 * 3 * 4] * 2 + [7 * 5 * 3 * 4] * 2
    )
    count = count_macs(sequential((5, 6, 6, 2), layers.ConvLSTM2D(3, 3)))
    places = 5 * 4 * 4 * 9
    assert list(count.values()) == [places * 2 * 3 * 4, places * 3 * 3 * 4]


def test_attention():
    query, value = keras.Input((6, 8)), keras.Input((5, 8))
    layer = layers.MultiHeadAttention(num_heads=2, key_dim=4, value_dim=3, name="mha")
    count = count_macs(keras.Model([query, value], layer(query, value)))
    assert by_name(count) == {
        "query/kernel": 6 * 8 * 2 * 4,
        "key/kernel": 5 * 8 * 2 * 4,
        "value/kernel": 5 * 8 * 2 * 3,
        "attention_output/kernel": 6 * 2 * 3 * 8,
    }
    assert count.activations == 2 * 6 * 5 * 4 + 2 * 6 * 5 * 3  # scores, weighted sum
    assert count.total == sum(count.values()) + count.activations


# --- Models of every kind -------------------------------------------------------------


def test_shared_nested_and_subclassed_models():
    shared = layers.Dense(4, name="shared")
    inner = sequential((4,), shared, layers.Dense(4, name="inner"))

    class Outer(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(3, name="head")

        def call(self, x, training=None):
            if training is not False:
                raise ValueError("The count is of inference.")
            return self.head(inner(shared(x)))

    expected = {"shared/kernel": 2 * 16, "inner/kernel": 16, "head/kernel": 12}
    model = Outer()
    assert by_name(count_macs(model, (None, 4))) == expected
    assert by_name(count_macs(model)) == expected  # built by the call before


def test_counting_runs_and_allocates_nothing():
    side = 100_000  # an activation of 40 GB
    model = sequential((side, side, 1), layers.Conv2D(1, 1), layers.Conv2D(1, 1))
    assert count_macs(model).total == 2 * side**2


def test_mixed_precision_and_cast_kernels_count_the_same():
    dense = layers.Dense(4, dtype="mixed_bfloat16")
    conv = layers.Conv2D(2, 3, dtype="mixed_float16")
    assert count_macs(sequential((8,), dense)).total == 8 * 4
    assert count_macs(sequential((5, 5, 3), conv)).total == 9 * 27 * 2


def test_frozen_weights_count():
    model = sequential((8,), layers.Dense(4), layers.Dense(2))
    model.trainable = False
    assert list(count_macs(model).values()) == [32, 8]


def test_input_specs():
    model = sequential((8,), layers.Dense(4))
    for spec in (
        (None, 8),
        [2, 8],
        tf.TensorShape([None, 8]),
        tf.TensorSpec((None, 8)),
        keras.InputSpec(shape=(None, 8)),
        keras.Input((8,)),
        tf.zeros((3, 8)),
    ):
        assert count_macs(model, spec).total == 32
    late = sequential((None, 8), layers.GRU(3))
    assert count_macs(late, (None, 7, 8)).total == 7 * (8 * 9 + 3 * 9)


def test_structured_inputs():
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    extra = keras.Input((3,), name="extra")
    embedded = layers.Flatten()(layers.Embedding(10, 2)(tokens))
    outputs = layers.Dense(4)(layers.Concatenate()([embedded, extra]))
    as_dict = keras.Model({"tokens": tokens, "extra": extra}, outputs)
    as_list = keras.Model([tokens, extra], outputs)
    assert count_macs(as_dict).total == count_macs(as_list).total == 13 * 4
    spec = {"tokens": tf.TensorSpec((None, 5), tf.int32), "extra": (None, 3)}
    assert count_macs(as_dict, spec).total == 13 * 4


def test_counts_are_per_example():
    model = sequential((8,), layers.Dense(4))
    assert count_macs(model, (16, 8)) == count_macs(model, (None, 8))
    stateful = keras.Sequential(
        [keras.Input(batch_shape=(4, 7, 5)), layers.LSTM(3, stateful=True)]
    )
    assert list(count_macs(stateful).values()) == [7 * 5 * 12, 7 * 3 * 12]
    # Each of the eight examples is multiplied by all eight.
    assert count_macs(lambda x: x @ tf.transpose(x), (8, 5)).activations == 8 * 5


def test_weights_of_equal_name_are_counted_separately():
    first = tf.Variable(tf.ones((4, 5)), name="w")
    second = tf.Variable(tf.ones((5, 2)), name="w")
    count = count_macs(lambda x: x @ first @ second, (None, 4))
    assert dict(count) == {"w": 20, "w#2": 10}


def test_mac_count_is_a_mapping():
    count = MacCount({"a": 3, "b": 4}, activations=5)
    assert dict(count) == {"a": 3, "b": 4}
    assert (len(count), count["b"], count.total, "c" in count) == (2, 4, 12, False)


# --- Inputs that are refused ----------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ((None, None, 4), r"Received: \[\(None, None, 4\)\]"),
        ([(2, 4), (3, 4)], "one batch size"),
        ("image", "Received: 'image'"),
        ([3.5], "Received: 3.5"),
    ],
)
def test_input_spec_errors(spec, message):
    with pytest.raises(ValueError, match=message):
        count_macs(sequential((8,), layers.Dense(4)), spec)


def test_a_model_without_a_known_input_is_refused():
    class Lazy(keras.Model):
        def call(self, x):
            return x

    for model in (Lazy(name="lazy"), keras.Sequential([layers.Dense(2)], name="lazy")):
        with pytest.raises(ValueError, match="model='lazy', input_spec=None"):
            count_macs(model)
