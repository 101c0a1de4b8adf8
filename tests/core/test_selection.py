"""Selection: exactly the k largest, whatever the ties, in every mode."""

import functools

import hypothesis
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from topkast_tf.core import kth_largest, selection
from topkast_tf.core.blocks import Blocks, MatrixView
from topkast_tf.core.chunks import CHUNKED_SIZE
from topkast_tf.core.keys import has_nan, magnitude_keys, random_keys
from topkast_tf.core.sets import BACKWARD_ONLY, FORWARD, chosen, masked

SETTINGS = hypothesis.settings(max_examples=60, deadline=None)


def oracle(x, kept_forward, kept_backward):
    """By a stable sort: of equal magnitudes the lower index comes first."""
    order = np.argsort(-np.abs(x.astype(np.float32).ravel()), kind="stable")
    codes = np.zeros(x.size, np.uint8)
    codes[order[:kept_backward]] = BACKWARD_ONLY
    codes[order[:kept_forward]] = FORWARD
    return codes


def select(x, kept_forward, kept_backward):
    [codes], _ = selection.nested_sets_by_magnitude(
        [tf.constant(x)], kept_forward, kept_backward
    )
    return codes.numpy()


def test_by_hand():
    x = np.array([[3.0, -1.0, 0.0], [-3.0, 2.0, -0.5]], np.float32)
    np.testing.assert_array_equal(select(x, 1, 3), [[2, 0, 0], [1, 1, 0]])
    np.testing.assert_array_equal(select(x, 2, 2), [[2, 0, 0], [2, 0, 0]])


ARRAYS = st.sampled_from([np.float32, np.float16, ml_dtypes.bfloat16]).flatmap(
    lambda dtype: hnp.arrays(
        np.float32,
        st.integers(1, 60),
        elements=st.one_of(
            st.sampled_from([0.0, -0.0, 1.0, -1.0, np.inf, 1e-40]),
            st.floats(-4, 4, width=16),
        ),
    ).map(lambda x: x.astype(dtype))
)


@SETTINGS
@hypothesis.given(ARRAYS, st.data())
def test_equals_a_stable_sort(x, data):
    kept_backward = data.draw(st.integers(1, x.size))
    kept_forward = data.draw(st.integers(1, kept_backward))
    codes = select(x, kept_forward, kept_backward)
    # TensorFlow flushes denormals to zero when it converts, not when it compares bits.
    np.testing.assert_array_equal(codes, oracle(x, kept_forward, kept_backward))


@functools.cache  # all kinds of one size share a trace
def compiled_selection(jit_compile):
    @tf.function(jit_compile=jit_compile)
    def compiled(x, kept_forward, kept_backward):
        [codes], _ = selection.nested_sets_by_magnitude(
            [x], kept_forward, kept_backward
        )
        return codes

    return compiled


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
@pytest.mark.parametrize("kind", ["random", "ties", "zeros", "equal", "one"])
def test_compiled_equals_a_stable_sort(kind, jit_compile):
    rng = np.random.default_rng(0)
    x = {
        "random": rng.standard_normal(5000),
        "ties": rng.integers(-3, 4, 5000),
        "zeros": np.zeros(5000),
        "equal": np.full(5000, -7.0),
        "one": np.ones(1),
    }[kind].astype(np.float32)

    compiled = compiled_selection(jit_compile)
    for forward, backward in [(1, 1), (1, x.size), (x.size, x.size), (500, 1000)]:
        if backward <= x.size:
            codes = compiled(x, forward, backward)
            np.testing.assert_array_equal(codes, oracle(x, forward, backward))


@SETTINGS
@hypothesis.given(st.lists(ARRAYS, min_size=1, max_size=3), st.data())
def test_candidate_and_histogram_searches_agree(parts, data):
    keys = [magnitude_keys(tf.constant(part)) for part in parts]
    ks = [data.draw(st.integers(0, sum(part.size for part in parts))) for _ in "ab"]
    ranks = [tf.constant(k) for k in ks]
    found = kth_largest._by_candidates(keys, ranks)
    expected = kth_largest._by_three_histograms(keys, ranks, spare_memory=False)
    for k, ours, theirs in zip(ks, found, expected, strict=True):
        assert k == 0 or tuple(map(int, ours)) == tuple(map(int, theirs))
        masks = [selection.at_or_above(keys, each) for each in (ours, theirs)]
        assert all(map(np.array_equal, *masks))
        assert sum(int(tf.reduce_sum(tf.cast(m, tf.int32))) for m in masks[0]) == k


@pytest.mark.parametrize("kind", ["random", "ties", "large and small"])
def test_large_tensors_are_selected_in_chunks(kind):
    rng = np.random.default_rng(0)
    size = CHUNKED_SIZE + 12_345  # the last part is a shorter one
    x = rng.standard_normal(size).astype(np.float32)
    if kind == "ties":
        x = np.round(x)
    cuts = [100, 300] if kind == "large and small" else []
    codes, finite = selection.nested_sets_by_magnitude(
        [tf.constant(part) for part in np.split(x, cuts)], size // 10, size // 5
    )
    assert finite
    np.testing.assert_array_equal(
        np.concatenate(codes), oracle(x, size // 10, size // 5)
    )
    x[-1] = np.nan
    assert not selection.nested_sets_by_magnitude([tf.constant(x)], 1, 2)[1]


def test_selection_works_in_graphs_and_xla_in_turn():
    """A trace made for a graph is not reused by XLA, and vice versa."""
    x = np.array([1.0, -4.0, 2.0, 3.0], np.float32)
    for jit_compile in (False, True, False):
        select_ = tf.function(
            lambda x: selection.nested_sets_by_magnitude([x], 1, 2)[0][0],
            jit_compile=jit_compile,
        )
        np.testing.assert_array_equal(select_(x), [0, 2, 0, 1])


@SETTINGS
@hypothesis.given(st.lists(ARRAYS, min_size=1, max_size=4), st.data())
def test_several_tensors_are_ranked_as_one(parts, data):
    parts = [part.astype(np.float32) for part in parts]
    whole = np.concatenate(parts)
    kept_backward = data.draw(st.integers(1, whole.size))
    kept_forward = data.draw(st.integers(1, kept_backward))
    codes, _ = selection.nested_sets_by_magnitude(
        list(map(tf.constant, parts)), kept_forward, kept_backward
    )
    np.testing.assert_array_equal(
        np.concatenate(codes), oracle(whole, kept_forward, kept_backward)
    )


@SETTINGS
@hypothesis.given(ARRAYS, st.data(), st.integers(0, 2**31))
def test_random_backward_sets_contain_a_and_have_exact_size(x, data, seed):
    kept_backward = data.draw(st.integers(1, x.size))
    kept_forward = data.draw(st.integers(1, kept_backward))
    keys = [magnitude_keys(tf.constant(x))]
    draws = [random_keys(x.size, [seed, 0])]
    [codes] = selection.forward_and_random_sets(
        keys, kept_forward, kept_backward, draws
    )
    codes = codes.numpy()
    assert (codes > 0).sum() == kept_backward
    np.testing.assert_array_equal(
        codes == 2, oracle(x, kept_forward, kept_forward) == 2
    )


@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_masked_non_finite_entries_become_zero(jit_compile):
    x = np.array([1.0, np.nan, np.inf, -np.inf, -2.0], np.float32)
    mask = np.array([True, False, False, False, True])
    compiled = tf.function(masked, jit_compile=jit_compile)
    np.testing.assert_array_equal(compiled(x, mask), [1, 0, 0, 0, -2])
    assert not np.signbit(compiled(x, mask)[3])
    choose = tf.function(chosen, jit_compile=jit_compile)
    np.testing.assert_array_equal(choose(mask, x, np.zeros_like(x)), [1, 0, 0, 0, -2])
    np.testing.assert_array_equal(choose(True, x, np.zeros_like(x)), x)


def test_random_entries_are_sampled_uniformly():
    counts = np.zeros(20)
    keys = [magnitude_keys(tf.constant(np.arange(20.0, dtype=np.float32)))]
    for draw in range(400):
        draws = [random_keys(20, [3, draw])]
        counts += selection.forward_and_random_sets(keys, 2, 8, draws)[0].numpy() == 1
    # Each of 18 candidates is sampled in 1/3 of 400 draws, within 5 deviations.
    np.testing.assert_array_equal(counts[18:], 0)
    assert np.all(np.abs(counts[:18] - 400 / 3) < 5 * np.sqrt(400 * 2 / 9))


def test_has_nan_detects_nan_but_not_infinity():
    for x, expected in [([1, np.inf], False), ([1, np.nan], True), ([-np.nan], True)]:
        keys = magnitude_keys(tf.constant(x, tf.float32))
        assert bool(has_nan(keys)) == expected


# Blocks


@SETTINGS
@hypothesis.given(
    st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(1, 5)),
    st.tuples(st.integers(1, 8), st.integers(1, 8)),
    st.sampled_from(["sum", "max"]),
    st.sampled_from([(-1,), (-2,), (-2, -1), (0,)]),
)
def test_blocks_against_loops(shape, block, reduce, output_axes):
    view = MatrixView(shape, output_axes)
    blocks = Blocks(view, block, reduce)
    kernel = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    matrix = view.to_matrix(kernel).numpy()
    assert matrix.shape == (view.rows, view.cols)
    np.testing.assert_array_equal(view.from_matrix(matrix), kernel)
    scores, codes = [], np.arange(blocks.count)
    expanded = np.zeros_like(matrix)
    for number in range(blocks.count):
        row, col = divmod(number, blocks.grid[1])
        rows = slice(row * block[0], (row + 1) * block[0])
        cols = slice(col * block[1], (col + 1) * block[1])
        tile = np.abs(matrix[rows, cols])
        scores.append(tile.sum() if reduce == "sum" else tile.max())
        expanded[rows, cols] = number
    np.testing.assert_allclose(blocks.scores(kernel), scores, rtol=1e-5)
    np.testing.assert_array_equal(
        view.to_matrix(blocks.expand(tf.constant(codes))), expanded
    )


@pytest.mark.parametrize("reduce", ["sum", "max"])
def test_a_block_larger_than_a_kernel_is_clamped_to_it(reduce):
    view = MatrixView((4, 6))
    blocks = Blocks(view, (10**5, 2), reduce)
    assert blocks == Blocks(view, (4, 2), reduce)
    assert blocks.grid == (1, 3)
    kernel = np.arange(24, dtype=np.float32).reshape(4, 6)
    expected = Blocks(view, (4, 2), reduce).scores(kernel)
    np.testing.assert_array_equal(blocks.scores(kernel), expected)
    assert Blocks(view, (10**5, 10**5), reduce).block == (4, 6)


def test_matrix_view_of_a_transposed_convolution():
    kernel = np.arange(24).reshape(1, 2, 3, 4)  # height, width, outputs, inputs
    matrix = MatrixView((1, 2, 3, 4), (-2,)).to_matrix(kernel).numpy()
    assert matrix.shape == (8, 3)
    np.testing.assert_array_equal(matrix[:, 1], kernel[:, :, 1].ravel())


def test_graph_contains_the_search_once():
    def functions(times):
        @tf.function
        def step(x):
            for _ in range(times):
                x = tf.reshape(x, [-1, 1])
                x = tf.cast(selection.largest([magnitude_keys(x)], 2)[0], tf.float32)
            return x

        graph = step.get_concrete_function(tf.zeros([4, times])).graph.as_graph_def()
        return len(graph.library.function)

    assert functions(9) == functions(1) > 0


def test_search_passes_no_gradient():
    x = tf.Variable([1.0, -3.0, 2.0])
    with tf.GradientTape() as tape:
        kept = selection.largest([magnitude_keys(x)], 1)[0]
        y = tf.reduce_sum(x * tf.cast(kept, tf.float32))
    np.testing.assert_array_equal(tape.gradient(y, x), [0.0, 1.0, 0.0])
