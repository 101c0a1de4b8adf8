"""Learning rates, each value worked out by hand."""

import pytest

from launch.run.schedules import learning_rate


def rates(*arguments, steps, **options):
    rate = learning_rate(*arguments, **options)
    return [rate(step) for step in steps]


def test_constant():
    assert rates("constant", 0.2, 10, steps=(0, 5, 9)) == [0.2, 0.2, 0.2]


def test_cosine_at_quarters():
    found = rates("cosine", 0.4, 100, steps=(0, 25, 50, 75, 100))
    root_half = 0.5**0.5
    assert found == pytest.approx(
        [0.4, 0.2 * (1 + root_half), 0.2, 0.2 * (1 - root_half), 0.0], abs=1e-15
    )


def test_steps_schedule_drops_by_ten_at_the_given_steps():
    found = rates("steps", 1.0, 10, steps=(3, 4, 7, 8), drop_steps=(4, 8))
    assert found == pytest.approx([1.0, 0.1, 0.1, 0.01], rel=1e-12)


def test_steps_schedule_drops_at_half_and_three_quarters_by_default():
    found = rates("steps", 1.0, 64_000, steps=(31_999, 32_000, 47_999, 48_000))
    assert found == pytest.approx([1.0, 0.1, 0.1, 0.01], rel=1e-12)


def test_warm_up_multiplies_any_schedule():
    found = rates("constant", 0.8, 10, warmup_steps=4, steps=range(6))
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rel=1e-12)
    found = rates("cosine", 1.0, 4, warmup_steps=4, steps=(1, 2))
    assert found == pytest.approx([0.5 * (1 + 0.5**0.5) / 2, 0.75 * 0.5], rel=1e-12)


def test_unknown_name_says_what_was_received():
    with pytest.raises(ValueError, match="Received: name='poly'"):
        learning_rate("poly", 0.1, 10)
