"""DSG against its definition in NumPy, and in training."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import topkast_tf as tk
from swat_tf import double_mask, dsg_scope
from swat_tf.dsg import DynamicSparseGraph
from swat_tf.largest_outputs import largest_outputs
from swat_tf.projection import estimated_product, random_signs, reduced_dimension
from tests.swat import dsg_oracle
from topkast_tf.core.blocks import MatrixView
from topkast_tf.variables.counters import Counter

RNG = np.random.default_rng(0)
THRESHOLDS = pytest.mark.parametrize("threshold", ["first", "each"])


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def layer_of(scope, layer, shape):
    """A copy of a layer that is made in a scope, with a bias that is not zero."""
    with scope:
        layer = type(layer).from_config(layer.get_config())
        model = keras.Sequential([keras.Input(shape), layer])
    layer.bias.assign(normal(*layer.bias.shape) / 2)
    return model, layer


def projection_of(model, dimension):
    """R of a model's one weight."""
    [weight] = tk.sparse_weights(model)
    seed = weight.replica().counters.numpy()[Counter.SEED]
    signs = random_signs(weight.view.rows, dimension, tf.constant(seed))
    return math.sqrt(3) * signs.numpy().T


def gradients(layer, x, dy):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    kernel, bias = layer.kernel.value, layer.bias.value
    return [
        y.numpy(),
        *(
            tf.convert_to_tensor(g).numpy()
            for g in tape.gradient(y, (x, kernel, bias), dy)
        ),
    ]


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_a_case_by_hand():
    """Two inputs, three outputs, R = sqrt(3) [1, -1] and k' = 1."""
    a, w = tf.constant([[2.0, 1.0]]), tf.constant([[1.0, 0.0, 4.0], [3.0, -1.0, 3.0]])
    view = MatrixView((2, 3))
    scores = estimated_product(
        tf.matmul, a, w, tf.constant([[1.0], [-1.0]]), view, [1, 3]
    )
    # f(a) = sqrt(3) and f(w) = sqrt(3) [-2, 1, 1]; exact are 5, -1 and 11.
    np.testing.assert_allclose(scores, [[-6.0, 3.0, 3.0]], atol=1e-6)
    mask = largest_outputs(scores, 0.5, "each")  # 2 of 3
    np.testing.assert_array_equal(mask, [[False, True, True]])


@THRESHOLDS
@pytest.mark.parametrize("dimension", [3, 12], ids=["projected", "exact"])
def test_dense_layer_equals_the_definition(threshold, dimension):
    scope = dsg_scope(0.7, dimension=dimension, threshold=threshold)
    model, layer = layer_of(scope, keras.layers.Dense(10), (12,))
    x, dy = normal(5, 12), normal(5, 10)
    r = projection_of(model, dimension) if dimension < 12 else None
    y, mask, *expected = dsg_oracle.layer(
        x, layer.kernel.numpy(), layer.bias.numpy(), r, 0.7, threshold, dy
    )
    found = gradients(layer, x, dy)
    assert_close(found, [y, *expected])
    np.testing.assert_array_equal(found[0] != 0, mask)
    counts = mask.sum(1)
    assert counts[0] == 3 and (set(counts) == {3}) == (threshold == "each")


@THRESHOLDS
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_equals_the_definition(threshold, padding, stride):
    scope = dsg_scope(0.8, dimension=5, threshold=threshold)
    conv = keras.layers.Conv2D(6, (3, 2), stride, padding)
    model, layer = layer_of(scope, conv, (7, 6, 3))
    x = normal(3, 7, 6, 3)
    dy = normal(*layer(x).shape)
    found, back = dsg_oracle.patches(x, (3, 2), stride, padding)
    w, r = layer.kernel.numpy(), projection_of(model, 5)
    y, mask, dx, dw, db = dsg_oracle.layer(
        found, w.reshape(-1, 6), layer.bias.numpy(), r, 0.8, threshold, dy
    )
    # The window's axes come before the channels in a patch, as in the kernel.
    assert_close(gradients(layer, x, dy), [y, back(dx), dw.reshape(w.shape), db])
    assert mask[0].sum() == dsg_oracle.kept(mask[0].size, 0.8)


def test_einsum_with_two_output_axes_equals_the_definition():
    einsum = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de")
    scope = dsg_scope(0.5, dimension=3, threshold="each")
    model, layer = layer_of(scope, einsum, (3, 8))
    x, dy = normal(2, 3, 8), normal(2, 3, 2, 4)
    w, b, r = layer.kernel.numpy(), layer.bias.numpy(), projection_of(model, 3)
    y, _, dx, dw, db = dsg_oracle.layer(
        x, w.reshape(8, 8), b.ravel(), r, 0.5, "each", dy.reshape(2, 3, 8)
    )
    expected = [y.reshape(dy.shape), dx, dw.reshape(w.shape), db.reshape(b.shape)]
    assert_close(gradients(layer, x, dy), expected)


def test_gradients_equal_finite_differences_of_the_same_outputs():
    scope = dsg_scope(0.6, dimension=4, threshold="each")
    _, layer = layer_of(scope, keras.layers.Dense(8), (10,))
    x, dy, step = normal(2, 10), normal(2, 8), 1e-4
    mask = layer(x).numpy() != 0
    _, dx, dw, _ = gradients(layer, x, dy)
    w, b = layer.kernel.numpy().astype(float), layer.bias.numpy()

    def loss(x, w):
        return (np.where(mask, x @ w + b, 0) * dy).sum()

    for index in np.ndindex(x.shape):
        moved = x.astype(float)
        moved[index] += step
        slope = (loss(moved, w) - loss(x.astype(float), w)) / step
        assert slope == pytest.approx(dx[index], abs=1e-4)
    for index in np.ndindex(w.shape):
        moved = w.copy()
        moved[index] += step
        slope = (loss(x, moved) - loss(x, w)) / step
        assert slope == pytest.approx(dw[index], abs=1e-4)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["tf", "xla"])
@THRESHOLDS
def test_selection_equals_a_sort_also_with_ties_and_signs(threshold, jit_compile):
    scores = RNG.integers(-3, 3, size=(6, 5, 4)).astype("float32")
    scores[scores == 0] *= -1  # -0 ties with 0
    scores[1, :, 0] = 0
    for sparsity in (0.0, 0.35, 0.9):
        select = tf.function(largest_outputs, jit_compile=jit_compile)
        found = select(tf.constant(scores), sparsity, threshold)
        expected = dsg_oracle.mask(scores, sparsity, threshold)
        expected |= sparsity == 0  # all are kept, whatever the threshold
        np.testing.assert_array_equal(found, expected)


def test_selection_of_unknown_and_empty_batches_and_of_nan():
    select = tf.function(
        lambda scores: largest_outputs(scores, 0.5, "first"),
        input_signature=[tf.TensorSpec([None, None])],
    )
    np.testing.assert_array_equal(select([[1.0, 2, 3, 4]]), [[0, 0, 1, 1]])
    assert select(np.zeros((0, 4))).shape == (0, 4)
    nan = tf.constant([[1.0, -math.nan, 3.0, math.nan]])
    np.testing.assert_array_equal(select(nan), [[0, 1, 0, 1]])


def test_projection_has_its_distribution_and_dimension():
    signs = random_signs(600, 200, tf.constant(7)).numpy()
    for sign, share in ((-1, 1 / 6), (0, 2 / 3), (1, 1 / 6)):
        assert np.mean(signs == sign) == pytest.approx(share, abs=0.005)
    assert np.any(signs != random_signs(600, 200, tf.constant(8)).numpy())
    # 4 ln(256) / (0.125 - 0.041667) = 266.2
    assert reduced_dimension(256, 0.5) == 266 and reduced_dimension(1, 0.5) == 1


def test_scores_are_unbiased_and_exact_for_an_orthogonal_projection():
    a, w, view = normal(4, 8), normal(8, 5), MatrixView((8, 5))

    def scores(signs):
        return estimated_product(tf.matmul, a, w, signs, view, [4, 5]).numpy()

    # Rows of a Hadamard matrix: R^T R is a multiple of the identity.
    signs = np.array([[1.0]])
    for _ in range(3):
        signs = np.block([[signs, signs], [signs, -signs]])
    exact = a @ w
    np.testing.assert_allclose(scores(signs.astype("float32")), 3 * exact, atol=1e-4)
    mean = np.mean([scores(random_signs(8, 64, tf.constant(n))) for n in range(300)], 0)
    # The variance of one score is (|a|^2 |w|^2 + (a w)^2) / 64 (Li et al. 2006, s = 3).
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(w, axis=0)
    deviation = np.sqrt((norms**2 + exact**2) / 64 / 300)
    assert np.all(np.abs(mean - exact) < 5 * deviation)


def classifier(shape=(8, 8, 1), filters=12):
    inputs = keras.Input(shape)
    x = keras.layers.Conv2D(filters, 3, activation="relu")(inputs)
    x = double_mask(keras.layers.BatchNormalization()(x), x)
    x = keras.layers.Dense(24, "relu")(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def trained(digits, epochs=1, threshold="first", **compile_arguments):
    keras.utils.set_random_seed(0)
    with dsg_scope(0.5, dimension=6, threshold=threshold, exempt="last"):
        model = classifier()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, **compile_arguments)
    history = model.fit(*digits, 32, epochs, shuffle=False, verbose=0)
    return model, history.history["loss"]


def test_trains_and_loads_and_keeps_the_second_mask(digits, tmp_path):
    model, losses = trained(digits, epochs=4)
    assert losses[-1] < 0.6 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(digits[0]), loaded(digits[0]))
    of_both = keras.Model(model.input, [model.layers[1].output, model.layers[-4].input])
    activations, masked = (made.numpy() for made in of_both(digits[0]))
    assert np.all(masked[activations == 0] == 0) and np.any(masked != 0)
    # Weights are not pruned.
    assert all(w.forward_sparsity == 0 for w in tk.sparse_weights(model))


def test_resumed_run_equals_an_uninterrupted_one(digits, tmp_path):
    whole, _ = trained(digits)
    first, _ = trained([part[:128] for part in digits])
    first.save(tmp_path / "half.keras")
    second = keras.models.load_model(tmp_path / "half.keras")
    second.fit(*(part[128:] for part in digits), 32, shuffle=False, verbose=0)
    for one, other in zip(whole.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_xla_trains_as_the_graph_does(digits):
    one, _ = trained(digits, threshold="each", jit_compile=False)
    other, _ = trained(digits, threshold="each", jit_compile=True)
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_another_seed_selects_others_and_loaded_weights_bring_theirs(tmp_path):
    def made(seed):
        keras.utils.set_random_seed(0)
        scope = tk.sparse_scope("dsg", sparsity=0.8, dimension=4, seed=seed)
        with scope:
            return keras.Sequential([keras.Input((30,)), keras.layers.Dense(20)])

    x, one, other = normal(6, 30), made(0), made(1)
    assert np.any((one(x).numpy() != 0) != (other(x).numpy() != 0))
    one.save_weights(tmp_path / "one.weights.h5")
    other.load_weights(tmp_path / "one.weights.h5")
    np.testing.assert_array_equal(one(x), other(x))


def test_mixed_precision_ranks_in_float32():
    scope = dsg_scope(0.5, dimension=4, threshold="each")
    layer = keras.layers.Dense(16, dtype="mixed_bfloat16")
    model, layer = layer_of(scope, layer, (20,))
    x = tf.cast(normal(4, 20), tf.bfloat16)
    y = layer(x)
    w, b = (tf.cast(v.numpy(), tf.bfloat16) for v in (layer.kernel, layer.bias))
    exact = [tf.cast(v, tf.float32).numpy() for v in (x, w, b)]
    zero = np.zeros((4, 16))
    _, mask, *_ = dsg_oracle.layer(*exact, projection_of(model, 4), 0.5, "each", zero)
    assert y.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(y, tf.float32).numpy() != 0, mask)


def test_counted_flops_have_the_search_and_the_selected_outputs():
    with dsg_scope(0.75, dimension=16, exempt="last"):
        model = keras.Sequential(
            [
                keras.Input((8, 8, 4)),
                keras.layers.Conv2D(32, 3),
                keras.layers.Flatten(),
                keras.layers.Dense(10),
            ]
        )
    report = tk.count_flops(model)
    conv, last = 2 * 36 * 36 * 32, 2 * 36 * 32 * 10
    assert report.dense.forward == conv + last  # without the search
    assert report.sparse.forward == pytest.approx(conv * (16 / 36 + 0.25) + last)
    assert report.sparse.weight_gradient == pytest.approx(0.25 * conv + last)
    rule = DynamicSparseGraph(0.75, dimension=36)
    [weight] = [w for w in tk.sparse_weights(model) if not w.exempt]
    assert rule.product_sparsities(weight) == (0.0, 0.75, 0.75)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (keras.layers.Conv2D(4, 3, groups=2), (8, 8, 4)),
        (keras.layers.DepthwiseConv2D(3), (8, 8, 4)),
        (keras.layers.Conv2DTranspose(4, 3), (8, 8, 4)),
        (keras.layers.Conv3D(4, 3), (4, 4, 4, 2)),
        (keras.layers.EinsumDense("abc,dc->abd", (3, 4)), (3, 8)),
        (keras.layers.EinsumDense("abc,cd->adb", (4, 3)), (3, 8)),
    ],
)
def test_other_products_are_left_dense_with_a_reason(layer, shape):
    config = layer.get_config()
    with dsg_scope(0.5):
        made = [type(layer).from_config(config), keras.layers.Flatten()]
        model = keras.Sequential([keras.Input(shape), *made, keras.layers.Dense(4)])
    assert len(tk.sparse_weights(model)) == 1
    assert "DSG searches the outputs of products" in str(tk.summary(model))
    assert np.all(model.layers[0](normal(2, *shape)).numpy() != 0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"distribution": "erk"}, "Expected distribution='uniform'"),
        ({"storage": "packed"}, "Expected storage='dense'"),
        ({"epsilon": 0.5, "dimension": 4}, "Expected `epsilon`, from which"),
        ({"epsilon": 1.0}, r"`epsilon` must be an error in \(0, 1\)"),
        ({"dimension": 0}, "`dimension` must be an integer of at least 1"),
        ({"threshold": "batch"}, "`threshold` must be one of"),
        ({"kernels": "fast"}, "Expected kernels in"),
    ],
)
def test_arguments_without_a_meaning_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        tk.sparse_scope("dsg", sparsity=0.9, **arguments)


def test_native_kernels_weights_of_others_and_strip_are_refused():
    with dsg_scope(0.5, kernels="native"):
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    with pytest.raises(
        ValueError, match="no native kernel for these operands of 'dsg'"
    ):
        model(normal(2, 8))
    with pytest.raises(ValueError, match="those of 'dsg' select outputs"):
        tk.strip(model)
    inside = tk.topkast_scope(0.9, 0.8)
    with pytest.raises(ValueError, match="the weights of a `dsg_scope` itself"):
        with dsg_scope(0.5), inside:
            keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
