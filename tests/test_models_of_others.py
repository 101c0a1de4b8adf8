"""Third-party models: the checks of docs/models.py, and the page made from them."""

import keras
import pytest

from docs import models

APPLICATIONS = models.applications()


def test_page_matches_its_table():
    table = models.rows()
    assert models.PAGE.read_text(encoding="utf-8") == models.page(table)
    assert {row["model"] for row in table} == {*models.HUB, *APPLICATIONS}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*models.HUB, *APPLICATIONS])
def test_model_passes_every_check(name):
    keras.utils.clear_session(free_memory=True)  # else all models take 20 GB
    row = models.check(name)
    assert {check: row[check] for check in models.CHECKS} == dict.fromkeys(
        models.CHECKS, "yes"
    )


def test_at_least_twenty_backbones_are_covered():
    assert len(models.HUB) >= 20
    assert "MobileNetV2" in APPLICATIONS and len(APPLICATIONS) >= 38
