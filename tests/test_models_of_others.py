"""Models that others wrote: the checks of docs/models.py, and the page they make."""

import pytest

from docs import models

APPLICATIONS = models.applications()


def test_the_page_is_made_from_its_table():
    table = models.rows()
    assert models.PAGE.read_text(encoding="utf-8") == models.page(table)
    assert {row["model"] for row in table} == {*models.HUB, *APPLICATIONS}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*models.HUB, *APPLICATIONS])
def test_model(name):
    row = models.check(name)
    assert {check: row[check] for check in models.CHECKS} == dict.fromkeys(
        models.CHECKS, "yes"
    )


def test_twenty_backbones():
    assert len(models.HUB) >= 20
    assert "MobileNetV2" in APPLICATIONS and len(APPLICATIONS) >= 38
