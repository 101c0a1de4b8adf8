"""Invalid settings of a Transformer-XL, and their error messages."""

import pytest

from launch.models.transformer_xl_config import find
from tests.launch.transformer_xl_models import ONE, TINY, compiled, text


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"d_model": 7}, "`d_model` to be even. Received: 7"),
        ({"heads": 0}, "`heads` to be at least 1. Received: 0"),
        ({"dropout": 1.0}, r"`dropout` to be in \[0, 1\). Received: 1.0"),
        ({"memory_length": -1}, "`memory_length` to be at least 0. Received: -1"),
        ({"clamp_len": 0}, "`clamp_len` to be None or at least 1. Received: 0"),
        ({"cutoffs": (5, 5)}, r"`cutoffs` to increase.*Received: cutoffs=\(5, 5\)"),
        ({"cutoffs": (5, 11)}, "`cutoffs` to increase"),
        ({"cutoffs": (2, 4), "div_val": 4}, "at least 1 wide in the last cluster"),
    ],
)
def test_invalid_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        TINY.replaced(**wrong)


def test_unsupported_requests_are_refused():
    with pytest.raises(ValueError, match="Received: 'enwik9'"):
        find("enwik9")
    model = compiled(ONE)
    with pytest.raises(ValueError, match="Received: no targets"):
        model.evaluate(text()[0][0], verbose=0)
    with pytest.raises(ValueError, match="at least 0. Received: -1"):
        model.evaluation_memory_length = -1
