"""Counted FLOPs: each layer type by hand, then the published factors of ResNet-50."""

import math
import types

import keras
import pytest
import tensorflow as tf
from keras import layers

from topkast_tf.analysis import flops
from topkast_tf.analysis.flops import (
    FlopCount,
    MacCount,
    count_flops,
    count_macs,
    product_flops,
)
from topkast_tf.core.distributions import erdos_renyi_kernel, uniform


def sequential(shape, *stack):
    return keras.Sequential([keras.Input(shape), *stack])


def by_name(count):
    """{last two parts of the path: multiply-adds}."""
    short = {"/".join(path.split("/")[-2:]): n for path, n in count.items()}
    assert len(short) == len(count)
    return short


# --- The formulas ---------------------------------------------------------------------


def test_product_flops_by_hand():
    assert product_flops(10) == FlopCount(20, 20, 20)
    assert product_flops(10).training == 60
    sparse = product_flops(100, fwd=0.75, bwd=0.5)
    assert sparse == FlopCount(50, 50, 100)
    assert sparse.training == 200
    assert sparse + product_flops(10) == FlopCount(70, 70, 120)


def test_product_flops_refuses_a_backward_set_inside_the_forward_set():
    with pytest.raises(ValueError, match="Received: fwd=0.5, bwd=0.6"):
        product_flops(10, fwd=0.5, bwd=0.6)


def resnet50(stride_in_first):
    """{name: (kernel shape, output positions)} of ResNet-50 at 224 x 224.

    The original network strides in the first 1x1 convolution of a block, the usual
    one (v1.5) in the 3x3.
    """
    shapes = {"conv1": ((7, 7, 3, 64), 112**2)}
    fan_in = 64
    for stage, (blocks, width, side) in enumerate(
        [(3, 64, 56), (4, 128, 28), (6, 256, 14), (3, 512, 7)]
    ):
        for block in range(blocks):
            name = f"{stage}.{block}"
            strided = stage > 0 and block == 0 and not stride_in_first
            first_side = 2 * side if strided else side
            shapes[f"{name}.1"] = ((1, 1, fan_in, width), first_side**2)
            shapes[f"{name}.2"] = ((3, 3, width, width), side**2)
            shapes[f"{name}.3"] = ((1, 1, width, 4 * width), side**2)
            if block == 0:
                shapes[f"{name}.0"] = ((1, 1, fan_in, 4 * width), side**2)
            fan_in = 4 * width
    return shapes | {"fc": ((2048, 1000), 1)}


def macs_of(network):
    return {k: math.prod(shape) * places for k, (shape, places) in network.items()}


def factors(fwd, bwd):
    """(inference, training) FLOPs over dense, given {name: sparsity} twice."""
    sparse = dense = FlopCount()
    for name, macs in macs_of(resnet50(stride_in_first=False)).items():
        sparse += product_flops(macs, fwd.get(name, 0.0), bwd.get(name, 0.0))
        dense += product_flops(macs)
    return sparse.forward / dense.forward, sparse.training / dense.training


def uniform_factors(fwd, bwd):
    """The same with every layer but the first and the last at (fwd, bwd)."""
    shapes = {k: shape for k, (shape, _) in resnet50(False).items()}
    inner = {k: v for k, v in shapes.items() if k not in ("conv1", "fc")}
    return factors(uniform(inner, fwd), uniform(inner, bwd))


@pytest.mark.parametrize(
    ("sparsity", "published"),
    [
        (0, 1),
        (0.5, 0.515),
        (0.6, 0.418),
        (0.8, 0.224),
        (0.9, 0.127),
        (0.95, 0.078),
        (0.98, 0.049),
        (0.99, 0.039),
    ],
)
def test_forward_factor_of_uniform_resnet50(sparsity, published):
    inference, training = uniform_factors(sparsity, sparsity)
    assert inference == pytest.approx(published, abs=6e-4)
    assert training == pytest.approx(inference)


@pytest.mark.parametrize(
    ("fwd", "bwd", "published"),
    [
        (0.8, 0, 0.482),
        (0.8, 0.5, 0.321),
        (0.8, 0.8, 0.224),
        (0.9, 0, 0.418),
        (0.9, 0.5, 0.256),
        (0.9, 0.8, 0.159),
        (0.9, 0.9, 0.127),
        (0.95, 0, 0.385),
        (0.95, 0.5, 0.224),
        (0.95, 0.9, 0.094),
        (0.98, 0.9, 0.075),
    ],
)
def test_training_factor_of_uniform_resnet50(fwd, bwd, published):
    assert uniform_factors(fwd, bwd)[1] == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize(
    ("sparsity", "published", "inference"), [(0.8, 0.42, 0.4138), (0.9, 0.24, 0.2418)]
)
def test_erk_factors_of_resnet50(sparsity, published, inference):
    # RigL publishes the two decimals; the four are worked out from its definition.
    network = resnet50(stride_in_first=False)
    sparsities = erdos_renyi_kernel({k: s for k, (s, _) in network.items()}, sparsity)
    found, _ = factors(sparsities, sparsities)
    assert found == pytest.approx(inference, abs=1e-4)
    assert found == pytest.approx(published, abs=0.01)


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
        # Transposed: every input position meets every tap of the kernel.
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
    # Unrolled, and with a loop alike: the product with the zero state is run too.
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


# --- Models of every make -------------------------------------------------------------


def test_shared_nested_and_subclassed():
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


def test_nothing_is_run_nor_allocated():
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
    # Every example of eight meets eight others.
    assert count_macs(lambda x: x @ tf.transpose(x), (8, 5)).activations == 8 * 5


def test_equal_names_stay_apart():
    first = tf.Variable(tf.ones((4, 5)), name="w")
    second = tf.Variable(tf.ones((5, 2)), name="w")
    count = count_macs(lambda x: x @ first @ second, (None, 4))
    assert dict(count) == {"w": 20, "w#2": 10}


# --- From the product back to the weight ----------------------------------------------


@pytest.fixture
def weight():
    return tf.Variable(tf.random.normal((4, 6)), name="weight")


def masked_read(theta, sets):
    """What a forward pass reads inside a scope."""

    @tf.custom_gradient
    def read(value):
        return tf.where(sets == 2, value, 0.0), lambda upstream: upstream

    return read(theta)


MASK = tf.Variable(tf.ones((4, 6)), trainable=False, name="mask")
SETS = tf.Variable(tf.fill((4, 6), tf.constant(2, tf.int8)), trainable=False)
SCALE = tf.Variable(tf.ones((6,)), name="scale")


@pytest.mark.parametrize(
    "read",
    [
        lambda w: w,
        lambda w: masked_read(w, SETS),
        lambda w: tf.function(masked_read)(w, SETS),
        lambda w: tf.function(masked_read, jit_compile=True)(w, SETS),
        lambda w: tf.recompute_grad(lambda: masked_read(w, SETS))(),
        lambda w: w * MASK,
        lambda w: tf.cast(MASK > 0, w.dtype) * w,
        lambda w: SCALE * w,  # broadcast: the zeros are those of the weight
        lambda w: w / tf.norm(w),
        lambda w: tf.cast(tf.cast(w, tf.bfloat16), tf.float32),
        lambda w: tf.reshape(tf.transpose(tf.reshape(w, (2, 2, 6)), (1, 0, 2)), (4, 6)),
        lambda w: tf.concat(tf.split(w, 3, axis=1), axis=1),
        lambda w: tf.stack(tf.unstack(w)),
        lambda w: tf.sign(w),
        lambda w: tf.where(tf.abs(w) > 0.5, w, tf.zeros_like(w)),
    ],
)
def test_operations_that_keep_zeros_lead_to_the_weight(weight, read):
    count = count_macs(lambda x: x @ read(weight), (None, 4))
    assert dict(count) == {"weight": 24}
    assert count.activations == 0


@pytest.mark.parametrize(
    "read",
    [lambda w: w + 1.0, lambda w: w - tf.reduce_mean(w), lambda w: w @ tf.eye(6)],
)
def test_operations_that_fill_zeros_do_not(weight, read):
    count = count_macs(lambda x: x @ read(weight), (None, 4))
    assert count.activations == 24  # counted all the same, as dense
    assert set(count.values()) <= {4 * 6 * 6}


def test_a_product_with_several_weights_is_split_by_size(weight):
    other = tf.Variable(tf.ones((4, 2)), name="other")
    count = count_macs(lambda x: x @ tf.concat([weight, other], 1), (None, 4))
    assert dict(count) == {"weight": 24, "other": 8}


def test_a_mixture_of_trained_weights_belongs_to_none(weight):
    gate = tf.Variable(tf.ones((4, 6)), name="gate")
    count = count_macs(lambda x: x @ (weight * gate), (None, 4))
    assert dict(count) == {}
    assert count.activations == 24


def test_transposed_operands(weight):
    def transposed(x):
        return tf.matmul(x, weight, transpose_b=True)

    assert dict(count_macs(transposed, (None, 6))) == {"weight": 24}
    both = count_macs(lambda x: tf.matmul(weight, x, True, True), (3, 4))
    assert dict(both) == {"weight": 24}


def test_einsum(weight):
    def product(equation):
        return lambda x: tf.einsum(equation, x, weight)

    assert count_macs(product("...ij,jk->...ik"), (1, 2, 3, 4)).total == 6 * 4 * 6
    assert count_macs(product("b...j,jk->bk..."), (1, 2, 3, 4)).total == 6 * 4 * 6
    assert count_macs(product("abj,jk->kab"), (1, 3, 4)).total == 3 * 4 * 6
    # What only one operand has is summed over before the product.
    assert count_macs(product("bj,jk->b"), (1, 4)).total == 4
    assert count_macs(lambda x: tf.einsum("bii->b", x), (1, 4, 4)).total == 0


# --- Control flow ---------------------------------------------------------------------


def test_loops(weight):
    def scan(x):
        square = tf.matmul(weight, weight, transpose_b=True)  # 4 x 4, once: 4 * 4 * 6
        for _ in tf.range(7):
            x = x @ square
            for _ in tf.range(tf.shape(square)[0] - 1):
                x = tf.matmul(x @ weight, weight, transpose_b=True)
        return x

    count = count_macs(scan, (None, 4))
    assert dict(count) == {"weight": 4 * 4 * 6 + 7 * 3 * 2 * 24}
    assert count.activations == 7 * 16


def test_weight_read_before_the_loop(weight):
    def scan(x):
        kernel = tf.identity(weight)
        return tf.while_loop(
            lambda i, x: i < 5,
            lambda i, x: (i + 1, tf.matmul(x @ kernel, kernel, transpose_b=True)),
            (0, x),
        )

    assert dict(count_macs(scan, (None, 4))) == {"weight": 5 * 2 * 24}


def test_a_loop_of_unknown_length_is_refused(weight):
    def search(x):
        while tf.reduce_sum(x) < 100.0:
            x = tf.matmul(x @ weight, weight, transpose_b=True)
        return x

    with pytest.raises(ValueError, match="Expected a loop whose length follows"):
        count_macs(search, (None, 4))


def test_an_unknown_loop_without_products_is_free(weight):
    def search(x):
        while tf.reduce_sum(x) < 100.0:
            x = x + 1.0
        return x @ weight

    assert count_macs(search, (None, 4)).total == 24


def test_branches(weight):
    def choose(condition, on, off):
        return lambda x: tf.cond(condition(x), lambda: on(x), lambda: off(x))

    def once(x):
        return x @ weight

    def twice(x):
        return once(tf.matmul(once(x), weight, transpose_b=True))

    def unknown(x):
        return tf.reduce_sum(x) > 0

    assert count_macs(choose(unknown, once, lambda x: once(-x)), (1, 4)).total == 24
    with pytest.raises(ValueError, match="Expected a branch that follows"):
        count_macs(choose(unknown, once, twice), (1, 4))
    known = [tf.constant(flag) for flag in (True, False)]
    assert count_macs(choose(lambda x: known[0], once, twice), (1, 4)).total == 24
    assert count_macs(choose(lambda x: known[1], once, twice), (1, 4)).total == 72


def test_mapped_functions(weight):
    def row(x):
        return tf.linalg.matvec(weight, x, transpose_a=True)

    assert count_macs(lambda x: tf.map_fn(row, x), (5, 4)).total == 24
    assert count_macs(lambda x: tf.vectorized_map(row, x), (5, 4)).total == 24


# --- What cannot be counted is said ---------------------------------------------------


def test_opaque_operations_are_named(weight):
    def opaque(x):
        y = tf.py_function(lambda y: y, [x], x.dtype)
        return tf.ensure_shape(y, x.shape) @ weight

    count = count_macs(opaque, (1, 4))
    assert count.total == 24
    assert len(count.uncounted) == 1
    assert "EagerPyFunc" in count.uncounted[0]


def test_unknown_shapes_are_refused(weight):
    with pytest.raises(ValueError, match="Expected every shape to follow"):
        count_macs(lambda x: tf.boolean_mask(x, x[:, 0] > 0) @ weight, (3, 4))


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


def test_mac_count_is_a_mapping():
    count = MacCount({"a": 3, "b": 4}, activations=5)
    assert dict(count) == {"a": 3, "b": 4}
    assert (len(count), count["b"], count.total, "c" in count) == (2, 4, 12, False)


# --- The report -----------------------------------------------------------------------


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
        *("weight", "MACs", "share", "fwd", "bwd", "inference", "training")
    ]
    assert lines[2].split() == [
        *("net/conv/kernel", "1.728k", "73.0%", "0.7500", "0.5000", "0.250x", "0.333x")
    ]
    assert lines[-1] == (
        "training: 7.296k of 14.208k dense FLOPs per example (0.514x), counted"
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
    report = count_flops(sequential((8,), layers.Dense(4)))
    assert report.sparse == report.dense
    assert report.training_ratio == report.inference_ratio == 1.0
    empty = count_flops(sequential((8,), layers.ReLU()))
    assert (empty.rows, empty.training_ratio) == ((), 1.0)
    assert "0 of 0 dense FLOPs" in str(empty)


def test_report_says_what_it_could_not_count(sparsify):
    class Opaque(keras.layers.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.py_function(lambda y: y, [x], x.dtype), x.shape)

    report = count_flops(sequential((8,), Opaque(), layers.Dense(4)))
    assert "NOT counted, so lower bounds: EagerPyFunc" in str(report)


def test_keras_resnet50(sparsify):
    model = keras.applications.ResNet50(weights=None)
    expected = macs_of(resnet50(stride_in_first=True))
    report = count_flops(model)
    assert report.dense.forward == 2 * sum(expected.values()) == 2 * 3_857_973_248
    assert sorted(row.macs for row in report.rows) == sorted(expected.values())
    # The usual network, whose 3x3 convolutions stride: 4.1 G, 8.2e9 FLOPs in RigL.
    usual = sum(macs_of(resnet50(stride_in_first=False)).values())
    assert 2 * usual == pytest.approx(8.2e9, rel=0.01)


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
def test_every_product_is_found_behind_the_sparse_reads(policy):
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
        model = sequential((8,), layers.Dense(4), layers.Dense(4))
    twice = count_flops(lambda x: (model(x), model(-x)), (None, 8))
    once = count_flops(model)
    assert [row.path for row in twice.rows] == [row.path for row in once.rows]
    assert twice.sparse.training == 2 * once.sparse.training < once.dense.training
