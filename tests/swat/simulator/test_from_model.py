"""Keras models in the simulator: geometry, masks, activations, and their cycles."""

import dataclasses

import keras
import numpy as np
import pytest

from swat_tf import swat_scope
from swat_tf.simulator import (
    layers_of,
    operands_of,
    preset,
    simulate,
    simulate_model,
)
from tests import zoo
from topkast_tf import count_flops, sparse_weights, strip, topkast_scope
from topkast_tf.analysis.flops import count_macs

MACHINE = preset("tcl")


def images(model, count=2):
    random = np.random.default_rng(0)
    return random.normal(size=(count, *model.inputs[0].shape[1:])).astype("float32")


def many_kinds():
    return keras.Sequential(
        [
            keras.Input((9, 8, 4)),
            keras.layers.Conv2D(8, 3, 2, "same", activation="relu"),
            keras.layers.Conv2D(12, (3, 2), groups=4, activation="relu"),
            keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
            keras.layers.Conv2D(6, 1, dilation_rate=2, activation="relu"),
            keras.layers.Reshape((-1, 6)),
            keras.layers.Conv1D(5, 3, padding="causal", dilation_rate=2),
            keras.layers.DepthwiseConv1D(3, 2, activation="relu"),
            keras.layers.EinsumDense("abc,cde->abde", (4, 2, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(7),
        ]
    )


def quantized():
    """Keras quantizes the layer alone, and calls it in another way."""
    dense = keras.layers.Dense(3, name="small")
    model = keras.Sequential([keras.Input((4,)), dense, keras.layers.Dense(2)])
    dense.quantize("int8")
    return model


def examples_in_one_row():
    image = keras.Input((8,))
    row = keras.ops.reshape(image, (1, -1, 4))
    return keras.Model(image, keras.layers.Conv1D(3, 1)(row))


BUILDERS = {
    "sequential": zoo.sequential,
    "functional": zoo.functional,
    "nested": zoo.nested,
    "many kinds": many_kinds,
}


@pytest.mark.parametrize("name", BUILDERS)
def test_layers_do_the_products_that_are_counted(name):
    model = BUILDERS[name]()
    layers = layers_of(model)
    assert {layer.name: layer.macs for layer in layers} == dict(count_macs(model))
    called = operands_of(model, images(model)).layers
    assert sorted(map(repr, called)) == sorted(map(repr, layers))


def test_layers_have_the_outputs_of_keras():
    model = many_kinds()
    by_name = {layer.name: layer for layer in layers_of(model)}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2D):
            own = by_name[layer.kernel.path]
            assert own.outputs == tuple(layer.output.shape[1:-1])


def test_attention_and_layers_that_are_called_twice():
    queries = keras.Input((6, 8))
    shared = keras.layers.Dense(8, activation="relu", name="shared")
    hidden = keras.layers.MultiHeadAttention(2, 4, name="heads")(
        shared(queries), shared(shared(queries))
    )
    model = keras.Model(queries, hidden, name="net")
    inputs = np.random.default_rng(0).normal(size=(3, 6, 8)).astype("float32")
    with pytest.raises(ValueError, match="or a batch of inputs. Received: .*Dense"):
        layers_of(model)
    layers = operands_of(model, inputs).layers
    names = [layer.name for layer in layers]
    # Keras calls the layer for each of its three nodes.
    assert [n for n in names if "shared" in n] == [
        *("shared/kernel", "shared/kernel#2", "shared/kernel#3")
    ]
    assert sum("heads" in name for name in names) == 4
    assert all(layer.inputs == (6,) for layer in layers)
    report = simulate_model(model, MACHINE, inputs)
    assert len(report.rows) == 3 * 7 - 1


def test_a_subclassed_model_is_simulated_with_a_batch():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(4, activation="relu")
            self.outer = keras.layers.Dense(2)
            self.places = keras.layers.Dense(2)

        def call(self, inputs):
            # A table without an axis for the batch is shared out among its examples.
            return self.outer(self.inner(inputs)) + self.places(np.eye(6)[:3])[:1]

    model, inputs = Net(), np.ones((3, 5), "float32")
    model(inputs)
    with pytest.raises(ValueError, match="called otherwise"):
        layers_of(model)
    layers = operands_of(model, inputs).layers
    assert [(each.kernel, each.inputs) for each in layers] == [
        *(((1, 5, 4), (1,)), ((1, 4, 2), (1,)), ((1, 6, 2), (1,)))
    ]
    with pytest.raises(ValueError, match="the examples of the batch first. Received"):
        operands_of(model, np.ones((2, 5), "float32"))


def test_weights_are_the_forward_set():
    with topkast_scope(fwd=0.75, bwd=0.5, exempt="last"):
        model = BUILDERS["many kinds"]()
    masks = operands_of(model).weights
    weights = {weight.path: weight for weight in sparse_weights(model)}
    assert masks.keys() == weights.keys() and len(masks) == 7
    kernels = {layer.name: layer.kernel for layer in layers_of(model)}
    for path, mask in masks.items():
        assert mask.shape == kernels[path]
        np.testing.assert_array_equal(
            mask.ravel(), weights[path].forward_mask().ravel()
        )


def test_weights_of_a_plain_model_are_those_that_are_not_zero():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="net")
    assert operands_of(model).weights == {}
    kernel = model.layers[0].kernel
    kernel.assign(np.eye(4, 3))
    np.testing.assert_array_equal(
        operands_of(model).weights[kernel.path][0], np.eye(4, 3) == 1
    )


@pytest.mark.parametrize("kernels", [None, "native"])
def test_a_stripped_model_has_the_cycles_of_the_sparse_one(kernels):
    with topkast_scope(fwd=0.9, bwd=0.8):
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(48)])
    inputs = images(model, 16)
    model(inputs)
    stripped = strip(model) if kernels is None else strip(model, kernels=kernels)
    ours, theirs = (simulate_model(each, MACHINE, inputs) for each in (stripped, model))
    assert ours.cycles() == theirs.cycles() < ours.cycles(dense=True)


def test_activations_are_the_inputs_that_are_not_zero():
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            keras.layers.Conv2D(3, 3, activation="relu", name="a"),
            keras.layers.Conv2D(4, 3, activation="relu", name="b"),
        ],
        name="net",
    )
    inputs = images(model)
    found = operands_of(model, inputs).activations
    between = model.layers[0](inputs)
    np.testing.assert_array_equal(found["net/a/kernel"], inputs != 0)
    np.testing.assert_array_equal(found["net/b/kernel"], np.asarray(between) != 0)
    assert 0.1 < found["net/b/kernel"].mean() < 0.9
    # Nothing of the watching stays.
    assert not any("call" in vars(layer) for layer in model.layers)


def test_activations_of_swat_are_the_largest_of_the_batch():
    with swat_scope(0.75, activations=0.9):
        model = keras.Sequential(
            [keras.Input((40,)), keras.layers.Dense(30), keras.layers.Dense(10)]
        )
    inputs = images(model, 5)
    [first, second] = operands_of(model, inputs).activations.values()
    least = np.sort(np.abs(inputs), axis=None)[-20]  # a tenth of 200 are kept
    np.testing.assert_array_equal(first[:, 0], np.abs(inputs) >= least)
    assert second.sum() == 15


def test_the_batch_is_called_even_if_it_fails_without_a_trace():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError):
        operands_of(model, np.ones((2, 5), "float32"))
    assert "call" not in vars(model.layers[0])


def test_counted_is_what_the_library_counts():
    with swat_scope(0.9):
        model = many_kinds()
    report = simulate_model(model, MACHINE, images(model, 4))
    counted = count_flops(model)
    macs = sum(row.counted_macs for row in report.part("forward"))
    assert macs == pytest.approx(4 * counted.sparse.forward / 2, rel=1e-6)
    assert report.counted("forward") == pytest.approx(
        counted.dense.forward / counted.sparse.forward
    )
    # A machine that skips nothing has the same counts.
    dense = simulate_model(model, preset("dadiannao"), images(model, 4))
    assert dense.counted() == report.counted() > 5
    assert dense.speed_up() == 1


def test_it_is_the_simulation_of_its_masks():
    with swat_scope(0.8, exempt="first"):
        model = many_kinds()
    inputs = images(model)
    # Few channels: wider lanes would be filled up by padding, which is multiplied.
    machine = dataclasses.replace(MACHINE, rows=2, lanes=2, look_aside=1)
    layers, weights, activations = operands_of(model, inputs)
    by_hand = simulate(layers, machine, weights, activations, batch=16)
    report = simulate_model(model, machine, inputs, batch=16)
    assert report == by_hand
    assert report.cycles("forward", dense=True) > report.cycles("forward")
    without = simulate_model(model, machine, batch=16)
    assert without.cycles("forward") == report.cycles("forward")
    gradients = [r for r in without.rows if r.of_pass == "weight gradient"]
    assert all(r.compute_cycles == r.dense_cycles for r in gradients)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.ReLU()]),
            "has none",
        ),
        (zoo.recurrent, "plain, with groups or depthwise. Received"),
        (
            lambda: keras.Sequential(
                [keras.Input((8, 8, 2)), keras.layers.SeparableConv2D(4, 3)]
            ),
            "Received: SeparableConv2D",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((None, None, 2)), keras.layers.Conv2D(4, 3)]
            ),
            "an input of a known size",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((3, 4)), keras.layers.EinsumDense("abc,dc->abd", (3, 5))]
            ),
            "Received: EinsumDense",
        ),
        (quantized, "Received: Dense 'small' in int8"),
    ],
)
def test_errors_are_one_sentence(model, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        layers_of(model())
    said = str(caught.value)
    assert said.startswith("Expected") and "\n" not in said


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            lambda: keras.Sequential(
                [
                    keras.Input((3, 8, 8)),
                    keras.layers.Conv2D(4, 3, data_format="channels_first"),
                ]
            ),
            "Expected channels last",
        ),
        (quantized, "Received: Dense 'small' in int8"),
        (examples_in_one_row, r"an input of the shape \(1, 4, 4\) of"),
    ],
)
def test_errors_with_inputs_are_one_sentence(model, expected):
    model = model()
    with pytest.raises(ValueError, match=expected) as caught:
        operands_of(model, images(model))
    said = str(caught.value)
    assert said.startswith("Expected") and "\n" not in said


def test_a_layer_that_is_called_twice_needs_inputs():
    layer, image = keras.layers.Dense(4, name="twice"), keras.Input((4,))
    model = keras.Model(image, layer(layer(image)))
    with pytest.raises(ValueError, match="Dense 'twice', which is called 2 times"):
        layers_of(model)
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)], name="inner")
    model = keras.Model(image, inner(inner(image)))
    with pytest.raises(ValueError, match="Sequential 'inner', which is called 2 times"):
        layers_of(model)
    assert [layer.macs for layer in operands_of(model, np.ones((2, 4))).layers] == [
        16,
        16,
    ]
