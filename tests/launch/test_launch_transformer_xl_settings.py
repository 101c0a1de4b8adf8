"""Invalid settings of a Transformer-XL, and their error messages."""

import pytest

from launch.models.transformer_xl_config import CONFIGS, find
from launch.tasks.language import config_of
from tests.launch.runs import settings
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
        ({"same_length": True, "memory_length": 0}, "evaluation_memory_length=0"),
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


@pytest.mark.parametrize("name", CONFIGS)
def test_a_factor_of_1_changes_nothing(name):
    assert CONFIGS[name].widened(1.0) == CONFIGS[name]


def test_width_scales_every_width():
    config = config_of(settings("--dataset=python", "--width=1.5"), 256)
    assert (config.d_model, config.d_embed, config.d_head, config.d_inner) == (
        *(192, 192, 48),
        768,
    )
    assert (config.heads, config.layers, config.segment_length) == (4, 4, 64)
    narrow = CONFIGS["wikitext103_base"].replaced(d_embed=100).widened(0.33)
    # 0.33 x 410 is 135.3: the nearest even number.
    assert (narrow.d_model, narrow.d_embed, narrow.d_head) == (136, 33, 14)
