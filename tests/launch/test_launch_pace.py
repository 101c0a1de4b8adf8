"""The pace of a run: steps per second and remaining time, without one-off costs."""

import pytest

from launch.support.pace import Pace


def test_pace_excludes_compilation_and_evaluation():
    now = 0.0
    pace = Pace(100, lambda: now)
    pace.round_begins(10)
    assert pace.steps_a_second is None and pace.seconds_left is None
    now = 60.0  # the first step is compiled
    pace.step()
    assert pace.steps_a_second is None and pace.seconds_left is None
    now = 62.0
    pace.step()
    now = 64.0
    pace.step()
    assert pace.done == 13
    assert pace.steps_a_second == 0.5
    assert pace.seconds_left == 2.0 * 87
    now = 74.0  # ten seconds of evaluation: in the remaining time, not in the rate
    assert pace.seconds_left == 7.0 * 87
    pace.round_begins(13)
    now = 76.0
    pace.step()
    assert pace.steps_a_second == 0.5
    assert pace.seconds_left == pytest.approx((76 - 60) / 3 * 86)
