"""Costs in a plan: memory, FLOPs, exchange and times of one layer, all by hand."""

import keras
import numpy as np
import pytest

from launch.cost_model import costs, memory, packed_memory, report
from launch.cost_model.forward_pass import RELU, Amount, ForwardPass, Kept
from launch.cost_model.network import Network
from launch.cost_model.parameters import Parameter, parameters_of
from tests.launch.plans import bytes_of
from topkast_tf import sparse_weights, topkast_scope
from topkast_tf.kernels import library


def one_layer(**changes):
    """A kernel of 10 x 10 with 10 entries in A and 20 in B, and its bias."""
    sets = {
        "has_sets": True,
        "is_sparse": True,
        "reads_alpha": True,
        "dense_updates": False,
        "on_host": True,
        "set_bytes": 100,
        "state_bytes": 56,
    }
    kernel = Parameter("kernel", "matrices", 100, 10, 20, **{**sets, **changes})
    bias = Parameter("bias", "biases, norms", 10, 10, 10)
    forward = ForwardPass(
        macs={"kernel": Amount(100)},
        activation_macs=Amount(),
        kept=(Kept(Amount(80), 4, ("kernel", RELU)), Kept(Amount(8, once=2), 1)),
        inputs=Amount(44),
    )
    return Network("net", (kernel, bias), forward, 8, 5, 1000, "image")


def test_memory_of_one_layer_by_hand():
    storage = memory.Storage(slots=2, keeps_penalty=True)
    found = memory.memory_of(one_layer(), storage, batch=4)
    # B's 20 entries and the bias's 10; positions as 100 bits, and 20 bits for A.
    assert bytes_of(found) == {
        "weights": (440, 440, 120),
        "sets and other state": (0, 156, 13 + 3),
        "masked copies": (0, 800, 0),
        "gradients": (440, 440, 120),
        "optimizer slots": (880, 880, 240),
        "statistics": (8, 8, 8),
        "batch": (176, 176, 176),
        "activations": (1314, 1314, 1314),
        "working memory": (3 * 1280,) * 3,
    }
    assert bytes_of(found, "host")["theta"] == (0, 0, 400)
    assert found.total("dense") == 440 + 440 + 880 + 8 + 176 + 1314 + 3840


def test_memory_of_packed_activations_by_hand():
    swat = one_layer(
        on_host=False, dense_updates=True, saved_activations=0.75, saves_masked=True
    )
    for packed, here in ((False, 320 * 4 + 320 * 5), (True, 80 * 4 + 40 + 40)):
        storage = memory.Storage(slots=1, packed=packed, replaces_relu=True)
        found = memory.memory_of(swat, storage, batch=4)
        # Of 320 entries 80 stay; the mask and the ReLU take a bit each.
        assert bytes_of(found)["activations"] == (1314, here + 34, 400 + 34)
    assert bytes_of(found)["weights"] == (440, 440, 440)
    assert "theta" not in bytes_of(found, "host")


def test_memory_of_packed_weights_by_hand():
    storage = memory.Storage(slots=2, weights_packed=True)
    found = bytes_of(memory.memory_of(one_layer(), storage, batch=4))
    # Of 100 entries 20 are in B, and 10 more parameters are dense.
    assert found["weights"][1] == 440 + 20 * (4 + 1)
    assert found["gradients"][1] == 120
    assert found["optimizer slots"][1] == 2 * 120


def test_flops_and_exchange_of_one_layer_by_hand():
    flops = costs.flops_a_step(one_layer(), batch=4)
    assert flops.dense.training == 2 * 400 * 3
    assert flops.sparse.training == pytest.approx(2 * 400 * (0.1 + 0.1 + 0.2))
    # Where exploration has ended, B is A.
    later = costs.flops_a_step(one_layer(mean_products=(0.9, 0.9, 0.9)), batch=4)
    assert later.run.training == pytest.approx(2 * 400 * 0.3)
    exchange = costs.exchange_of(one_layer(), workers=4)
    assert (exchange.dense, exchange.packed) == (440, 120)
    assert exchange.sent("here") == 2 * 3 / 4 * 440
    assert exchange.sent("sparse") == 2 * 3 / 4 * 120
    assert exchange.refresh == 2 * 80 + 13


def test_times_of_one_layer_by_hand():
    network = one_layer()
    storage = memory.Storage(slots=0)
    found = memory.memory_of(network, storage, batch=4)
    times = costs.step_times(
        network,
        costs.flops_a_step(network, 4),
        found,
        costs.exchange_of(network, 2),
        costs.Device(flops=100.0, bandwidth=10.0, network=5.0),
    )
    dense, here, sparse = times
    assert [t.compute for t in times] == pytest.approx([24, 24, 3.2])
    held = 440 + 440 + 8 + 176 + 1314
    assert dense.memory == pytest.approx((2 * held + 2 * 440) / 10)
    assert here.memory == pytest.approx((2 * (held + 156 + 400) + 2 * 440) / 10)
    held = 120 + 16 + 120 + 8 + 176 + 1314
    assert sparse.memory == pytest.approx((2 * held + 2 * 4 * 20) / 10)
    assert [t.network for t in times] == pytest.approx([88, 88, 24])
    assert dense.total == pytest.approx(dense.memory + 88)


def test_units_are_spelt_out():
    assert report.bytes_text(0) == "0 B"
    assert report.bytes_text(123 * 2**20) == "123 MiB"
    assert report.flops_text(4.2e15) == "4.20 PFLOP"
    assert report.seconds_text(4.2e-5) == "42.0 us"


def test_memory_of_native_packed_weights_by_hand():
    """Theta in files, plans in place of masked copies, and smaller working memory."""
    storage = memory.Storage(
        slots=2, weights_packed=True, native=True, theta_mapped=True, keeps_penalty=True
    )
    found = bytes_of(memory.memory_of(one_layer(matrix=(10, 10)), storage, batch=4))
    assert found["weights"][1] == 440 - 400 + 20 * (4 + 1)
    assert found["sets and other state"][1] == 56
    assert "masked copies" not in found
    # Of A 10 entries and 10 runs in each of two products, of B 20 entries and 10 runs;
    # the places of 10 lines, twice.
    plans = 2 * (10 * 3 + 10 * 8 + 10 * 4) + 20 * 1 + 10 * 12
    assert found["plans of the kernels"] == (0, plans, 0)


@pytest.mark.skipif(not library.is_available(), reason="no native kernels")
@pytest.mark.parametrize("shape", [(70, 300), (512, 400), (3, 5)])
def test_plans_take_what_is_planned(shape):
    with topkast_scope(0.9, 0.8, storage="packed", kernels="native"):
        layers = [keras.layers.Dense(size) for size in shape]
        model = keras.Sequential([keras.Input((20,)), *layers])
    model.compile("sgd", "mse", jit_compile=False)
    model.train_on_batch(np.ones((4, 20)), np.ones((4, shape[1])))
    weight = sparse_weights(model)[1]  # the first needs no input gradient
    measured = library.library().plan_bytes(weight.replica().plans_key)
    if library.library().cpu == "avx512":  # generated code is beside the plan of B
        return
    [_, kernel] = [p for p in parameters_of(model) if p.is_sparse]
    assert packed_memory.plan_bytes(kernel) == pytest.approx(measured, rel=0.02, abs=64)
