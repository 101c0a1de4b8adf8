"""Which weights a scope makes sparse, their sparsities, and their initial sets."""

import keras
import numpy as np
import pytest
from keras import layers

import topkast_tf as tk
from tests import zoo
from tests.small_models import scope, three_layers


def paths(model):
    return [weight.path.split("/")[-2] for weight in tk.sparse_weights(model)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, ["d30", "d20", "d10"]),
        ({"exempt": "d20"}, ["d30", "d10"]),
        ({"exempt": ("first",)}, ["d20", "d10"]),
        ({"exempt": ("first", "last")}, ["d20"]),
        ({"exempt": ["d30", "first"]}, ["d10"]),
        ({"include": "d[12]0/kernel"}, ["d20", "d10"]),
        ({"include": "kernel", "exempt": "d10"}, ["d30", "d20"]),
    ],
)
def test_exempt_and_include(arguments, expected):
    with scope(**arguments):
        model = three_layers()
    assert [row.path.split("/")[-2] for row in tk.summary(model).rows] == expected


def test_exempt_last_is_dense():
    with scope(exempt="last", exploration=1.0):
        model = three_layers()
    assert paths(model) == ["d30", "d20"]
    last = model.layers[-1]
    np.testing.assert_array_equal(last(np.eye(20)), last.kernel.numpy())
    assert [float(loss) for loss in model.losses][-1] == 0
    assert tk.summary(model).left_dense[-1][2] == "`exempt` names the last"


def test_embeddings_only_on_request():
    def build():
        return keras.Sequential(
            [keras.Input((4,), dtype="int32"), layers.Embedding(30, 8), layers.Dense(4)]
        )

    with scope():
        model = build()
    assert paths(model) == ["dense"]
    [(path, _, why)] = tk.summary(model).left_dense
    assert "embedding" in path and why.startswith("not a matmul or convolution kernel")
    with scope(include="embeddings"):
        model = build()
    assert [path.split("_")[0] for path in paths(model)] == ["embedding"]
    [weight] = tk.sparse_weights(model)
    tokens = np.arange(4)[None]
    np.testing.assert_array_equal(model.layers[0](tokens)[0], weight.effective()[:4])


def test_biases_and_norms_stay_dense_and_are_not_mentioned():
    with scope():
        model = zoo.sequential()
    table = tk.summary(model)
    assert table.left_dense == () and len(table.rows) == 2


def test_layers_made_outside_are_reported():
    outside = layers.Dense(5)
    with scope():
        model = keras.Sequential([keras.Input((4,)), outside, layers.Dense(3)])
    [(path, shape, why)] = tk.summary(model).left_dense
    assert (path, shape) == ("sequential/dense/kernel", (4, 5)) and "outside" in why


def test_distributions():
    shapes = {"d30": 600, "d20": 600, "d10": 200}
    with scope(distribution="erk"):
        rows = tk.summary(three_layers()).rows
    # density ~ (in + out) / (in * out): 50/600, 50/600, 30/200; total 140 of 1400.
    scale = 140 / (50 + 50 + 30)
    for row, density in zip(rows, (50 / 600, 50 / 600, 30 / 200), strict=True):
        np.testing.assert_allclose(1 - row.fwd, scale * density, rtol=1e-9)
    with scope(distribution={"d20": 0.5, "d10": (0.3, 0.1)}):
        rows = tk.summary(three_layers()).rows
    assert [(r.fwd, r.bwd) for r in rows] == [(0.9, 0.8), (0.5, 0.5), (0.3, 0.1)]

    def by_size(given):
        sizes = {p.split("/")[-2]: int(np.prod(s)) for p, s in given.items()}
        assert sizes == shapes
        return {p: 0.5 if np.prod(s) < 500 else 0.9 for p, s in given.items()}

    with scope(distribution=by_size):
        rows = tk.summary(three_layers()).rows
    assert [row.kept for row in rows] == [60, 60, 100]


def test_same_model_samples_the_same_sets():
    def codes():
        keras.utils.set_random_seed(0)
        with scope(backward="random"):
            model = keras.Sequential([keras.Input((20,)), layers.Dense(10)])
        return tk.sparse_weights(model)[0].codes()

    np.testing.assert_array_equal(codes(), codes())


def test_refresh_selects_from_current_theta():
    with scope(refresh_every=1000):
        model = three_layers()
    model.compile("sgd", "mse")
    model.train_on_batch(np.ones((4, 20)), np.ones((4, 10)))
    [weight, *_] = tk.sparse_weights(model)
    theta = weight.dense()[::-1].copy()
    model.layers[0].kernel.assign(theta)  # after the first step the sets stay
    old = weight.forward_mask()
    assert np.abs(theta)[old].min() < np.abs(theta)[~old].max()
    tk.refresh(model)
    new = weight.forward_mask()
    assert np.abs(theta)[new].min() >= np.abs(theta)[~new].max()


def test_sets_follow_weights_that_are_set_before_training():
    with scope():
        model = three_layers()
    theta = np.random.default_rng(1).standard_normal((20, 30)).astype("float32")
    model.layers[0].kernel.assign(theta)
    [weight, *_] = tk.sparse_weights(model)
    mask = weight.forward_mask()
    assert np.abs(theta)[mask].min() >= np.abs(theta)[~mask].max()


# Weights with nothing to select.


def test_a_kernel_without_entries_is_left_dense():
    def build(*widths):
        with scope():
            return keras.Sequential(
                [keras.Input((0,)), *(layers.Dense(n, name=f"d{n}") for n in widths)]
            )

    model = build(10, 2)
    [(path, _, why)] = tk.summary(model).left_dense
    assert path.endswith("d10/kernel") and why == "its shape (0, 10) has no entries"
    assert model(np.ones((3, 0))).shape == (3, 2)
    with pytest.raises(ValueError, match="to sparsify.*d10/kernel.*has no entries"):
        build(10)


def test_exempt_last_of_the_only_weight_is_refused():
    with pytest.raises(ValueError, match="beside the last weight.*dense/kernel alone"):
        with scope(exempt="last"):
            keras.Sequential([keras.Input((8,)), layers.Dense(4, name="dense")])
