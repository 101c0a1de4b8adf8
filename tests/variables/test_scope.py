"""The scope: which weights it takes, how it nests, and what it says to bad input."""

import gc
import html.parser
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from tests import zoo
from topkast_tf.analysis.summary import Summary, WeightRow


def scope(**arguments):
    return tk.topkast_scope(**{"fwd": 0.9, "bwd": 0.8, **arguments})


def three_layers():
    return keras.Sequential(
        [keras.Input((20,)), *(layers.Dense(n, name=f"d{n}") for n in (30, 20, 10))]
    )


def paths(model):
    return [weight.path.split("/")[-2] for weight in tk.sparse_weights(model)]


# Which weights.


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


def test_frozen_layers_are_counted():
    with scope():
        model = three_layers()
    model.trainable = False
    table = tk.summary(model)
    assert (table.kept_parameters, table.dense_parameters) == (140, 1400)


def test_nothing_is_sparse_in_a_dense_model():
    assert tk.summary(three_layers()).forward_sparsity == 0.0


def test_lora_is_refused():
    with scope():
        model = three_layers()
    with pytest.raises(ValueError, match="`strip` the model first.*Received.*d30"):
        model.layers[0].enable_lora(2)


def test_the_same_model_twice_draws_the_same_sets():
    def codes():
        keras.utils.set_random_seed(0)
        with scope(backward="random"):
            model = keras.Sequential([keras.Input((20,)), layers.Dense(10)])
        return tk.sparse_weights(model)[0].codes()

    np.testing.assert_array_equal(codes(), codes())


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


def test_summary_counts_what_the_forward_pass_uses():
    with scope():
        model = three_layers()
    table = tk.summary(model)
    effective = sum(int((w.effective() != 0).sum()) for w in tk.sparse_weights(model))
    assert effective == 60 + 60 + 20 == sum(row.kept for row in table.rows)
    assert table.dense_parameters == 1400 + 60
    assert table.kept_parameters == 140 + 60
    assert table.state_bytes == 1400 + 3 * 64
    np.testing.assert_allclose(table.forward_sparsity, 0.9)
    np.testing.assert_allclose(table.backward_sparsity, 0.8)
    assert "140" in str(table) and "1,400" in str(table)


def test_summary_says_where_the_zeros_are():
    with scope():
        model = three_layers()
    text = str(tk.summary(model))
    assert "`kernel.numpy()` show theta;" in text
    assert "`sparse_weights(model)[i].effective()` and `strip` show alpha" in text
    assert max(map(len, text.splitlines())) <= 100
    assert np.all(model.layers[0].kernel.numpy() != 0)  # as the line says
    assert "theta" not in str(tk.summary(three_layers()))


class _Tables(html.parser.HTMLParser):
    """Reads the texts of cells, and of what stands between the tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tables, self.between = [], [], []
        self.feed(text)
        assert not self.open  # every element is closed

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data
        elif data.strip():
            self.between.append(data)


def test_summary_is_a_table_in_a_notebook():
    with scope(exempt="d20"):
        model = three_layers()
    table = tk.summary(model)
    page = _Tables(table._repr_html_())
    sparse, dense = page.tables
    header, *rows, total = sparse
    assert header[2:] == ["fwd", "achieved", "bwd", "achieved", "kept", "dense"]
    assert [row[0] for row in rows] == [row.path for row in table.rows]
    assert rows[0][1:] == ["20x30", "0.9", "0.9000", "0.8", "0.8000", "60", "600"]
    assert total[3:] == ["0.9000", "", "0.8000", "80", "800"]
    [(path, shape, why)] = table.left_dense
    assert dense[1:] == [[path, "x".join(map(str, shape)), why]]
    totals, zeros = page.between
    assert totals in str(table)
    assert zeros in str(table).replace("\n", " ")


def test_paths_are_escaped_in_a_notebook():
    path = '<script>alert("1 & 2")</script>'
    row = WeightRow(path, (2, 2), 0.5, 0.5, 0.5, 0.5, 2, 4)
    text = Summary((row,), ((path, (2, 2), path),), 4, 2, 0)._repr_html_()
    assert "<script" not in text
    sparse, dense = _Tables(text).tables
    assert sparse[1][0] == dense[1][0] == dense[1][2] == path


# Scopes themselves.


def test_inner_scope_wins_and_outer_is_restored():
    with scope():
        a = layers.Dense(10)
        with scope(fwd=0.5, bwd=0.5):
            b = layers.Dense(10)
        c = layers.Dense(10)
        model = keras.Sequential([keras.Input((10,)), a, b, c])
    assert [weight.fwd for weight in tk.sparse_weights(model)] == [0.9, 0.5, 0.9]


@pytest.mark.parametrize(
    "arguments",
    [
        {"exempt": "first"},
        {"exempt": "last"},
        {"exempt": "backward_.*/kernel"},
        {"distribution": "erk"},
        {"distribution": "global"},
    ],
    ids=str,
)
def test_what_a_wrapper_copies_belongs_to_the_scope(arguments, tmp_path):
    with scope(**arguments) as opened:
        original = layers.LSTM(4, name="cell")  # its user may hold on to it
        model = keras.Sequential(
            [
                keras.Input((5, 8)),
                layers.Dense(8),
                layers.Bidirectional(original),
                layers.Dense(3),
            ]
        )
    assert opened._finished
    assert tk.sparse_weights(model) == [w for w in opened.weights if not w.exempt]
    rows = tk.summary(model).rows
    assert sum("_cell/" in row.path for row in rows) == 4 - ("backw" in str(arguments))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    others = [loaded]
    if arguments.get("distribution") != "global":
        others.append(keras.models.clone_model(model))
        others[1].set_weights(model.get_weights())
    for other in others:
        for one, same in zip(
            tk.sparse_weights(model), tk.sparse_weights(other), strict=True
        ):
            assert (one.fwd, one.bwd) == (same.fwd, same.bwd)
        x = np.random.default_rng(0).normal(size=(2, 5, 8))
        np.testing.assert_array_equal(model(x), other(x))
    if arguments.get("distribution") == "global":
        weights = tk.sparse_weights(loaded)
        assert weights[0].peers() == weights


def test_a_copy_that_leaves_its_scope_unbuilt_is_refused():
    with scope(exempt="first"):
        unbuilt = layers.Dense(3)
        config, cls = unbuilt.get_config(), type(unbuilt)
        keras.Sequential([keras.Input((4,)), layers.Dense(5), layers.Dense(2)])
    with pytest.raises(ValueError, match="built before it is saved"):
        cls.from_config(config)


def test_an_exception_closes_the_scope():
    original = layers.Layer.__new__
    with pytest.raises(RuntimeError, match="mine"), scope():
        raise RuntimeError("mine")
    assert layers.Layer.__new__ is original
    model = three_layers()
    assert tk.sparse_weights(model) == []
    assert type(model.layers[0]) is layers.Dense


def test_other_threads_are_not_affected():
    made = []
    with scope():
        thread = threading.Thread(target=lambda: made.append(three_layers()))
        thread.start()
        thread.join()
        three_layers()
    assert tk.sparse_weights(made[0]) == []


def test_refresh_selects_from_theta_as_it_is():
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


# Bad input: one clear sentence each.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fwd": 1.0}, r"fwd=1\.0"),
        ({"fwd": -0.1}, r"fwd=-0\.1"),
        ({"bwd": 1.5}, r"bwd=1\.5"),
        ({"fwd": float("nan")}, "nan"),
        ({"fwd": "0.9"}, "'0.9'"),
        ({"fwd": 0.8, "bwd": 0.9}, r"fwd=0\.8, bwd=0\.9"),
        ({"distribution": "erdos"}, "erdos"),
        ({"distribution": 3}, "3"),
        ({"refresh_every": 0}, "refresh_every=0"),
        ({"refresh_every": 1.5}, r"refresh_every=1\.5"),
        ({"stop_exploring_at": -1}, "stop_exploring_at=-1"),
        ({"exploration": -1e-4}, "exploration=-0.0001"),
        ({"exploration_norm": "l3"}, "exploration_norm='l3'"),
        ({"backward": "all"}, "backward='all'"),
        ({"block": 4}, "block=4"),
        ({"block": (4, 0)}, r"block=\(4, 0\)"),
        ({"block_reduce": "mean"}, "block_reduce='mean'"),
        ({"exempt": "("}, r"'\('"),
        ({"exempt": 5}, "exempt=5"),
        ({"refresh_every": 10**30}, "refresh_every=10"),
        ({"seed": "a"}, "seed='a'"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=f"(?s)Received: .*{message}"):
        scope(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"exempt": "d99"},
        {"exempt": ("d30", "d99")},
        {"include": ("d30", "d99")},
        {"distribution": {"d99": 0.5}},
    ],
)
def test_a_regex_that_matches_nothing(arguments):
    with pytest.raises(ValueError, match="(?s)d30.*d99|d99.*d30"), scope(**arguments):
        three_layers()


def test_a_scope_that_finds_nothing():
    with (
        pytest.raises(ValueError, match="something to sparsify.*Received.*none"),
        scope(),
    ):
        pass
    with pytest.raises(ValueError, match="something to sparsify.*embedding"), scope():
        keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(3, 2)])


def test_a_late_built_model_with_nothing_to_sparsify():
    with scope():
        model = keras.Sequential([layers.BatchNormalization(), layers.Embedding(5, 2)])
    with pytest.raises(ValueError, match="something to sparsify"):
        model(np.zeros((2, 3)))


def test_what_is_wrong_with_a_scope_is_not_raised_by_another_model():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.aux = layers.Dense(3), layers.Dense(2, name="aux")

        def call(self, x):
            return self.used(x)

    with scope(exempt="aux") as opened:
        model = Own()
    x = np.zeros((2, 4))
    model(x)  # and `aux` is never built
    model.aux, used = None, model.used
    del model
    gc.collect()
    keras.Sequential([layers.Dense(3)])(x)
    assert not opened._finished
    with pytest.raises(ValueError, match="each regex of `exempt`.*'aux'"):
        used(x)


def test_an_unreachable_target_names_the_highest():
    with (
        pytest.raises(ValueError, match=r"0\.97142.*Received"),
        scope(fwd=0.99, bwd=0.9, distribution="erk"),
    ):
        keras.Sequential(
            [keras.Input((5,)), layers.Dense(10), layers.Dense(2, name="x")]
        )


def test_nan_at_a_refresh():
    with scope():
        model = three_layers()
    before = tk.sparse_weights(model)[0].codes()
    theta = model.layers[0].kernel.numpy()
    theta[3, 4] = np.nan
    with pytest.raises(Exception, match="Expected finite weights.*d30/kernel"):
        model.layers[0].kernel.assign(theta)
    with pytest.raises(Exception, match="Expected finite weights.*d30/kernel"):
        tk.refresh(model)
    with pytest.raises(ValueError, match="Expected finite weights.*d30/kernel"):
        tk.summary(model)
    sets = tk.sparse_weights(model)[0].sets.numpy()
    np.testing.assert_array_equal(sets, before)


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_nan_while_training(jit_compile):
    with scope(refresh_every=2):
        model = three_layers()
    model.compile("sgd", "mse", jit_compile=jit_compile)
    x, y = np.full((4, 20), np.nan, "float32"), np.ones((4, 10))
    if jit_compile:  # compiled code cannot raise: the next look from Python does
        model.fit(np.repeat(x, 2, 0), np.repeat(y, 2, 0), batch_size=4, verbose=0)
        with pytest.raises(ValueError, match="Expected finite weights"):
            tk.summary(model)
    else:
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected finite"):
            model.fit(np.repeat(x, 2, 0), np.repeat(y, 2, 0), batch_size=4, verbose=0)


def test_a_compiled_step_names_the_weight_that_holds_nan():
    with scope():
        model = three_layers()
    sgd = keras.optimizers.SGD(0.1)
    kernels = model.trainable_variables[::2]
    sgd.build(kernels)

    @tf.function
    def step(gradients):
        sgd.apply(gradients, kernels)

    gradients = [tf.zeros(kernel.shape) for kernel in kernels]
    gradients[1] *= np.nan
    with pytest.raises(tf.errors.InvalidArgumentError, match="Received: NaN in") as e:
        step(gradients)
    paths = [weight.path for weight in tk.sparse_weights(model)]
    assert [path in str(e.value) for path in paths] == [False, True, False]


def test_strip_and_refresh_refuse_what_is_not_sparse_or_no_model():
    with pytest.raises(TypeError, match="Received: 3"):
        tk.strip(3)
    with pytest.raises(TypeError, match="Received: 3"):
        tk.sparse_weights(3)
    with pytest.raises(ValueError, match="nothing is sparse"):
        tk.refresh(three_layers())


def test_strip_refuses_a_model_without_a_configuration():
    class NoConfig(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def call(self, x):
            return self.inner(x)

    with scope():
        model = NoConfig(layers.Dense(4))
    model(np.zeros((2, 8)))
    with pytest.raises(ValueError, match="`get_config`.*Received"):
        tk.strip(model)


# One scope object, used more than once.


def test_a_scope_object_opens_a_scope_each_time():
    again = scope(exempt="first")
    models, opened = [], []
    for _ in range(2):
        with again as current:
            models.append(three_layers())
        opened.append(current)
    assert opened[0] is not opened[1]
    for model, current in zip(models, opened, strict=True):
        assert tk.sparse_weights(model) == current.weights
        assert len(tk.summary(model).rows) == 2


def test_a_scope_object_within_itself():
    again = scope()
    with again as outer:
        first = layers.Dense(4)
        with again as inner:
            second = layers.Dense(4)
        third = layers.Dense(4)
        model = keras.Sequential([keras.Input((8,)), first, second, third])
    a, b, c = tk.sparse_weights(model)
    assert outer.weights == [a, c] and inner.weights == [b]


def test_a_scope_object_is_closed_after_an_error():
    again = scope()
    for _ in range(2):
        with pytest.raises(KeyError), again:
            raise KeyError
    assert not tk.summary(three_layers()).rows


def test_a_scope_object_in_two_threads():
    again, both, models, opened = scope(), threading.Barrier(2), {}, {}

    def build(name):
        with again as opened[name]:
            both.wait()
            models[name] = layers.Dense(4)
            models[name].build((None, 8))
            both.wait()

    threads = [threading.Thread(target=build, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in "ab":
        assert tk.sparse_weights(models[name]) == opened[name].weights


def test_a_scope_is_a_decorator():
    @scope(exempt="last")
    def build(width):
        return keras.Sequential(
            [keras.Input((8,)), layers.Dense(width), layers.Dense(2)]
        )

    models = [build(4), build(6)]
    assert [w.shape for m in models for w in tk.sparse_weights(m)] == [(8, 4), (8, 6)]


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


def test_exempt_last_of_one_weight():
    with pytest.raises(ValueError, match="beside the last weight.*dense/kernel alone"):
        with scope(exempt="last"):
            keras.Sequential([keras.Input((8,)), layers.Dense(4, name="dense")])


# What Keras does with a dense layer.


@pytest.mark.parametrize("name", ["Dense", "EinsumDense", "Conv2D", "LSTM"])
def test_a_dense_layer_from_the_configuration_of_a_sparse_one(name):
    arguments = {"EinsumDense": ("ab,bc->ac", 4), "Conv2D": (4, 3)}.get(name, (4,))
    cls = getattr(layers, name)
    with scope():
        sparse = cls(*arguments, name="layer")
    dense = cls.from_config(sparse.get_config())
    assert type(dense) is cls
    assert dense.get_config() == cls(*arguments, name="layer").get_config()
    assert type(type(sparse).from_config(sparse.get_config())) is type(sparse)


def test_a_users_layer_from_the_configuration_of_a_sparse_one():
    class Doubled(layers.Layer):
        def __init__(self, units, name=None):
            super().__init__(name=name)
            self.units = units

        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=(shape[-1], self.units))

        def call(self, x):
            return 2 * (x @ self.kernel)

        def get_config(self):
            return {"units": self.units, "name": self.name}

    with scope():
        sparse = Doubled(3)
    dense = Doubled.from_config(sparse.get_config())
    assert type(dense) is Doubled and dense.units == 3


def test_quantization_is_refused():
    with scope():
        body = three_layers()
        model = keras.Sequential([keras.Input((20,)), layers.Dense(20), body])
    outside = keras.Sequential([keras.Input((20,)), layers.Dense(20), body])
    refused = "quantization: `strip` the model first.*Received.*"
    for made in (model, outside):
        with pytest.raises(ValueError, match=refused + "layer 'd"):
            made.quantize("int8")
        # No layer is quantised, also none of those before the sparse one.
        assert {v.dtype for v in made.trainable_variables} == {"float32"}
    with pytest.raises(ValueError, match=refused + "d20"):
        body.layers[1].quantize("int8")
    plain = tk.strip(body)
    plain.quantize("int8")
    assert plain.layers[0].kernel.dtype == "int8"
