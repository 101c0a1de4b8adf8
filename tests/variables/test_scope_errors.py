"""Errors of a scope for bad input, one sentence each."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import topkast_tf as tk
from tests.small_models import scope, three_layers


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
        ({"total_steps": 0}, "total_steps=0"),
        ({"total_steps": 99.5}, r"total_steps=99\.5"),
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
def test_regex_that_matches_nothing_is_refused(arguments):
    with pytest.raises(ValueError, match="(?s)d30.*d99|d99.*d30"), scope(**arguments):
        three_layers()


def test_scope_without_kernels_is_refused():
    with (
        pytest.raises(ValueError, match="something to sparsify.*Received.*none"),
        scope(),
    ):
        pass
    with pytest.raises(ValueError, match="something to sparsify.*embedding"), scope():
        keras.Sequential([keras.Input((4,), dtype="int32"), layers.Embedding(3, 2)])


def test_late_built_model_without_kernels_is_refused():
    with scope():
        model = keras.Sequential([layers.BatchNormalization(), layers.Embedding(5, 2)])
    with pytest.raises(ValueError, match="something to sparsify"):
        model(np.zeros((2, 3)))


def test_scope_error_is_not_raised_by_another_model():
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


def test_unreachable_target_names_the_highest_reachable():
    with (
        pytest.raises(ValueError, match=r"0\.97142.*Received"),
        scope(fwd=0.99, bwd=0.9, distribution="erk"),
    ):
        keras.Sequential(
            [keras.Input((5,)), layers.Dense(10), layers.Dense(2, name="x")]
        )


def test_nan_at_a_refresh_is_an_error():
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
def test_nan_while_training_is_an_error(jit_compile):
    with scope(refresh_every=2):
        model = three_layers()
    model.compile("sgd", "mse", jit_compile=jit_compile)
    x, y = np.full((4, 20), np.nan, "float32"), np.ones((4, 10))
    if jit_compile:  # compiled code cannot raise: the next access from Python does
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


def test_strip_and_refresh_refuse_invalid_arguments():
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
