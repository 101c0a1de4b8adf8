"""Counted work beside the products: elementwise operations and selections."""

import keras
import pytest
from keras import layers

import swat_tf
import topkast_tf
from topkast_tf.analysis.flops import SelectionCost, count_flops
from topkast_tf.analysis.macs import Trace
from topkast_tf.core.schedules import Never, RefreshSchedule, updates_a_step


def elementwise(model):
    """(forward FLOPs beside the products, all FLOPs of that row in training)."""
    [row] = [r for r in count_flops(model, elementwise=True).rows if not r.macs]
    return row.dense.forward, row.dense.training


def test_elementwise_by_hand():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(4, 3),  # 4 * 4 * 4 biases
            layers.ReLU(),  # 64
            layers.MaxPooling2D(2),  # 2 * 2 * 4 windows of 4
            layers.GlobalAveragePooling2D(),  # a mean that reads 16
            layers.Dense(5),  # 5
            layers.Softmax(),  # 5 * 5
        ]
    )
    expected = 64 + 64 + 64 + 16 + 5 + 25
    assert elementwise(model) == (expected, 2 * expected)


def test_elementwise_is_of_the_data_alone():
    """What a scope does to its weights is not done for each example."""

    def net():
        return keras.Sequential([keras.Input((20,)), layers.Dense(5)])

    for scope in (topkast_tf.topkast_scope(0.9, 0.8), swat_tf.swat_scope(0.5)):
        with scope:
            model = net()
        assert elementwise(model) == elementwise(net()) == (5, 10)


def test_recurrent_layers_count_each_position():
    """Seven positions, four gates of three units each from 2 inputs and 3 states."""
    model = keras.Sequential([keras.Input((7, 2)), layers.LSTM(3)])
    report = count_flops(model, elementwise=True)
    assert report.rows[0].macs == 7 * 2 * 12 and report.rows[1].macs == 7 * 3 * 12
    operations = Trace(model, None).work({}).operations
    assert operations["Sigmoid"] == 7 * 9 and operations["Tanh"] == 7 * 6


def test_sizes_of_operands():
    x = inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(3, 3, name="conv")(x)
    x = layers.Conv2DTranspose(4, 2, name="up")(x)
    model = keras.Model(inputs, layers.DepthwiseConv2D(2, name="each")(x))
    entries = Trace(model, None).work({}).entries
    assert entries["conv/kernel"] == {"inputs": 50, "outputs": 27}
    assert entries["up/kernel"] == {"inputs": 27, "outputs": 64}
    assert entries["each/kernel"] == {"inputs": 64, "outputs": 36}


def selection(scope):
    with scope:
        model = keras.Sequential(
            [
                keras.Input((20,)),
                layers.Dense(10, use_bias=False),
                layers.Dense(5, use_bias=False),
            ]
        )
    return count_flops(model).selection


@pytest.mark.parametrize(
    ("scope", "weights", "activations"),
    [
        (lambda: topkast_tf.topkast_scope(0.9, 0.8, refresh_every=5), 8 / 5, 0),
        (lambda: topkast_tf.topkast_scope(0.9, 0.9), 4, 0),
        (lambda: topkast_tf.sparse_scope("static", sparsity=0.9), 0, 0),
        # Updates at steps 0, 10 and 20 of 40, each with two thresholds.
        (
            lambda: topkast_tf.sparse_scope(
                "rigl", sparsity=0.9, update_every=10, update_until=20, total_steps=40
            ),
            8 * 3 / 40,
            0,
        ),
        (lambda: topkast_tf.sparse_scope("dst"), 1, 0),
        (lambda: swat_tf.swat_scope(0.9), 4, 4),
        # In three of four steps each entry is compared with an earlier threshold.
        (lambda: swat_tf.swat_scope(0.9, topk_period=4), 1.75, 1.75),
        # Dense layers have no period then.
        (
            lambda: swat_tf.swat_scope(
                0.9, topk_period=4, topk_period_of="convolutions"
            ),
            4,
            4,
        ),
        # In the long run, sets that are frozen take nothing.
        (lambda: swat_tf.swat_scope(0.9, topk_period=4, freeze_at=9), 0, 1.75),
        # Of 12 steps, 3 find a threshold and 6 compare with it.
        (
            lambda: swat_tf.swat_scope(0.9, topk_period=4, freeze_at=9, total_steps=12),
            3 / 12 * 4 + 6 / 12,
            1.75,
        ),
        # Weights are dense; half of the 15 outputs of an example are found.
        (lambda: swat_tf.dsg_scope(0.5, threshold="first"), 0, 0.5),
    ],
)
def test_selection_by_hand(scope, weights, activations):
    """Operations for each of the 250 weights a step, and of the 30 inputs an example."""
    found = selection(scope())
    assert found.weights == pytest.approx(250 * weights)
    assert found.activations == pytest.approx(30 * activations)


def test_exempt_weights_select_nothing():
    """The second layer has 50 weights and 10 inputs."""
    scope = swat_tf.swat_scope(0.9, exempt="first")
    assert selection(scope) == SelectionCost(4 * 50, 4 * 10)


@pytest.mark.parametrize(
    "schedule",
    [
        *(
            RefreshSchedule(n, s, t)
            for n in (1, 4)
            for s in (None, 0, 6, 8)
            for t in (None, 1, 6, 8, 9)
        ),
        *(
            swat_tf.method.TopKSchedule(n, f, t)
            for n in (1, 4)
            for f in (None, 1, 8, 9)
            for t in (None, 1, 6, 8, 9)
        ),
    ],
    ids=str,
)
def test_due_steps_are_counted(schedule):
    for step in range(12):
        assert schedule.count_before(step) == sum(map(schedule.due, range(step)))


def test_updates_a_step():
    assert updates_a_step(RefreshSchedule(4)) == 0.25
    assert updates_a_step(RefreshSchedule(4), total_steps=6) == 2 / 6
    assert updates_a_step(RefreshSchedule(10), total_steps=10**15) == 0.1
    assert updates_a_step(Never(), total_steps=6) == 0
