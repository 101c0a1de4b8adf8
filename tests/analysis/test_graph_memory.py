"""The most memory of a graph: functions of a few operations, by hand."""

import pytest
import tensorflow as tf

from topkast_tf.analysis.graph_macs import Frame
from topkast_tf.analysis.graph_memory import run_of
from topkast_tf.variables.refresh import SELECTION

ENTRIES = 1000
BYTES = 4 * ENTRIES


def run(function, selects=False):
    """The run of a function of a vector, which depends on the batch."""
    spec = tf.TensorSpec([ENTRIES])
    graph = tf.function(function, autograph=False).get_concrete_function(spec).graph
    return run_of(Frame(graph), {graph.inputs[0].name}, selects=selects)


@pytest.mark.parametrize(
    "name, selects, copies",
    [("step", False, 1), (SELECTION, False, 0), (SELECTION, True, 1)],
)
def test_a_branch_that_writes_is_taken_unless_it_selects_sets(name, selects, copies):
    variable = tf.Variable(tf.zeros([ENTRIES]))

    def function(x):
        def write():
            variable.assign(x * 2)
            return tf.constant(True)

        flag = tf.reduce_sum(x) > 0
        return tf.cond(flag, write, lambda: tf.constant(False), name=name)

    assert run(function, selects).peak == pytest.approx(copies * BYTES, abs=50)


def test_a_branch_without_writes_is_the_smaller_one():
    def function(x):
        def large():
            return tf.reduce_sum(tf.tile(x, [10]))

        return tf.cond(tf.reduce_sum(x) > 0, large, lambda: x[0])

    assert run(function).peak < BYTES
    assert run(function, selects=True).peak == pytest.approx(10 * BYTES, abs=50)


def test_a_branch_writes_over_what_only_it_reads():
    """x * 2 is made outside, and becomes x * 2 + 1 within, in the same memory."""
    variable = tf.Variable(tf.zeros([ENTRIES]))

    def step(made, flag):
        def write():
            variable.assign(made + 1)
            return tf.constant(True)

        return tf.cond(flag, write, lambda: tf.constant(False))

    def alone(x):
        return step(x * 2, x[0] > 0)

    def shared(x):
        made = x * 2
        with tf.control_dependencies([step(made, x[0] > 0)]):
            return tf.reduce_max(made)

    assert run(alone).peak == pytest.approx(BYTES, abs=50)
    assert run(shared).peak == pytest.approx(2 * BYTES, abs=50)


def test_an_identity_of_many_takes_no_memory():
    def function(x):
        a, b = tf.identity_n([x * 2, x * 3])
        return tf.reduce_sum(a) + tf.reduce_sum(b)

    assert run(function).peak <= 2 * BYTES + 50


def test_data_is_what_depends_on_the_batch():
    variable = tf.Variable(tf.zeros([ENTRIES]))

    def function(x):
        return tf.abs(variable + 1), x + 1

    made = run(function)
    assert {name.split(":")[0] for name in made.data} >= {"x", "add_1"}
    assert "Abs:0" not in made.data
