"""Segments of a text: their order, and that no token is lost."""

import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from launch.data import segments
from launch.support.errors import UserError


def batches(tokens, first=0, steps=6, batch_size=2, length=3, **options):
    found = segments.segment_batches(
        np.asarray(tokens), batch_size, length, first, steps, **options
    )
    return [(x.numpy(), y.numpy()) for x, y in found]


# --- Training ------------------------------------------------------------------------


def test_segments_by_hand():
    # 15 tokens: streams 0-6 and 7-13, the last one is only predicted; two segments of
    # three in each, 6 and 13 are left over.
    assert segments.steps_per_epoch(15, 2, 3) == 2
    found = batches(range(15), steps=3)
    assert found[0][0].tolist() == [[0, 1, 2], [7, 8, 9]]
    assert found[0][1].tolist() == [[1, 2, 3], [8, 9, 10]]
    assert found[1][0].tolist() == [[3, 4, 5], [10, 11, 12]]
    assert found[1][1].tolist() == [[4, 5, 6], [11, 12, 13]]
    assert found[2][0].tolist() == found[0][0].tolist()
    assert found[0][0].dtype == found[0][1].dtype == np.int32


def test_each_row_continues_in_the_next_batch():
    tokens = np.random.RandomState(0).randint(0, 200, 1003).astype("uint8")
    per_epoch = segments.steps_per_epoch(1003, 4, 7)
    assert per_epoch == 35
    found = batches(tokens, steps=2 * per_epoch, batch_size=4, length=7)
    for epoch in (found[:per_epoch], found[per_epoch:]):
        inputs = np.concatenate([x for x, _ in epoch], axis=1)
        targets = np.concatenate([y for _, y in epoch], axis=1)
        stream = 1002 // 4
        for b in range(4):
            np.testing.assert_array_equal(inputs[b], tokens[b * stream :][: 35 * 7])
            np.testing.assert_array_equal(
                targets[b], tokens[b * stream + 1 :][: 35 * 7]
            )


def test_shortest_accepted_text():
    ((x, y),) = batches(range(7), steps=1)
    assert x.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert y.tolist() == [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(UserError, match="at least 7 tokens, .*Received: 6"):
        batches(range(6))


@pytest.mark.parametrize("first", [1, 4, 5, 11])
@pytest.mark.parametrize("offset_seed", [None, 3])
def test_batches_from_any_step_equal_the_whole_run(first, offset_seed):
    tokens = np.arange(40)
    whole = batches(tokens, 0, 16, offset_seed=offset_seed)
    rest = batches(tokens, first, 16 - first, offset_seed=offset_seed)
    assert len(rest) == 16 - first
    np.testing.assert_array_equal(whole[first:], rest)


def test_shards_concatenate_to_one_batch():
    tokens = np.random.RandomState(1).randint(0, 9, 300)
    whole = batches(tokens, 2, 9, batch_size=6, length=4, offset_seed=0)
    parts = [
        batches(tokens, 2, 9, batch_size=6, length=4, offset_seed=0, shard=(i, 3))
        for i in range(3)
    ]
    assert parts[0][0][0].shape == (2, 4)
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), whole)
    with pytest.raises(UserError, match="multiple of the number of workers, 4"):
        batches(tokens, batch_size=6, shard=(0, 4))
    with pytest.raises(ValueError, match=r"Received: shard=\(2, 2\)"):
        batches(tokens, batch_size=6, shard=(2, 2))


def test_offsets_rotate_the_text_and_vary_by_epoch_and_seed():
    tokens = np.arange(100)
    per_epoch = segments.steps_per_epoch(100, 2, 3)

    def starts(seed):
        found = batches(tokens, 0, 20 * per_epoch, offset_seed=seed)
        for x, y in found:
            np.testing.assert_array_equal(y, (x + 1) % 100)
        for before, after in zip(found, found[1:per_epoch], strict=False):
            np.testing.assert_array_equal(after[0][:, 0], (before[0][:, -1] + 1) % 100)
        return [int(found[k * per_epoch][0][0, 0]) for k in range(20)]

    assert len(set(starts(0))) > 10
    assert starts(0) == starts(0) != starts(1)


def test_mapped_text_is_read_at_100_batches_per_second(tmp_path):
    path = tmp_path / "tokens.npy"
    np.save(path, np.random.RandomState(0).randint(0, 60_000, 3_000_000, "uint16"))
    tokens = np.load(path, mmap_mode="r")
    found = segments.segment_batches(tokens, 32, 128, 0, 200)
    start = time.perf_counter()
    total = sum(1 for _ in found)
    assert total == int(found.cardinality()) == 200
    assert total / (time.perf_counter() - start) > 100


def test_segments_with_deterministic_ops(root):
    # In its own process, as deterministic ops cannot be turned off again.
    code = (
        "import numpy as np, tensorflow as tf\n"
        "from launch.data import segments\n"
        "tf.config.experimental.enable_op_determinism()\n"
        "found = segments.segment_batches(np.arange(100), 2, 5, 0, 3)\n"
        "print([x[:, 0].numpy().tolist() for x, _ in found])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.strip() == "[[0, 49], [5, 54], [10, 59]]"


def test_batches_have_static_shapes():
    for found, types in (
        (segments.segment_batches(np.arange(99), 4, 5, 0, 3, shard=(1, 2)), "ii"),
        (segments.evaluation_segments(np.arange(99), 2, 5), "iif"),
    ):
        expected = {"i": tf.int32, "f": tf.float32}
        assert [spec.dtype for spec in found.element_spec] == [
            expected[kind] for kind in types
        ]
        assert all(spec.shape == (2, 5) for spec in found.element_spec)


# --- Evaluation ----------------------------------------------------------------------


def test_evaluation_by_hand():
    # Six tokens to predict in two rows of three, two at a time.
    x, y, w = zip(*segments.evaluation_segments(np.arange(10, 17), 2, 2), strict=True)
    assert np.array(x).tolist() == [[[10, 11], [13, 14]], [[12, 0], [15, 0]]]
    assert np.array(y).tolist() == [[[11, 12], [14, 15]], [[13, 0], [16, 0]]]
    assert np.array(w).tolist() == [[[1, 1], [1, 1]], [[1, 0], [1, 0]]]


@pytest.mark.parametrize("tokens", [2, 3, 5, 64, 65, 66, 101])
@pytest.mark.parametrize(("batch_size", "length"), [(1, 7), (4, 4), (8, 8), (5, 100)])
def test_evaluation_predicts_each_token_once(tokens, batch_size, length):
    text = np.arange(1000, 1000 + tokens, dtype="uint16")
    found = list(segments.evaluation_segments(text, batch_size, length))
    assert len(found) == segments.evaluation_steps(tokens, batch_size, length)
    x, y, w = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    assert x.dtype == y.dtype == np.int32 and w.dtype == np.float32
    assert all(part[0].shape == (batch_size, length) for part in found)
    valid = w == 1
    assert not w[~valid].any() and not x[~valid].any() and not y[~valid].any()
    assert sorted(y[valid].tolist()) == text[1:].tolist()
    np.testing.assert_array_equal(x[valid], y[valid] - 1)
    # Rows are contiguous, and each ends before its padding begins.
    for row, kept in zip(x, valid, strict=True):
        assert (np.diff(row[kept]) == 1).all()
        assert not (np.diff(kept.astype(int)) > 0).any()


def test_weighted_mean_does_not_depend_on_the_batch_size():
    tokens = np.random.RandomState(0).randint(0, 50, 997)
    losses = np.random.RandomState(1).rand(50, 50)
    means = set()
    for batch_size, length in [(1, 996), (3, 10), (7, 64)]:
        total = weight = 0.0
        for x, y, w in segments.evaluation_segments(tokens, batch_size, length):
            total += float((losses[x, y] * w.numpy()).sum())
            weight += float(w.numpy().sum())
        means.add(round(total / weight, 9))
    assert means == {round(float(losses[tokens[:-1], tokens[1:]].mean()), 9)}


def test_text_without_tokens_to_predict_is_refused():
    with pytest.raises(UserError, match="at least 2 tokens. Received: 1"):
        segments.evaluation_segments(np.arange(1), 2, 2)
