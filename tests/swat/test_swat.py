"""SWAT in Keras: what each layer computes, which weights stay dense, how sets move."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from swat_tf import momentum, swat_scope
from swat_tf.report import DensityLog, densities, layer_densities
from swat_tf.structured import KernelSlices
from tests import zoo
from tests.swat import swat_oracle as oracle
from topkast_tf.analysis.flops import count_flops
from topkast_tf.core.blocks import MatrixView
from topkast_tf.variables.counters import Counter

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

# How many kernels SWAT makes sparse; the rest is left dense, as it has no rule for it.
KERNELS = {
    **zoo.KERNELS,
    zoo.own_layer: 0,
    zoo.convolutions: 8,  # not the two of SeparableConv2D
    zoo.recurrent: 1,
}
BUILDERS = pytest.mark.parametrize(
    "builder", [b for b in KERNELS if KERNELS[b]], ids=lambda b: b.__name__
)
_QUICK = (zoo.sequential, zoo.attention, zoo.Subclassed)  # the others: slow
TRAINED = pytest.mark.parametrize(
    "builder",
    [
        pytest.param(b, marks=[] if b in _QUICK else [pytest.mark.slow])
        for b in KERNELS
        if KERNELS[b]
    ],
    ids=lambda b: b.__name__,
)


def build(builder=zoo.sequential, sparsity=0.9, **arguments):
    keras.utils.set_random_seed(0)
    with swat_scope(sparsity, **arguments):
        model = builder()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    return model


# Every kind of model


@BUILDERS
def test_forward_pass_is_that_of_a_dense_model_with_the_largest_weights(builder):
    inputs = zoo.images(builder)
    model = build(builder)
    found = model(inputs).numpy()
    assert len(tk.sparse_weights(model)) == KERNELS[builder]
    expected = zoo.dense_twin(builder, model, inputs)(inputs).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)
    for weight in tk.sparse_weights(model):
        np.testing.assert_array_equal(
            weight.forward_mask(), oracle.mask(weight.dense(), 0.9)
        )
    np.testing.assert_allclose(
        tk.strip(model)(inputs).numpy(), expected, rtol=1e-5, atol=1e-6
    )


@TRAINED
def test_all_weights_move_and_the_model_comes_back(builder, tmp_path):
    inputs, labels = zoo.images(builder), zoo.labels()
    model = build(builder, topk_period=2)
    model(inputs)
    before = {w.path: w.dense() for w in tk.sparse_weights(model)}
    model.fit(inputs, labels, batch_size=4, epochs=2, verbose=0)
    for weight in tk.sparse_weights(model):
        assert weight.step == 4
        moved = weight.dense() != before[weight.path]
        assert np.any(moved & ~weight.forward_mask()), weight.path
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(inputs, verbose=0), loaded.predict(inputs, verbose=0)
    )
    for one, other in zip(
        tk.sparse_weights(model), tk.sparse_weights(loaded), strict=True
    ):
        np.testing.assert_array_equal(one.codes(), other.codes())
        assert one.rule == other.rule and one.step == other.step


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Dense(5), (7,)),
        (layers.Dense(5, use_bias=False), (3, 7)),
        (layers.EinsumDense("abc,cd->abd", (None, 5), bias_axes="d"), (3, 7)),
        (layers.Conv1D(5, 3, padding="causal", dilation_rate=2), (9, 4)),
        (layers.Conv2D(6, 3, strides=2, padding="same"), (8, 8, 4)),
        (layers.Conv2D(6, 3, dilation_rate=2, use_bias=False), (8, 8, 4)),
        (layers.Conv2D(6, 3, groups=2), (8, 8, 4)),
        (layers.Conv3D(3, 2), (4, 4, 4, 2)),
        (layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (6, 6, 3)),
        (layers.DepthwiseConv1D(3), (6, 3)),
        (layers.Conv2DTranspose(4, 3, strides=2, padding="same"), (5, 5, 3)),
        (layers.Conv1DTranspose(4, 3, output_padding=1, strides=2), (5, 3)),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_each_layer_against_its_dense_twin_at_the_sparse_operands(layer, shape):
    """y = f(a, w~), da = f'(w~) dy, dw = f'(a~) dy, db = the plain sum."""
    with swat_scope(0.7, activations=0.5):
        ours = layer.from_config(layer.get_config())
    twin = layer.from_config(layer.get_config())
    random = np.random.default_rng(0)
    a = tf.constant(random.standard_normal((4, *shape)), tf.float32)
    ours(a), twin(a)
    if ours.bias is not None:
        ours.bias.assign(random.standard_normal(ours.bias.shape))
        twin.bias.assign(ours.bias)
    [weight] = tk.sparse_weights(ours)

    def run(model, a, kernel):
        kernel = tf.constant(kernel)
        with tf.GradientTape() as tape:
            tape.watch(a)
            y = model(a)
        dy = tf.reshape(tf.sin(tf.range(tf.size(y), dtype=tf.float32)), tf.shape(y))
        variables = [v.value for v in model.trainable_variables]
        return y, tape.gradient(y, [a, *variables], dy)

    y, (da, dw, *db) = run(ours, a, weight.dense())
    twin.kernel.assign(oracle.keep(weight.dense(), 0.7))
    dense_y, (dense_da, _, *dense_db) = run(twin, a, weight.dense())
    _, (_, dense_dw, *_) = run(twin, tf.constant(oracle.keep(a, 0.5)), weight.dense())
    for found, expected in zip(
        (y, da, dw, *db), (dense_y, dense_da, dense_dw, *dense_db), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_what_has_no_rule_is_left_dense_and_said(caplog):
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


def test_a_regex_may_match_what_has_no_rule():
    with swat_scope(0.5, exempt="lstm"):
        model = keras.Sequential(
            [keras.Input((5, 4)), keras.layers.LSTM(3), keras.layers.Dense(2)]
        )
    assert [w.path.split("/")[-2] for w in tk.sparse_weights(model)] == ["dense"]


def test_what_include_leaves_out_is_said_to_be_left_out():
    with swat_scope(0.5, include="kernel"):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    [(path, _, why)] = tk.summary(model).left_dense
    assert path.endswith("bias") and why == "not in `include`"


def test_a_subclass_with_its_own_call_is_left_dense_and_without_one_is_not():
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
    # The layers left dense have dense activations, too: their own gradients.
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


# Top-KAST beside it


@pytest.mark.parametrize("order", ["inside", "around"])
def test_topkast_weights_with_swat_activations(order):
    scopes = [lambda: tk.topkast_scope(0.8, 0.5), lambda: swat_scope(0.6)]
    outer, inner = scopes if order == "inside" else scopes[::-1]
    with outer(), inner():
        model = zoo.nested()
    weights = tk.sparse_weights(model)
    assert [(w.method.name, w.fwd, w.bwd) for w in weights] == [
        ("topkast", 0.8, 0.5)
    ] * 3
    assert all(w.rule.sparsity_of(w) == 0.6 for w in weights)
    dense = layers.Dense(4)
    with outer(), inner():
        dense = dense.from_config(dense.get_config())
    a = tf.constant(np.random.default_rng(0).standard_normal((6, 9)), tf.float32)
    dense(a)
    with tf.GradientTape() as tape:
        y = dense(a)
    dw = tape.gradient(y, dense.kernel.value)
    [weight] = tk.sparse_weights(dense)
    expected = oracle.keep(a.numpy(), 0.6).T @ np.ones(y.shape)
    np.testing.assert_allclose(
        dw, np.where(weight.backward_mask(), expected, 0), rtol=1e-5, atol=1e-6
    )


def test_a_part_of_a_model_under_topkast_and_the_rest_under_swat():
    with swat_scope(0.5):
        first = layers.Dense(8)
        with tk.topkast_scope(0.9, 0.8):
            second = layers.Dense(8)
        model = keras.Sequential([keras.Input((16,)), first, second])
    names = [w.method.name for w in tk.sparse_weights(model)]
    assert names == ["swat", "topkast"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"structured": "channel"},
        {"distribution": "erk"},
        {"distribution": "momentum"},
        {"updates": "masked"},
        {"freeze_at": 5},
        {"exempt": "first"},
        {"forward": ()},
    ],
    ids=str,
)
def test_what_speaks_of_weights_is_refused_inside_topkast(arguments):
    with tk.topkast_scope(0.9, 0.8):
        with pytest.raises(ValueError, match="which weights are sparse. Received"):
            with swat_scope(0.5, **arguments):
                pass
        zoo.nested()


# Structured selection


def test_channel_slices_by_hand():
    # One input channel and three filters of 1 x 2; then the other channel.
    kernel = np.array(
        [[[[1, -5, 0.5], [2, 0, 1]], [[1, 1, 0.5], [-2, 0.5, 1]]]], np.float32
    )
    view = MatrixView(kernel.shape, spatial_axes=2)
    scores = KernelSlices(view, "channel").scores(tf.constant(kernel))
    np.testing.assert_allclose(scores, [2, 6, 1, 4, 0.5, 2])
    scores = KernelSlices(view, "filter").scores(tf.constant(kernel))
    np.testing.assert_allclose(scores, [6, 6.5, 3])


@pytest.mark.parametrize("structure", ["channel", "filter"])
def test_structured_selection_keeps_whole_slices_of_the_largest_norm(structure):
    model = build(zoo.convolutions, sparsity=0.7, structured=structure)
    for weight in tk.sparse_weights(model):
        mask = weight.forward_mask()
        if not weight.blocks:
            assert mask.ndim == 2  # the dense layer: single weights
            np.testing.assert_array_equal(mask, oracle.mask(weight.dense(), 0.7))
            continue
        axes = tuple(range(weight.blocks.view.spatial_axes))
        whole = mask.any(axis=axes)
        np.testing.assert_array_equal(whole, mask.all(axis=axes))
        norms = np.abs(weight.dense()).sum(axis=axes)
        if structure == "channel":
            np.testing.assert_array_equal(whole, oracle.mask(norms, 0.7))
    first = tk.sparse_weights(model)[1]  # depthwise: slices are channels
    assert first.units == 8


def test_different_filters_keep_different_channels():
    def builder():
        return keras.Sequential([keras.Input((8, 8, 6)), layers.Conv2D(7, 3)])

    [weight] = tk.sparse_weights(build(builder, sparsity=0.5, structured="channel"))
    kept = weight.forward_mask().any(axis=(0, 1))
    assert kept.sum() == 21 and len({tuple(column) for column in kept.T}) > 1


# The period


def perceptron():
    hidden = layers.Dense(16, activation="tanh", name="hidden")
    inputs = [keras.Input((8, 8, 1)), layers.Flatten()]
    return keras.Sequential([*inputs, hidden, layers.Dense(10, name="top")])


def test_thresholds_are_stale_between_refreshes_and_exact_at_them(digits):
    images, labels = digits
    model = build(zoo.nested, sparsity=0.8, topk_period=4)
    weights = tk.sparse_weights(model)
    thresholds = remembered(weights)
    for step in range(1, 13):
        model.train_on_batch(images[:32], labels[:32])
        for i, weight in enumerate(weights):
            magnitudes, mask = np.abs(weight.dense()), weight.forward_mask()
            if step % 4 == 0:
                np.testing.assert_array_equal(mask, oracle.mask(weight.dense(), 0.8))
            else:
                np.testing.assert_array_equal(mask, magnitudes >= thresholds[i])
        if step % 4 == 0:
            thresholds = remembered(weights)
            for weight, threshold in zip(weights, thresholds, strict=True):
                kept = np.abs(weight.dense())[weight.forward_mask()]
                assert kept.min() == threshold


@pytest.mark.parametrize(
    ("arguments", "dense"),
    [
        ({"distribution": {"top": 0.0}}, [False, True]),
        ({"distribution": lambda shapes: dict.fromkeys(shapes, 0.0)}, [True, True]),
        ({"distribution": "momentum", "sparsity": 0.0}, [True, True]),
        ({"distribution": "global", "sparsity": 0.0}, [True, True]),
    ],
    ids=["mapping", "function", "momentum", "global"],
)
def test_what_is_dense_stays_dense_between_selections(arguments, dense, digits):
    images, labels = digits
    model = build(perceptron, **{"sparsity": 0.8, "topk_period": 100} | arguments)
    model.compile(keras.optimizers.SGD(1e-3, weight_decay=500.0), LOSS)  # all shrink
    weights = tk.sparse_weights(model)
    for _ in range(6):
        model.train_on_batch(images[:32], labels[:32])
        for weight, expected in zip(weights, dense, strict=True):
            assert weight.forward_mask().all() == expected, weight.path


@pytest.mark.parametrize(
    ("builder", "arguments"),
    [(perceptron, {}), (zoo.functional, {"structured": "channel"})],
    ids=["weights", "channels"],
)
def test_the_exempt_last_layer_stays_dense_between_selections(
    builder, arguments, digits
):
    images, labels = digits
    model = build(builder, 0.8, topk_period=100, exempt="last", **arguments)
    model.compile(keras.optimizers.SGD(1e-3, weight_decay=500.0), LOSS)  # all shrink
    last = model.layers[-1]
    one_at_a_time = np.eye(last.kernel.shape[0], dtype=np.float32)
    for _ in range(6):
        model.train_on_batch(images[:32], labels[:32])
        np.testing.assert_allclose(
            last(one_at_a_time) - last.bias, last.kernel.numpy(), atol=1e-8
        )


def test_activations_of_a_dense_layer_stay_dense_between_selections(digits):
    images, labels = digits
    model = build(perceptron, sparsity=0.8, topk_period=100, distribution={"top": 0.0})
    features = keras.Model(model.inputs[0], model.layers[-1].input)
    model.optimizer.learning_rate.assign(0.0)
    for scale in (1.0, 1e-5):  # the second batch is below the first threshold
        x = scale * (images[:32] + 0.1)
        inputs = features(x).numpy()
        model.train_on_batch(x, labels[:32])
        _, kept, size = tk.sparse_weights(model)[-1].auxiliary["activations"].numpy()
        assert (kept, size) == (np.count_nonzero(inputs), inputs.size)


def remembered(weights):
    """The thresholds of the last selection, as the counters hold them."""
    keys = [int(weight.counters.numpy()[Counter.THRESHOLD]) for weight in weights]
    return [np.int32(key).view(np.float32) for key in keys]


@pytest.mark.parametrize("structured", [None, "channel"])
def test_a_period_of_convolutions_is_for_their_single_weights_only(structured, digits):
    images, labels = digits
    model = build(
        zoo.functional,
        sparsity=0.8,
        topk_period=4,
        topk_period_of="convolutions",
        structured=structured,
    )
    weights = tk.sparse_weights(model)
    assert [len(w.shape) for w in weights] == [4, 4, 2]
    thresholds, keys = remembered(weights), []
    for step in range(1, 10):
        model.train_on_batch(images[:32], labels[:32])
        for weight, threshold in zip(weights, thresholds, strict=True):
            theta, mask = weight.dense(), weight.forward_mask()
            if weight.blocks:
                norms = np.abs(theta).sum((0, 1))
                exact = np.broadcast_to(oracle.mask(norms, 0.8), theta.shape)
            elif len(theta.shape) == 2 or step % 4 == 0:
                exact = oracle.mask(theta, 0.8)
            else:
                exact = np.abs(theta) >= threshold
            np.testing.assert_array_equal(mask, exact)
        if step % 4 == 0:
            thresholds = remembered(weights)
        *convolutions, dense = [w.auxiliary["activations"].numpy() for w in weights]
        assert dense[0] == 0 and dense[1] <= dense[2] - int(0.8 * dense[2])
        keys.append([int(found[0]) for found in convolutions])
    # Of the second convolution's activations, which move: found at steps 0, 4 and 8.
    of_second = [key for _, key in keys]
    assert [len(set(of_second[a : a + 4])) for a in (0, 4)] == [1, 1]
    assert len(set(of_second)) == 3


def test_with_a_period_of_convolutions_swat_m_moves_dense_layers_at_each_step(digits):
    images, labels = digits
    model = build(
        zoo.functional,
        sparsity=0.8,
        distribution="momentum",
        topk_period=3,
        topk_period_of="convolutions",
    )
    weights = tk.sparse_weights(model)
    budget = sum(w.dense().size for w in weights)
    budget -= int(0.8 * budget)
    seen = []
    for step in range(1, 8):
        active = [weight.forward_mask() for weight in weights]
        model.train_on_batch(images[:32], labels[:32])
        of = [model.optimizer._get_variable_index(w._theta) for w in weights]
        momenta = [model.optimizer.momentums[i].numpy() for i in of]
        means = [np.abs(m[a]).mean() for m, a in zip(momenta, active, strict=True)]
        sizes = [weight.dense().size for weight in weights]
        asked = oracle.momentum_budget(means, sizes, budget)
        found = [
            int(weight.counters.numpy()[Counter.KEPT_FORWARD]) for weight in weights
        ]
        assert found[-1] == weights[-1].forward_mask().sum()
        assert found[-1] == pytest.approx(asked[-1], abs=1)
        if step % 3 == 0:
            assert found == pytest.approx(asked, abs=1)
            assert found == [weight.forward_mask().sum() for weight in weights]
        seen.append(found)
    assert seen[0][:2] == seen[1][:2] and seen[2][:2] == seen[3][:2] == seen[4][:2]
    assert seen[1][:2] != seen[2][:2]


def test_a_period_of_convolutions_is_saved_and_one_of_all_is_that_of_older_files():
    def periods(layer):
        [weight] = tk.sparse_weights(layer)
        return weight.schedule.period, weight.rule._period(weight)

    with swat_scope(0.5, topk_period=7, topk_period_of="convolutions"):
        dense, conv = layers.Dense(4), layers.Conv1D(4, 3)
    for layer, shape, expected in (
        (dense, (None, 5), (1, 1)),
        (conv, (None, 9, 5), (7, 7)),
    ):
        layer.build(shape)
        config = layer.get_config()
        again = type(layer).from_config(config)
        again.build(shape)
        assert periods(layer) == periods(again) == expected
        del config["topkast"]["scope"]["arguments"]["topk_period_of"]
        del config["topkast"]["rule"]["config"]["topk_period_of"]
        older = type(layer).from_config(config)
        older.build(shape)
        assert periods(older) == (7, 7)


def test_drift_of_the_realised_densities_is_small(digits, tmp_path):
    """With a threshold of 20 steps the densities stay within a fifth of the nominal."""
    images, labels = digits
    model = build(zoo.functional, sparsity=0.8, topk_period=20)
    log = DensityLog(tmp_path / "densities.csv", every=1)
    model.optimizer.learning_rate.assign(0.01)
    model.fit(images, labels, batch_size=32, epochs=8, callbacks=[log], verbose=0)
    rows = np.genfromtxt(
        tmp_path / "densities.csv", delimiter=",", names=True, dtype=None, encoding=None
    )
    assert len(rows) == 64 * 3
    assert np.all(np.abs(rows["weights"] - 0.2) < 0.04)
    assert np.all(rows["activations"] < 0.24)  # zeros may leave fewer than were asked
    drifted = rows["weights"][rows["step"] % 20 == 19]
    exact = rows["weights"][rows["step"] % 20 == 0]
    assert np.abs(drifted - 0.2).max() > np.abs(exact - 0.2).max()


def test_activation_thresholds_are_found_when_due(digits):
    images, labels = digits
    model = build(zoo.nested, sparsity=0.8, topk_period=3)
    weight = tk.sparse_weights(model)[0]
    seen = []
    for _ in range(7):
        model.train_on_batch(images[:32], labels[:32])
        key, kept, size = weight.auxiliary["activations"].numpy()
        seen.append(int(key))
        assert size == 32 * 64 and kept <= 0.25 * size  # ties stay
    # The same batch at each step, the first layer: found at steps 0, 3, 6 alike.
    assert len(set(seen)) == 1
    # Evaluation and inference leave it alone.
    model.evaluate(images[:8] * 5, labels[:8], verbose=0)
    assert int(weight.auxiliary["activations"].numpy()[0]) == seen[0]


def test_frozen_from_a_step_on(digits):
    images, labels = digits
    model = build(zoo.nested, sparsity=0.8, freeze_at=3)
    codes = []
    for _ in range(6):
        model.train_on_batch(images[:32], labels[:32])
        codes.append([w.codes() for w in tk.sparse_weights(model)])
    assert any(np.any(a != b) for a, b in zip(codes[0], codes[1], strict=True))
    for later in codes[3:]:
        for a, b in zip(codes[2], later, strict=True):
            np.testing.assert_array_equal(a, b)


def test_masked_updates_leave_inactive_weights_bit_for_bit(digits):
    images, labels = digits
    model = build(zoo.nested, sparsity=0.8, updates="masked", topk_period=100)
    weights = tk.sparse_weights(model)
    before = [(w.dense(), w.forward_mask()) for w in weights]
    model.train_on_batch(images[:32], labels[:32])
    for weight, (theta, active) in zip(weights, before, strict=True):
        moved = weight.dense() != theta
        assert np.any(moved[active]) and not np.any(moved & ~active)


# Distributions


def test_erk_of_vgg_16():
    """The densities of the published VGG-16 at 95 % (calculated, three digits)."""
    widths = [64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    shapes, channels = {}, 3
    for number, width in enumerate(widths):
        shapes[f"conv{number}"] = (3, 3, channels, width)
        channels = width
    shapes |= {"fc1": (512, 4096), "fc2": (4096, 4096), "fc3": (4096, 10)}
    from topkast_tf.core.distributions import erdos_renyi_kernel

    found = list(erdos_renyi_kernel(shapes, 0.95).values())
    expected = [0, 0.713, 0.788, 0.860, 0.896, 0.931, 0.931, 0.948, *[0.966] * 5]
    expected += [0.826, 0.961, 0]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_budget_of_ones_own():
    model = build(distribution={"dense": 0.5}, sparsity=0.8)
    assert [w.fwd for w in tk.sparse_weights(model)] == [0.8, 0.5]
    rules = [w.rule.sparsity_of(w) for w in tk.sparse_weights(model)]
    assert rules == [0.8, 0.5]  # activations as the weights


def test_momentum_budget_by_hand():
    # Shares 0.9 and 0.1 of 20: 18 and 2. The first has 10 only: 8 too many, dealt out
    # as 4 and 4, then 2 and 2; the 2 that are left then are no more than one a layer.
    share = tf.constant([0.9, 0.1], tf.float64)
    found = momentum.allot(share, [10, 100], tf.constant(20))
    np.testing.assert_array_equal(found, [10, 8])
    # Nothing to give back.
    found = momentum.allot(share, [100, 100], tf.constant(20))
    np.testing.assert_array_equal(found, [18, 2])
    m = tf.constant([3.0, -1.0, 8.0])
    active = tf.constant([True, True, False])
    np.testing.assert_allclose(momentum.shares([m, 3 * m], [active] * 2), [0.25, 0.75])
    zero = tf.zeros(3)
    np.testing.assert_allclose(momentum.shares([zero, zero], [active] * 2), [0.5, 0.5])


def test_momentum_budget_ends_once_it_is_exceeded():
    # 45, 45, 10 of 100, in layers of 10, 10 and 1000. The first two are dense; what they
    # have too much is dealt out: 24, 16, 11, 8, 6, 4 to the third make 79, 99 in all,
    # and 3 more make 82. There 102 are kept, and the 6 that are left are forgotten.
    share = tf.constant([0.45, 0.45, 0.10], tf.float64)
    found = momentum.allot(share, [10, 10, 1000], tf.constant(100))
    np.testing.assert_array_equal(found, [10, 10, 82])
    # A layer that is rounded up to its size, from 199 to 200, takes that from the others:
    # 302 and 133, 89, 60, 40, 27, 18, 12, 8, 6, 4, 3 are 702. (Else it would have 701.)
    share = tf.constant([0.1985, 0.5, 0.3015], tf.float64)
    found = momentum.allot(share, [200, 100, 5000], tf.constant(1000))
    np.testing.assert_array_equal(found, [200, 100, 702])


@pytest.mark.parametrize("seed", range(8))
def test_momentum_budget_against_its_definition(seed):
    random = np.random.default_rng(seed)
    layers = random.integers(2, 30)
    means = random.random(layers) ** 3
    sizes = (10 ** random.uniform(0.3, 4, layers)).astype(int).tolist()
    budget = sum(sizes) // random.integers(2, 20)
    share = tf.constant(means / means.sum(), tf.float64)
    found = tf.function(momentum.allot)(share, sizes, tf.constant(budget))
    expected = oracle.momentum_budget(means.tolist(), sizes, budget)
    np.testing.assert_array_equal(found, expected)
    total = sum(expected)
    dense = sum(size for size, k in zip(sizes, expected, strict=True) if k == size)
    assert budget - layers <= total <= budget + 3 * layers + 0.01 * dense


def test_swat_m_keeps_its_budget_beside_layers_that_are_small():
    keras.utils.set_random_seed(0)
    widths = (4, 4, 4, 400, 1)
    with swat_scope(0.9, distribution="momentum"):
        model = keras.Sequential([keras.Input((4,)), *map(layers.Dense, widths)])
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(64, 4)), random.normal(size=(64, 1))
    sizes = [16, 16, 16, 1600, 400]
    budget = sum(sizes) - int(0.9 * sum(sizes))
    for _ in range(10):
        model.train_on_batch(inputs, targets)
        kept = sum(w.forward_mask().sum() for w in tk.sparse_weights(model))
        assert budget - 5 <= kept <= budget + 3 * 5 + 0.01 * sum(sizes)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.05, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.SGD(0.05),  # no momentum: an average is kept
    ],
    ids=["sgd", "adam", "none"],
)
def test_swat_m_follows_the_momentum(optimizer, digits):
    images, labels = digits
    model = build(zoo.nested, sparsity=0.8, distribution="momentum")
    model.compile(optimizer(), LOSS)
    weights = tk.sparse_weights(model)
    active = [weight.forward_mask() for weight in weights]
    model.train_on_batch(images[:32], labels[:32])
    made = model.optimizer
    slots = getattr(made, "momentums", None) or getattr(made, "_momentums", None)
    if slots:
        at = [made._get_variable_index(weight._theta) for weight in weights]
        momenta = [slots[i].numpy() for i in at]
    else:
        momenta = [weight.auxiliary["average"].numpy() for weight in weights]
        assert all(np.any(m) for m in momenta)
    means = [np.abs(m[mask]).mean() for m, mask in zip(momenta, active, strict=True)]
    sizes = [weight.dense().size for weight in weights]
    expected = oracle.momentum_budget(means, sizes, sum(sizes) - int(0.8 * sum(sizes)))
    found = [int(weight.forward_mask().sum()) for weight in weights]
    np.testing.assert_allclose(found, expected, atol=1)
    # The activations of a layer are as sparse as its weights have become.
    model.train_on_batch(images[:32], labels[:32])
    for weight, kept, layer in zip(weights, found, layer_densities(model), strict=True):
        assert layer.activations == pytest.approx(kept / weight.dense().size, abs=0.01)


# Accounting and reports


def test_counted_flops_of_a_dense_layer():
    model = build(zoo.nested, sparsity=0.9, activations=0.5)
    cost = count_flops(model)
    for row in cost.rows:
        assert row.sparse.forward / row.dense.forward == pytest.approx(0.1, abs=5e-3)
        third = row.dense.training / 3
        ratios = (row.sparse.input_gradient / third, row.sparse.weight_gradient / third)
        assert ratios == pytest.approx((0.1, 0.5), abs=5e-3)
    assert cost.training_ratio == pytest.approx((0.1 + 0.1 + 0.5) / 3, abs=5e-3)


def test_resnet_50_costs_what_was_published():
    """SWAT-U at 80 %: 77.7 % fewer FLOPs at inference (the authors' table)."""
    with swat_scope(0.8, exempt="first"):
        model = keras.applications.ResNet50(weights=None)
    cost = count_flops(model)
    # Keras's ResNet50 strides in the 1x1 convolutions, the authors' in the 3x3 ones.
    assert 1 - cost.inference_ratio == pytest.approx(0.777, abs=2e-3)
    # All three products are as sparse: where the input gradient of the first layer is
    # counted for the dense network too, training saves what inference does. (The paper
    # prints 76.1 %, and does not say how that is counted.)
    assert cost.training_ratio == pytest.approx(cost.inference_ratio, abs=1e-3)


def test_realised_densities(digits):
    model = build(zoo.functional, sparsity=0.9)
    assert densities(model) == (pytest.approx(0.1, abs=0.01), 1.0)
    model.train_on_batch(digits[0][:32], digits[1][:32])
    for layer in layer_densities(model):
        assert layer.activations == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ValueError, match="Received: every=0"):
        DensityLog("densities.csv", every=0)


@pytest.mark.parametrize(
    ("every", "accumulated", "at_once", "expected"),
    [(1, 2, 1, [1, 2, 3]), (3, None, 4, [4, 6]), (2, None, 1, [2, 4, 6])],
    ids=["accumulated", "at once", "plain"],
)
def test_densities_are_logged_once_a_step(
    every, accumulated, at_once, expected, tmp_path
):
    with swat_scope(0.5):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulated)
    model.compile(optimizer, "mse", steps_per_execution=at_once)
    path = tmp_path / "missing" / "densities.csv"
    log = DensityLog(path, every)
    x, y = np.ones((12, 4)), np.ones((12, 2))
    model.fit(x, y, batch_size=2, callbacks=[log], verbose=0)
    lines = path.read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in lines] == expected


# Storage


def test_packed_storage_trains_bit_for_bit_like_dense(digits):
    def after(storage):
        model = build(zoo.functional, storage=storage)
        model.compile(model.optimizer, LOSS, jit_compile=False)
        model.fit(*digits, batch_size=32, verbose=0, shuffle=False)
        return model

    dense, packed = after("dense"), after("packed")
    for one, other in zip(
        dense.trainable_weights, packed.trainable_weights, strict=True
    ):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_with_packed_storage_no_relu_keeps_its_output(digits):
    """Nor does that of the first layer, which is left dense."""
    model = build(exempt="first", storage="packed")

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(x, training=True))
        return tape.gradient(loss, model.trainable_variables)

    graph = gradients.get_concrete_function(tf.constant(digits[0][:4])).graph
    ops = [op.type for op in graph.get_operations()]
    assert "Relu" in ops
    assert "ReluGrad" not in ops


def test_packed_storage_is_not_compiled_by_xla():
    model = build(storage="packed")
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        model.compile(model.optimizer, LOSS, jit_compile=True)
    assert not model.jit_compile


def test_packed_relu_layers_come_back(tmp_path, digits):
    model = build(zoo.functional, storage="packed")
    model.fit(*digits, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        model.predict(digits[0], verbose=0), loaded.predict(digits[0], verbose=0)
    )
    names = [type(layer).__name__ for layer in tk.strip(model).layers]
    assert "ReLU" in names
    assert "topkast" not in str(keras.saving.serialize_keras_object(tk.strip(model)))


# tf_keras


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_tf_keras(jit_compile, digits, tmp_path):
    tf_keras = pytest.importorskip("tf_keras")
    tf_keras.utils.set_random_seed(0)
    with swat_scope(0.8, topk_period=2):
        model = tf_keras.Sequential(
            [
                tf_keras.layers.Conv2D(8, 3, input_shape=(8, 8, 1)),
                tf_keras.layers.SeparableConv2D(4, 3),
                tf_keras.layers.Flatten(),
                tf_keras.layers.Dense(16, activation="relu"),
                tf_keras.layers.Dense(10),
            ]
        )
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sgd = tf_keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(sgd, loss, jit_compile=jit_compile)
    weights = tk.sparse_weights(model)
    assert [w.shape for w in weights] == [(3, 3, 1, 8), (64, 16), (16, 10)]
    # The last layer's gradient, at the largest of its inputs.
    images, labels = digits[0][:32], digits[1][:32]
    features = tf_keras.Model(model.inputs, model.layers[-2].output)(images)
    with tf.GradientTape() as tape:
        outputs = model(images)
    found = tape.gradient(outputs, model.layers[-1].kernel)
    expected = oracle.keep(features.numpy(), 0.8).T @ np.ones((32, 10))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    before = [w.dense() for w in weights]
    model.fit(images, labels, batch_size=8, verbose=0)
    for weight, theta in zip(weights, before, strict=True):
        assert weight.step == 4 and np.any(
            (weight.dense() != theta) & ~weight.forward_mask()
        )
    model.save(tmp_path / "model.keras")
    loaded = tf_keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0), rtol=1e-5
    )
    assert [w.rule for w in tk.sparse_weights(loaded)] == [w.rule for w in weights]


def test_a_variable_as_input_is_an_activation_like_any_other():
    with swat_scope(0.9):
        layer = keras.layers.Dense(4)
    value = np.random.default_rng(0).standard_normal([1, 8]).astype(np.float32)
    layer(value)

    def reached(inputs):
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(layer(inputs))
        return np.count_nonzero(tape.gradient(y, layer.trainable_variables[0]))

    assert reached(tf.constant(value)) == 4
    assert reached(tf.Variable(value)) == reached(keras.Variable(value)) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"storage": "packed"},
        {"exempt": "first"},
        {"exempt": "first", "storage": "packed"},
        {"activations": 0.5, "errors": 0.5},
        {"forward": (), "backward": ("weights",)},
    ],
    ids=str,
)
def test_a_sparse_tensor_as_input_is_its_dense_twin(arguments):
    random = np.random.default_rng(0)
    values = random.standard_normal([8, 6]).astype(np.float32)
    values[values < 0.3] = 0
    targets = random.standard_normal([8, 3]).astype(np.float32)

    def fitted(sparse):
        keras.utils.set_random_seed(0)
        with swat_scope(0.8, **arguments):
            inputs = keras.Input((6,), sparse=sparse)
            hidden = layers.Dense(5, activation="relu")(inputs)
            model = keras.Model(inputs, layers.Dense(3)(hidden))
        model.compile("sgd", "mse", jit_compile=False)
        given = tf.sparse.from_dense(values) if sparse else tf.constant(values)
        data = tf.data.Dataset.from_tensors((given, targets)).repeat(2)
        model.fit(data, verbose=0)
        return model, model(given)

    (dense, expected), (model, outputs) = fitted(False), fitted(True)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(model.weights, dense.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_options_of_weights_around_another_scope_are_refused():
    def build(**arguments):
        with swat_scope(0.9, **arguments), tk.topkast_scope(fwd=0.9, bwd=0.8):
            return zoo.sequential()

    assert tk.sparse_weights(build())
    with pytest.raises(ValueError, match="none of the weights is its own"):
        build(structured="channel")
    with pytest.raises(ValueError, match="none of the weights is its own"):
        build(exempt="first")


def test_a_scope_object_opens_a_scope_each_time():
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
