"""Native selection, updates and exploration loss: by hand, from the definition, bitwise."""

import subprocess
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings

from tests.kernels.common import assert_same_bits_for_any_number_of_threads, cpus
from topkast_tf.core import selection
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels import training
from topkast_tf.variables.counters import Counter

pytestmark = pytest.mark.skipif(
    kernels.why_unavailable() is not None, reason=str(kernels.why_unavailable())
)


each_cpu = pytest.mark.parametrize("cpu", cpus())


class Weight:
    """The three variables of a weight."""

    def __init__(self, theta, forward, backward, codes=None, **counters):
        self.theta = tf.Variable(np.asarray(theta, np.float32))
        codes = np.zeros(self.theta.shape, np.uint8) if codes is None else codes
        self.sets = tf.Variable(np.asarray(codes, np.uint8))
        entries = np.zeros(len(Counter), np.int64)
        entries[Counter.KEPT_FORWARD], entries[Counter.KEPT_BACKWARD] = (
            forward,
            backward,
        )
        entries[Counter.PENDING] = 1
        for name, value in counters.items():
            entries[Counter[name]] = value
        self.counters = tf.Variable(entries)

    def counter(self, name):
        return int(self.counters[Counter[name]])


def refresh(*weights, every=1, stop=None, **arguments):
    training.refresh(
        [weight.theta for weight in weights],
        [weight.sets for weight in weights],
        [weight.counters for weight in weights],
        every=every,
        stop=stop,
        messages=[f"NaN in {i}" for i in range(len(weights))],
        **arguments,
    )


def selected(theta, forward, backward, cpu=None):
    weight = Weight(theta, forward, backward)
    refresh(weight, cpu=cpu)
    return weight.sets.numpy()


def by_definition(theta, forward, backward):
    """Codes by a stable sort: of equal magnitudes the lower index is first."""
    order = np.argsort(-np.abs(np.asarray(theta, np.float64)).ravel(), kind="stable")
    codes = np.zeros(order.size, np.uint8)
    codes[order[:backward]] = 1
    codes[order[:forward]] = 2
    return codes.reshape(np.shape(theta))


# Selection.


@each_cpu
def test_selection_by_hand(cpu):
    theta = [[3.0, -1.0, 0.0], [-5.0, 1.0, -3.0]]
    # Magnitudes 5, 3, 3, 1, 1, 0: of the 3s the first, of the 1s the first.
    expected = [[2, 1, 0], [2, 0, 1]]
    np.testing.assert_array_equal(selected(theta, 2, 4, cpu), expected)


def values(kind, size, rng):
    theta = rng.normal(size=size).astype(np.float32)
    if kind == "ties":
        theta = np.round(theta, 1)
    if kind == "equal":
        theta[:] = -0.5
    if kind == "zeros":
        theta[rng.uniform(size=size) < 0.95] = 0.0
    if kind == "infinite":
        theta[rng.uniform(size=size) < 0.3] = -np.inf
    if kind == "denormal":
        theta *= 1e-42
    if kind == "sorted":
        theta = np.sort(theta)
    if kind == "wide":
        theta = np.exp(np.clip(20 * theta, -80, 80))
    return theta


KINDS = "normal ties equal zeros infinite denormal sorted wide".split()
shares = st.sampled_from([0.0, 1e-4, 0.1, 0.5, 0.999, 1.0])


@each_cpu
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([1, 2, 63, 64, 65, 1000, 4095, 4096, 4097, 20_011]),
    st.sampled_from(KINDS),
    shares,
    shares,
    st.integers(0, 2**20),
)
def test_selection_is_that_of_a_stable_sort(cpu, size, kind, first, second, seed):
    theta = values(kind, size, np.random.default_rng(seed))
    forward, backward = sorted(int(share * size) for share in (first, second))
    found = selected(theta, forward, backward, cpu)
    np.testing.assert_array_equal(found, by_definition(theta, forward, backward))


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros"])
def test_selection_equals_that_of_tensorflow(kind):
    theta = values(kind, 300_000, np.random.default_rng(0)).reshape(300, 1000)
    [codes], _ = selection.nested_sets_by_magnitude(
        [tf.constant(theta)], 30_000, 61_234
    )
    np.testing.assert_array_equal(selected(theta, 30_000, 61_234), codes)


def test_sample_that_misleads():
    """Columns that differ in scale, and a tail that no sample has an entry of."""
    rng = np.random.default_rng(1)
    theta = rng.normal(size=(400, 128)) * 10.0 ** rng.integers(-3, 3, 128)
    np.testing.assert_array_equal(
        selected(theta.astype("f4"), 5120, 10_240),
        by_definition(theta.astype("f4"), 5120, 10_240),
    )
    theta = np.zeros(50_000, np.float32)
    theta[-7:] = np.arange(7)
    for forward, backward in ((3, 5), (6, 6), (1, 20)):
        np.testing.assert_array_equal(
            selected(theta, forward, backward), by_definition(theta, forward, backward)
        )


@each_cpu
@pytest.mark.parametrize("size", [10, 5000])
def test_nan_leaves_the_sets_and_is_an_error(cpu, size):
    theta = np.random.default_rng(0).normal(size=size).astype(np.float32)
    good = Weight(theta, 2, 4)
    before = by_definition(theta, 3, 3)
    bad = Weight(theta, 2, 4, before)
    bad.theta.assign(np.where(np.arange(size) == size // 2, np.float32(np.nan), theta))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"failed: \[NaN in 1\]"):
        refresh(good, bad, cpu=cpu)
    np.testing.assert_array_equal(bad.sets, before)
    np.testing.assert_array_equal(good.sets, by_definition(theta, 2, 4))
    assert (bad.counter("FAULTY"), good.counter("FAULTY")) == (1, 0)
    assert bad.counter("STEP") == good.counter("STEP") == 1
    bad.theta.assign(theta)
    bad.counters.assign(tf.tensor_scatter_nd_update(bad.counters, [[1]], [1]))
    refresh(bad, cpu=cpu)
    assert bad.counter("FAULTY") == 0


# Counting.


@pytest.mark.parametrize("skipped", [None, 5, 6])
def test_steps_are_counted_and_sets_follow_the_schedule(skipped):
    rng = np.random.default_rng(2)
    theta = rng.normal(size=100)
    weight = Weight(theta, 10, 20)
    for step in range(1, 8):
        weight.theta.assign(theta := rng.normal(size=100).astype(np.float32))
        before = weight.sets.numpy()
        weight.counters.assign(tf.tensor_scatter_nd_update(weight.counters, [[1]], [1]))
        refresh(weight, every=3, stop=5, skipped=skipped)
        assert (weight.counter("STEP"), weight.counter("PENDING")) == (step, 0)
        if step in (3, 5, 6) and step != skipped:
            before = by_definition(theta, 10, 20 if step < 5 else 10)
        np.testing.assert_array_equal(weight.sets, before)


def test_what_is_not_pending_incomplete_or_frozen_stays():
    theta = np.random.default_rng(3).normal(size=50).astype(np.float32)
    idle, frozen = Weight(theta, 5, 9, PENDING=0), Weight(theta, 5, 9, FROZEN=1)
    refresh(idle, frozen)
    assert (idle.counter("STEP"), frozen.counter("STEP")) == (0, 1)
    accumulating = Weight(theta, 5, 9)
    refresh(accumulating, complete=tf.constant(False))
    assert (accumulating.counter("STEP"), accumulating.counter("PENDING")) == (0, 0)
    for weight in (idle, frozen, accumulating):
        np.testing.assert_array_equal(weight.sets, np.zeros(50))


def test_many_weights_in_a_graph_and_values_that_are_still_in_use():
    rng = np.random.default_rng(4)
    weights = [Weight(rng.normal(size=n), n // 9, n // 3) for n in (9, 70, 6000, 333)]

    @tf.function
    def step():
        before = [weight.sets.read_value() for weight in weights]
        refresh(*weights)
        return before, [weight.sets.read_value() for weight in weights]

    for before, after, weight in zip(*step(), weights, strict=True):
        assert not np.any(before)
        n = weight.theta.shape[0]
        expected = by_definition(weight.theta.numpy(), n // 9, n // 3)
        np.testing.assert_array_equal(after, expected)


def test_wrong_variables_are_refused_in_the_operation():
    def expect(message, **changes):
        weight = Weight(np.ones(4), 1, 2)
        for name, value in changes.items():
            setattr(weight, name, tf.Variable(value))
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            refresh(weight)

    expect("uint8 codes of one shape", sets=np.zeros(3, np.uint8))
    expect("uint8 codes of one shape", sets=np.zeros(4, np.int32))
    expect("Expected float32", theta=np.zeros(4))
    expect("counters of 8 int64", counters=np.zeros(3, np.int64))
    expect("counters of 8 int64", counters=np.zeros(8, np.float32))
    expect("<= 4. Received: 3 and 2", counters=np.array([0, 1, 3, 2, 0, 0, 0, 0]))
    expect("<= 4. Received: 3 and 5", counters=np.array([0, 1, 3, 5, 0, 0, 0, 0]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="every >= 1"):
        refresh(Weight(np.ones(4), 1, 2), every=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="cpu=mmx"):
        refresh(Weight(np.ones(4), 1, 2), cpu="mmx")


# The update.


@each_cpu
@pytest.mark.parametrize("shape", [(1,), (7, 9), (64,), (3, 3, 5, 11), (0,)])
@pytest.mark.parametrize("kind", ["add", "subtract", "assign"])
def test_step_is_on_the_backward_set_alone(kind, shape, cpu):
    rng = np.random.default_rng(5)
    theta, by = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    codes = rng.integers(0, 3, shape).astype(np.uint8)
    # On C also what arithmetic would change: negative zeros and NaN.
    by[codes == 0] = np.nan
    theta.flat[::3] = -0.0
    weight = Weight(theta, 0, 0, codes, PENDING=0)
    training.step(
        kind, weight.theta, weight.sets, weight.counters, tf.constant(by), cpu=cpu
    )
    proposed = {"add": theta + by, "subtract": theta - by, "assign": by}[kind]
    expected = np.where(codes > 0, proposed, theta)
    assert weight.theta.numpy().tobytes() == expected.tobytes()
    assert weight.counter("PENDING") == 1


def test_step_leaves_values_that_were_read_before():
    weight = Weight(np.arange(5), 0, 0, [0, 1, 2, 0, 1])
    by = tf.ones(5)

    @tf.function
    def step():
        before = weight.theta.read_value()
        training.step("add", weight.theta, weight.sets, weight.counters, by)
        return before, weight.theta.read_value()

    before, after = step()
    np.testing.assert_array_equal(before, [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(after, [0, 2, 3, 3, 5])
    training.step("subtract", weight.theta, weight.sets, weight.counters, by)
    np.testing.assert_array_equal(after, [0, 2, 3, 3, 5])


def test_wrong_steps_are_refused_in_the_operation():
    weight = Weight(np.ones(4), 1, 2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"of shape \[4\]"):
        training.step("add", weight.theta, weight.sets, weight.counters, tf.ones(5))
    with pytest.raises(tf.errors.InvalidArgumentError, match="one shape"):
        training.mask(tf.ones([2, 2]), tf.zeros([4], tf.uint8))


@each_cpu
def test_mask(cpu):
    x = np.random.default_rng(6).normal(size=(5, 31)).astype(np.float32)
    x[0, 0] = np.inf
    codes = np.random.default_rng(7).integers(0, 3, x.shape).astype(np.uint8)
    found = training.mask(tf.constant(x), tf.constant(codes), cpu=cpu)
    np.testing.assert_array_equal(found, np.where(codes > 0, x, 0))
    tape_of = tf.Variable(x)
    with tf.GradientTape() as tape:
        y = training.mask(tape_of, tf.constant(codes), cpu=cpu)
    np.testing.assert_array_equal(tape.gradient(y, tape_of), codes > 0)


# Threads.


_BITS = """
import hashlib, sys
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(int(sys.argv[1]))
from topkast_tf.kernels import training
rng, found = np.random.default_rng(0), hashlib.sha256()
sizes = (200_000, 30, 7000, 90_001)
thetas = [tf.Variable(rng.normal(size=n), dtype="float32") for n in sizes]
sets = [tf.Variable(np.zeros(n, "uint8")) for n in sizes]
counters = [tf.Variable([0, 1, n // 9, n // 4, 0, 0, 0, 0], dtype="int64") for n in sizes]
for _ in range(3):
    training.refresh(thetas, sets, counters, every=1, stop=None, messages=[""] * 4)
    for theta, codes, counts in zip(thetas, sets, counters):
        by = tf.sin(theta.read_value())
        training.step("subtract", theta, codes, counts, by)
        d = tf.constant(0.1)
        loss = training.exploration_loss(theta.read_value(), codes.read_value(), d, 0.1)
        for value in (theta, codes, loss):
            found.update(value.numpy().tobytes())
print(found.hexdigest())
"""


def test_any_number_of_threads_gives_the_same_bits():
    assert_same_bits_for_any_number_of_threads(_BITS)


_STEPS_AND_REFRESHES = """
import threading
import numpy as np, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(2)
from topkast_tf.kernels import training
rng, n = np.random.default_rng(0), 300_000
thetas = [tf.Variable(rng.normal(size=n), dtype="float32") for _ in range(4)]
sets = [tf.Variable(np.zeros(n, "uint8")) for _ in thetas]
counters = [tf.Variable([0, 1, n // 9, n // 4, 0, 0, 0, 0], dtype="int64") for _ in thetas]
by = tf.constant(rng.normal(size=n), tf.float32)
def step():
    for theta, codes, counts in zip(thetas, sets, counters):
        training.step("subtract", theta, codes, counts, by)
def refresh():
    training.refresh(thetas, sets, counters, every=1, stop=None, messages=[""] * 4)
def often(function):
    for _ in range(100):
        function()
work = [threading.Thread(target=often, args=(f,)) for f in (step, refresh) * 2]
for each in work: each.start()
for each in work: each.join()
for codes in sets:
    assert np.bincount(codes.numpy(), minlength=3).tolist() == [225_000, 41_667, 33_333]
"""


def test_steps_and_refreshes_from_several_threads_do_not_wait_for_each_other():
    command = [sys.executable, "-c", _STEPS_AND_REFRESHES]
    subprocess.run(command, check=True, timeout=60)


@each_cpu
def test_packed_entries_follow_their_weights_by_hand(cpu):
    #               C    B    A    C    A    B
    theta = np.array([5.0, 9.0, 9.0, 1.0, 9.0, 9.0])
    weight = Weight(theta, 1, 3, codes=[0, 1, 2, 0, 2, 1])
    packed = training.PackedVectors(
        tf.Variable(np.float32([0.5, -4.0, 6.0, 0.25])),
        tf.Variable(np.uint8([1, 2, 2, 1])),
        [tf.Variable(np.float32([1.0, 2.0, 3.0, 4.0]))],
    )
    refresh(weight, packed=[packed], cpu=cpu)
    # The weight is [5, 0.5, -4, 1, 6, 0.25]: its largest are 6, then 5 and -4.
    np.testing.assert_array_equal(weight.sets, [1, 0, 1, 0, 2, 0])
    np.testing.assert_array_equal(packed.entries, [5.0, -4.0, 6.0, 0.0])
    np.testing.assert_array_equal(packed.members, [1, 1, 2, 0])
    np.testing.assert_array_equal(packed.slots[0], [0.0, 2.0, 3.0, 0.0])
    # What has left B is in theta.
    assert weight.theta.numpy()[[1, 5]].tolist() == [0.5, 0.25]


@each_cpu
@pytest.mark.parametrize("size", [1, 7, 64, 1001])
def test_packed_entries_follow_their_weights_from_the_definition(cpu, size):
    rng = np.random.default_rng(size)
    kept_b = max(1, size // 3)
    weight = Weight(rng.normal(size=size), max(1, size // 5), kept_b)
    refresh(weight, cpu=cpu)
    places = kept_b + 2
    empty = np.zeros(places, np.float32)
    slots = [tf.Variable(empty), tf.Variable(empty)]
    packed = training.PackedVectors(
        tf.Variable(empty), tf.Variable(np.zeros(places, np.uint8)), slots
    )
    # Each entry is named by its place, also in the slots.
    inside = np.flatnonzero(weight.sets.numpy())
    names = np.pad(inside, (0, places - kept_b)).astype(np.float32)
    drawn = np.pad(rng.normal(size=kept_b), (0, 2)).astype(np.float32)
    packed.entries.assign(drawn)
    for slot in slots:
        slot.assign(names)
    expected = weight.theta.numpy()
    expected[inside] = drawn[:kept_b]
    weight.counters[Counter.PENDING].assign(1)
    refresh(weight, packed=[packed], cpu=cpu)
    order = np.argsort(-np.abs(expected), kind="stable")[:kept_b]
    after = np.flatnonzero(weight.sets.numpy())
    np.testing.assert_array_equal(np.sort(order), after)
    np.testing.assert_array_equal(packed.entries[:kept_b], expected[after])
    np.testing.assert_array_equal(packed.members[:kept_b], weight.sets.numpy()[after])
    stayed = np.where(np.isin(after, inside), after, 0)
    for slot in slots:
        np.testing.assert_array_equal(slot[:kept_b], stayed)
    np.testing.assert_array_equal(packed.entries[kept_b:], 0)
    outside = np.setdiff1d(np.arange(size), after)
    np.testing.assert_array_equal(weight.theta.numpy()[outside], expected[outside])


def test_packed_vectors_that_do_not_fit_are_refused():
    def vectors(entries, members, slots=()):
        return training.PackedVectors(
            tf.Variable(np.zeros(entries, np.float32)),
            tf.Variable(np.zeros(members, np.uint8)),
            [tf.Variable(np.zeros(n, np.float32)) for n in slots],
        )

    for packed, message in (
        (vectors(3, 4), "vectors of one length"),
        (vectors(3, 3, [2]), "vectors of one length"),
        (vectors(1, 1), "at most as many entries"),
    ):
        weight = Weight([3.0, 1.0, 2.0, 4.0], 1, 2, codes=[2, 0, 0, 1])
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            refresh(weight, packed=[packed])
        np.testing.assert_array_equal(weight.sets, [2, 0, 0, 1])
    weights = [Weight([1.0, 2.0], 1, 1, codes=[0, 2]) for _ in range(2)]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="of all weights or of none"
    ):
        refresh(*weights, packed=[vectors(1, 1)])
