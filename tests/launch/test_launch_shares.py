"""Rows of a worker: its share of each batch; all shares together are the batch."""

import numpy as np
import tensorflow as tf

from launch.data.shares import share
from launch.tasks import task_of
from tests.launch.runs import settings


def test_shares_concatenate_to_the_batch():
    x, y = tf.range(7), tf.range(7) * 2
    for count in (1, 2, 3, 9):
        parts = [share((x, y), (i, count)) for i in range(count)]
        np.testing.assert_array_equal(tf.concat([a for a, _ in parts], 0), x)
        np.testing.assert_array_equal(tf.concat([b for _, b in parts], 0), y)


def test_workers_evaluate_all_images_once():
    task = task_of(settings("--dataset=digits", "--batch_size=128"))
    task.load()
    whole = next(iter(task.evaluation_batches()))
    parts = [next(iter(task.evaluation_batches((i, 3)))) for i in range(3)]
    for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
        np.testing.assert_array_equal(tf.concat(found, 0), expected)
    assert len(whole[0]) == 360


def test_workers_read_their_rows_of_each_batch():
    task = task_of(settings("--dataset=digits", "--batch_size=128"))
    task.load()
    for whole, *parts in zip(
        task.training_batches(9, 4),
        *(task.training_batches(9, 4, (i, 2)) for i in range(2)),
        strict=True,
    ):
        for expected, *found in zip(whole, *parts, strict=True):
            np.testing.assert_array_equal(tf.concat(found, 0), expected)
