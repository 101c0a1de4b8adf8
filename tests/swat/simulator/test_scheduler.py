"""The cycles of sets of rows: against an oracle, and the Monte-Carlo table."""

import math

import numpy as np
import pytest

from swat_tf.simulator.scheduler import ideal_cycles, packed_lines, window_cycles
from swat_tf.simulator.search_space import search_space
from tests.swat.simulator import oracle

RANDOM = {
    # Sparsity -> speed-up with 1, 4 and 16 rows: h = 2, d = 5, T; then ideal packing.
    # 16 lanes, 400 lines, drawn once.
    0.5: ((1.72, 1.59, 1.51), (1.96, 1.96, 1.96)),
    0.7: ((2.15, 1.95, 1.82), (3.33, 3.28, 3.28)),
    0.8: ((2.50, 2.21, 1.99), (5.00, 4.94, 4.76)),
    0.9: ((2.94, 2.78, 2.44), (9.76, 9.76, 9.52)),
    0.95: ((3.01, 2.99, 2.88), (20.0, 19.1, 18.2)),
}


def drawn(sparsity, rows, lines=400, lanes=16, sets=1, seed=1):
    random = np.random.default_rng(seed)
    return random.random((sets, rows, lines, lanes)) >= sparsity


def scheduled(values, h, d, shape="T"):
    places = search_space(h, d, shape)
    return window_cycles([packed_lines(values)], values.shape[-1], places)[0]


@pytest.mark.parametrize("sparsity", RANDOM)
@pytest.mark.parametrize(("column", "rows"), [(0, 1), (1, 4), (2, 16)])
def test_monte_carlo_table(sparsity, column, rows):
    window, ideal = (each[column] for each in RANDOM[sparsity])
    values = drawn(sparsity, rows)
    assert 400 / scheduled(values, 2, 5)[0] == pytest.approx(window, abs=0.1)
    # The ideal of one draw: two standard deviations of its number of values.
    [cycles] = ideal_cycles(values.sum((2, 3)), 16)
    deviation = math.sqrt(400 * 16 * sparsity * (1 - sparsity)) / 16
    assert abs(cycles - 400 / ideal) <= 1 + 2 * deviation


@pytest.mark.parametrize(("h", "d"), [(1, 3), (2, 5), (3, 4), (6, 5), (4, 0)])
@pytest.mark.parametrize("shape", ["T", "L"])
@pytest.mark.parametrize("rows", [1, 3])
def test_equals_the_oracle(h, d, shape, rows):
    for seed, (sparsity, lanes) in enumerate([(0.5, 16), (0.8, 16), (0.9, 13)]):
        values = drawn(sparsity, rows, lines=17, lanes=lanes, sets=3, seed=seed)
        places = (
            oracle.shape_t(h, d)
            if shape == "T"
            else sorted(
                [(time, 0) for time in range(1, h + 1)]
                + [(1, -lane) for lane in range(1, d + 1)]
            )
        )
        assert search_space(h, d, shape) == places
        expected = [oracle.cycles(each.tolist(), h, places) for each in values]
        assert scheduled(values, h, d, shape).tolist() == expected


def test_products_of_different_lengths_are_scheduled_as_each_alone():
    parts = [
        drawn(0.8, 2, lines=length, sets=sets, seed=length)
        for length, sets in ((5, 3), (20, 1), (1, 4))
    ]
    places = search_space(2, 5, "T")
    together = window_cycles([packed_lines(each) for each in parts], 16, places)
    for part, found in zip(parts, together, strict=True):
        np.testing.assert_array_equal(found, scheduled(part, 2, 5))


@pytest.mark.parametrize("lanes", [3, 16, 17, 32, 33, 64])
def test_any_number_of_lanes(lanes):
    values = drawn(0.7, 2, lines=9, lanes=lanes)
    expected = oracle.cycles(values[0].tolist(), 2, [(1, 0), (2, 0)])
    assert scheduled(values, 2, 0).tolist() == [expected]


@pytest.mark.parametrize("h", [1, 2, 6])
def test_bounded_by_the_window_and_by_ideal_packing(h):
    for sparsity in (0.0, 0.5, 0.9, 1.0):
        values = drawn(sparsity, 4, lines=25, sets=6)
        cycles = scheduled(values, h, 3)
        assert (cycles >= -(-25 // (h + 1))).all()
        assert (cycles >= ideal_cycles(values.sum((2, 3)), 16)).all()
        assert (cycles <= 25).all()


def test_dense_lines_are_not_skipped():
    values = np.ones((2, 4, 30, 16), bool)
    assert scheduled(values, 2, 5).tolist() == [30, 30]
    assert ideal_cycles(values.sum((2, 3)), 16).tolist() == [30, 30]


def test_nothing_is_skipped_without_a_window():
    values = np.zeros((1, 1, 7, 16), bool)
    assert window_cycles([packed_lines(values)], 16, [])[0].tolist() == [7]


def test_a_case_by_hand():
    """Two lanes, h = 1. Line 0 is (1, 0), line 1 is (1, 1), line 2 is (0, 1).

    Lane 1 of line 0 takes the value above it; line 1 is then (1, 0), whose lane 1 takes
    the value of line 2, which is left out.
    """
    values = np.array([[[[1, 0], [1, 1], [0, 1]]]], bool)
    assert scheduled(values, 1, 0).tolist() == [2]


def test_the_lane_with_the_most_candidates_goes_first():
    """Two lanes, so that lane 0 sees lane 1 to its left.

    Row 0, line 0 is empty: lane 0 has the candidates (1, 1) and (1, 0), lane 1 has (1, 0),
    (1, 1) and (2, 1), so lane 1 goes first. It takes (1, 0), and lane 0 takes (1, 1).
    Line 1 then takes (2, 1), and line 2 is left out.
    """
    places = [(1, -1), (1, 0), (2, 0)]
    values = np.array(
        # The second row keeps line 0 from being left out.
        [[[[0, 0], [1, 1], [0, 1]], [[1, 1], [0, 0], [0, 0]]]],
        bool,
    )
    lines = packed_lines(values)
    [found] = window_cycles([lines], 2, places)
    assert found.tolist() == [oracle.cycles(values[0].tolist(), 2, places)] == [2]


def test_a_window_of_any_depth_is_one_of_all_lines():
    values = drawn(0.9, 4, lines=12)
    [expected] = scheduled(values, 11, 0)
    assert scheduled(values, 12, 0)[0] == scheduled(values, 2**16, 0)[0] == expected
