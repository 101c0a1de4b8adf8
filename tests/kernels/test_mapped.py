"""Variables in files that are mapped into memory, without names."""

import pathlib
import resource

import numpy as np
import pytest
import tensorflow as tf

from tests.kernels.common import in_pages, mapped_bytes
from topkast_tf.kernels import library, training

pytestmark = pytest.mark.skipif(
    not library.is_available() or not pathlib.Path("/proc/self/smaps").exists(),
    reason="no native kernels, or no /proc",
)

SIZE = 300 * 70


def variables():
    rng = np.random.default_rng(0)
    theta = tf.Variable(rng.normal(size=(300, 70)).astype(np.float32))
    return theta, tf.Variable(rng.integers(0, 3, (300, 70)).astype(np.uint8))


def test_values_are_kept_and_in_files_without_names(tmp_path):
    theta, sets = variables()
    before = theta.numpy(), sets.numpy()
    training.map_variables([theta, sets], str(tmp_path))
    np.testing.assert_array_equal(theta.numpy(), before[0])
    np.testing.assert_array_equal(sets.numpy(), before[1])
    assert list(tmp_path.iterdir()) == []
    assert mapped_bytes(tmp_path).size == in_pages(4 * SIZE, SIZE)


def test_it_changes_as_any_variable_does(tmp_path):
    theta, sets = variables()
    before = theta.numpy()
    training.map_variables([theta], str(tmp_path))
    read = theta.read_value()
    theta.assign_add(
        tf.ones_like(theta)
    )  # in place only if nothing else has the buffer
    np.testing.assert_array_equal(read, before)
    np.testing.assert_array_equal(theta.numpy(), before + 1)
    del read
    theta.assign_sub(tf.ones_like(theta))
    np.testing.assert_array_equal(theta.numpy(), before + 1 - 1)
    theta.assign(before)
    np.testing.assert_array_equal(theta.numpy(), before)
    assert mapped_bytes(tmp_path).size == 0
    training.map_variables([theta], str(tmp_path))
    assert mapped_bytes(tmp_path).size == in_pages(4 * SIZE)


def test_what_is_mapped_is_mapped_once_and_ends_with_the_variable(tmp_path):
    theta, sets = variables()
    for _ in range(3):
        training.map_variables([theta, sets], str(tmp_path))
    assert mapped_bytes(tmp_path).size == in_pages(4 * SIZE, SIZE)
    value = theta.read_value()
    del theta, sets
    assert mapped_bytes(tmp_path).size == in_pages(4 * SIZE)
    del value
    assert mapped_bytes(tmp_path).size == 0


def test_memory_is_left_to_the_file(tmp_path):
    theta = tf.Variable(tf.ones([1 << 20]))
    training.map_variables([theta], str(tmp_path))
    assert mapped_bytes(tmp_path) == (4 << 20, 0)
    assert float(tf.reduce_sum(theta)) == 1 << 20
    assert mapped_bytes(tmp_path).resident == 4 << 20


def test_empty_variables_and_other_types_of_numbers(tmp_path):
    empty, half = tf.Variable(tf.zeros([0, 3])), tf.Variable(tf.ones([5], tf.bfloat16))
    training.map_variables([empty, half], str(tmp_path))
    assert empty.shape == (0, 3)
    np.testing.assert_array_equal(tf.cast(half, tf.float32), np.ones(5))


def test_what_cannot_be_mapped_is_refused_and_stays(tmp_path):
    theta, _ = variables()
    before = theta.numpy()
    absent = tmp_path / "absent"
    with pytest.raises(tf.errors.ResourceExhaustedError, match="No such file"):
        training.map_variables([theta], str(absent))
    with pytest.raises(tf.errors.InvalidArgumentError, match="string"):
        training.map_variables([tf.Variable("text")], str(tmp_path))
    if pathlib.Path("/dev/shm").is_dir():
        with pytest.raises(tf.errors.InvalidArgumentError, match="files are in memory"):
            training.map_variables([theta], "/dev/shm")
    np.testing.assert_array_equal(theta.numpy(), before)


def test_a_disk_without_room_is_an_error_and_no_crash(tmp_path):
    theta = tf.Variable(tf.ones([1 << 18]))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(
            tf.errors.ResourceExhaustedError, match="Expected 1048576 bytes"
        ):
            training.map_variables([theta], str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert float(tf.reduce_sum(theta)) == 1 << 18
    assert mapped_bytes(tmp_path).size == 0
