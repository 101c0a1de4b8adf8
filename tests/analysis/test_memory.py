"""Counted memory of training: by hand, by formula, and beside a measured process."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks import common, memory_count
from swat_tf import swat_scope
from topkast_tf import count_memory, sparse_scope, sparse_weights, topkast_scope
from topkast_tf.analysis.memory_report import Bytes, MemoryReport, MemoryRow
from topkast_tf.kernels import library
from topkast_tf.variables.counters import Counter

COUNTERS = 8 * len(Counter)


def dense_model(*sizes, optimizer="adam", inputs=4):
    layers = [keras.layers.Dense(size, name=f"d{i}") for i, size in enumerate(sizes)]
    model = keras.Sequential([keras.Input((inputs,)), *layers], name="net")
    model.compile(optimizer, "mse", jit_compile=False)
    return model


def row_of(report, path):
    [row] = [row for row in report.rows if row.path == path]
    return row


def test_a_dense_layer_by_hand():
    """A kernel of 4 x 3 with 3 entries in A and 6 in B, and 3 biases; Adam; 5 examples."""
    with topkast_scope(0.75, 0.5, exploration=0, kernels="masked"):
        model = dense_model(3)
    report = count_memory(model, (5, 4))
    row = row_of(report, "net/d0")
    assert row.as_run == Bytes(
        parameters=4 * (12 + 3),
        sets=12 + COUNTERS,
        slots=2 * 4 * (12 + 3),
        gradients=4 * (12 + 3),
        activations=4 * 5 * 3,  # its outputs, which the loss squares
    )
    assert row.on_sparse_device == Bytes(
        parameters=4 * (6 + 3),
        sets=2 + 1,  # 12 bits of B, and 6 bits that say which are in A
        slots=2 * 4 * (6 + 3),
        gradients=4 * (6 + 3),
        activations=4 * 5 * 3,
    )
    assert row.on_host == Bytes(parameters=4 * 12)
    assert report.peak == report.as_run.held + report.step
    assert report.step >= 4 * 15 + 60  # gradients and outputs


@pytest.mark.parametrize("form, of_b", [("bits", 2), ("indices", 24), ("smaller", 2)])
def test_positions_as_bits_or_indices(form, of_b):
    with topkast_scope(0.75, 0.5):
        model = dense_model(3)
    report = count_memory(model, (5, 4), positions=form)
    assert row_of(report, "net/d0").on_sparse_device.sets == of_b + 1


def test_alpha_is_kept_for_the_input_gradient():
    with topkast_scope(0.75, 0.5, exploration=0, kernels="masked"):
        model = dense_model(8, 2)
    report = count_memory(model, (5, 4))
    assert row_of(report, "net/d0").as_run.copies == 0  # no gradient of the inputs
    assert row_of(report, "net/d1").as_run.copies == 4 * 8 * 2
    assert row_of(report, "net/d0").as_run.activations == 4 * 5 * 8
    assert report.on_sparse_device.copies == 0


def test_what_a_penalty_saves_is_a_copy_though_the_backward_pass_writes_over_it():
    def counted(**options):
        with topkast_scope(0.75, 0.5, kernels="masked", **options):
            model = dense_model(8, 2)
        return count_memory(model, (5, 4))

    without, explores = counted(exploration=0), counted(exploration=0.1)
    assert explores.as_run.activations == without.as_run.activations
    assert explores.as_run.copies > without.as_run.copies
    assert explores.on_sparse_device == without.on_sparse_device


def test_a_weight_that_is_not_trained_has_no_gradient_and_no_slots():
    with topkast_scope(0.75, 0.5, kernels="masked"):
        model = dense_model(8, 2)
    model.layers[0].trainable = False
    row = row_of(count_memory(model, (5, 4)), "net/d0")
    for made in (row.as_run, row.on_sparse_device):
        assert (made.gradients, made.slots) == (0, 0)


def test_slots_behind_a_scaled_loss_belong_to_their_layer():
    def row_with(optimizer):
        with topkast_scope(0.75, 0.5, kernels="masked"):
            model = dense_model(8, 2, optimizer=optimizer)
        return row_of(count_memory(model, (5, 4)), "net/d1")

    plain, scaled = (
        row_with(keras.optimizers.Adam()),
        row_with(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())),
    )
    assert scaled.as_run.slots == plain.as_run.slots > 0
    assert scaled.on_sparse_device.slots == plain.on_sparse_device.slots


def test_a_model_that_is_not_built_is_built_and_counted():
    class Late(keras.Model):
        def __init__(self):
            super().__init__(name="late")
            self.head = keras.layers.Dense(3, name="head")

        def call(self, x):
            return self.head(x)

    model = Late()
    model.compile("adam", "mse", jit_compile=False)
    row = row_of(count_memory(model, (5, 4)), "late/head")
    assert (row.as_run.parameters, row.as_run.slots) == (4 * 15, 2 * 4 * 15)
    model.train_on_batch(np.ones((5, 4)), np.ones((5, 3)))


@pytest.mark.parametrize("optimizer, slots", [("adam", 2), ("sgd", 0), ("adagrad", 1)])
def test_a_dense_model_takes_one_and_its_slots(optimizer, slots):
    model = dense_model(8, 2, optimizer=optimizer)
    report = count_memory(model, (5, 4))
    size = 4 * model.count_params()
    rest = row_of(report, "(optimizer)").as_run.slots
    assert report.as_run.held == size * (1 + slots) + rest
    assert report.as_run.gradients == size
    assert report.as_run == report.on_sparse_device + Bytes(copies=report.as_run.copies)
    assert rest == sum(
        v.value.dtype.size for v in model.optimizer.variables if len(v.shape) == 0
    )


def test_a_convolution_by_hand():
    """3 x 3 x 2 x 4, 90 % and 80 % zeros, 6 x 6 images without padding; momentum."""
    with topkast_scope(0.9, 0.8, exploration=0, kernels="masked"):
        layer = keras.layers.Conv2D(4, 3, use_bias=False, name="conv")
        model = keras.Sequential([keras.Input((6, 6, 2)), layer], name="net")
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    row = row_of(count_memory(model, (2, 6, 6, 2)), "net/conv")
    b = 72 - int(0.8 * 72)
    assert (row.as_run.parameters, row.as_run.slots) == (288, 288)
    assert row.as_run.sets == 72 + COUNTERS
    assert row.as_run.activations == 4 * 2 * 4 * 4 * 4
    assert row.on_sparse_device.parameters == 4 * b
    assert row.on_sparse_device.sets == 9 + 2
    assert row.on_host.parameters == 288


@pytest.mark.skipif(not library.is_available(), reason="no native kernels")
def test_packed_storage_by_hand():
    with topkast_scope(0.75, 0.5, storage="packed"):
        model = dense_model(3)
    report = count_memory(model, (5, 4))
    row = row_of(report, "net/d0")
    assert row.as_run.parameters == 4 * (12 + 6 + 3)
    assert row.as_run.sets == 12 + 6 + COUNTERS
    assert row.as_run.slots == 2 * 4 * (6 + 3)
    assert row.as_run.gradients == 4 * (6 + 3)
    with topkast_scope(0.75, 0.5, kernels="masked"):
        twin = count_memory(dense_model(3), (5, 4))
    assert row.on_sparse_device == row_of(twin, "net/d0").on_sparse_device
    assert row.on_host == row_of(twin, "net/d0").on_host


@pytest.mark.skipif(not library.is_available(), reason="no native kernels")
def test_plans_before_and_after_the_first_step():
    with topkast_scope(0.9, 0.8, kernels="native"):
        model = dense_model(512, 400, inputs=300)
    planned = count_memory(model, (8, 300)).as_run.plans
    assert planned > 0
    model.train_on_batch(np.ones((8, 300)), np.ones((8, 400)))
    there = sum(
        library.library().plan_bytes(weight.replica().plans_key)
        for weight in sparse_weights(model)
    )
    assert count_memory(model, (8, 300)).as_run.plans == there
    if library.library().cpu != "avx512":
        # The first layer needs no input gradient, and makes no plan for it.
        assert 0.7 * planned < there <= planned


def test_n_of_m_takes_bits_and_no_theta_on_the_host():
    with sparse_scope("nm", sparsity=0.5, m=4):
        model = dense_model(8, inputs=16)
    row = row_of(count_memory(model, (5, 16)), "net/d0")
    [weight] = sparse_weights(model)
    b = int(weight.backward_mask().sum())
    assert row.on_sparse_device.parameters == 4 * (b + 8)
    assert row.on_sparse_device.sets == 16
    assert row.on_host == Bytes()


def test_theta_stays_on_the_device_where_every_entry_is_updated():
    with swat_scope(0.9, kernels="masked"):
        model = dense_model(16, 16, inputs=16)
    row = row_of(count_memory(model, (5, 16)), "net/d1")
    assert row.on_sparse_device.parameters == 4 * (256 + 16)
    assert row.on_sparse_device.gradients == 4 * (256 + 16)
    assert row.on_sparse_device.sets == min(256 // 8, 4 * 26)
    assert row.on_host == Bytes()


def test_inputs_that_swat_saves_are_values_and_bits():
    def activations(storage):
        with swat_scope(0.9, exempt="first", storage=storage, kernels="masked"):
            layers = [
                keras.layers.Conv2D(8, 3, padding="same", name=f"c{i}")
                for i in range(3)
            ]
            model = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="net")
        model.compile("sgd", "mse", jit_compile=False)
        row = row_of(count_memory(model, (4, 8, 8, 3)), "net/c1")
        return row.as_run.activations, row.on_sparse_device.activations

    entries = 4 * 8 * 8 * 8
    packed = 4 * (entries - int(0.9 * entries)) + entries // 8
    masked_run, masked_sparse = activations("dense")
    packed_run, _ = activations("packed")
    assert masked_sparse == packed
    assert packed_run == pytest.approx(packed, rel=0.02)  # parts are rounded
    assert masked_run >= 4 * entries


def test_monotone_in_sparsity():
    found = []
    for fwd, bwd in ((0.5, 0.25), (0.8, 0.6), (0.9, 0.8), (0.95, 0.9)):
        with topkast_scope(fwd, bwd, kernels="masked"):
            model = dense_model(64, 64, inputs=64)
        found.append(count_memory(model, (8, 64)))
    sparse = [report.on_sparse_device.total for report in found]
    assert sparse == sorted(sparse, reverse=True) and len(set(sparse)) == 4
    assert len({report.as_run.total for report in found}) == 1


def test_activations_grow_with_the_batch_and_weights_do_not():
    model = dense_model(16, 16, inputs=8)
    small, large = (count_memory(model, (batch, 8)) for batch in (4, 12))
    assert large.as_run.activations == 3 * small.as_run.activations
    assert large.as_run.held == small.as_run.held


def test_the_compiled_loss_and_shared_layers():
    shared = keras.layers.Dense(6, "relu", name="shared")
    inputs = keras.Input((6,))
    outputs = keras.layers.Dense(10, name="head")(shared(shared(inputs)))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    report = count_memory(model, (5, 6), keras.KerasTensor((5,), dtype="int32"))
    assert row_of(report, "shared").as_run.activations == 2 * 4 * 5 * 6
    assert row_of(report, "shared").as_run.parameters == 4 * 42


def test_a_model_that_is_not_compiled_has_no_slots():
    layer = keras.layers.Dense(4)
    layer.build((None, 3))
    report = count_memory(layer, (2, 3))
    assert report.as_run.slots == 0
    assert report.as_run.gradients == 4 * 16


def test_the_table_has_a_total_and_the_peak():
    rows = (
        MemoryRow("a", Bytes(1000, gradients=1000), Bytes(100), Bytes(1000)),
        MemoryRow("b", Bytes(500)),
    )
    text = str(MemoryReport(rows, 3000, 5000, {"gradients": 1000, "working": 2000}))
    assert text.splitlines()[-4].split()[:3] == ["all", "1.50", "kB"]
    assert "peak of a step as run: 4.50 kB, of which 1.50 kB are held" in text
    assert "1.00 kB gradients, 2.00 kB working" in text
    assert "peak of a step that selects: 6.50 kB" in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"positions": "csr"}, "Received: positions='csr'"),
        ({"input_spec": (5, None)}, "Received: [(5, None)]"),
        ({"target_spec": (5, 3)}, "a model without an optimizer"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(arguments, message):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="Expected") as error:
        count_memory(model, **arguments)
    assert message in str(error.value)


def test_counting_changes_nothing():
    with topkast_scope(0.75, 0.5):
        model = dense_model(3)
    before = model.get_weights()
    count_memory(model, (5, 4))
    assert all(map(np.array_equal, before, model.get_weights()))
    assert [weight.step for weight in sparse_weights(model)] == [0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_dense", "mlp_packed"])
def test_counted_memory_is_within_a_tenth_of_measured(name):
    values = common.parse([""], "", memory_count.define_flags)
    rows = [
        {
            "round": "0",
            "size": size,
            **memory_count.measure_elsewhere(name, size, values),
        }
        for size in memory_count.SIZES
    ]
    [(measured, counted)] = memory_count.ratios(rows)
    assert counted == pytest.approx(measured, rel=0.1)


class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.w = tf.Variable(tf.random.normal([16, 8]), name="w")

    def __call__(self, x):
        return x @ self.w


def test_modules_are_counted_with_their_exploration_loss():
    dense = count_memory(Module(), (3, 16))
    assert dense.as_run.parameters == dense.as_run.gradients == 4 * 16 * 8
    with topkast_scope(0.75, 0.5):
        module = Module()
    report = count_memory(module, (3, 16))
    assert report.on_sparse_device.parameters == 4 * 64
    assert report.on_host.parameters == 4 * 128
    # Its gradient is that of the product and of the exploration loss.
    assert report.step > dense.step


@pytest.mark.parametrize("model", ["x", tf.Module(), None])
def test_what_is_no_model_is_one_sentence(model):
    with pytest.raises(ValueError, match=r"a tf\.Module that can be called\. Received"):
        count_memory(model, (3, 16))
