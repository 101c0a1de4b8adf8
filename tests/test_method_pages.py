"""The pages of the methods: one for each, as `docs/method_pages.py` writes them."""

import re

import pytest

from docs import method_pages
from docs.tools.method_steps import NAMES

QUICK = ("rigl", "swat", "topkast")
METHOD = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in NAMES],
)


def read(path):
    return (method_pages.ROOT / path).read_text(encoding="utf-8")


def test_every_method_has_a_page_and_a_picture():
    assert {path.name for path in method_pages.FOLDER.iterdir()} == {
        f"{name}.{ending}" for name in NAMES for ending in ("md", "svg")
    }


@pytest.mark.parametrize("path", ["docs/methods.md", "mkdocs.yml"])
def test_every_page_is_listed(path):
    assert {*re.findall(r"\bmethods/(\w+)\.md", read(path))} == {*NAMES}


@METHOD
def test_page_is_what_the_code_says(name):
    assert read(f"docs/methods/{name}.md") == method_pages.page(name)


@METHOD
def test_picture_is_what_the_steps_do(name):
    assert read(f"docs/methods/{name}.svg") == method_pages.picture(name)


def test_published_figures_name_a_method_and_who_printed_them():
    rows = method_pages.rows(method_pages.PUBLISHED)
    assert {row["method"] for row in rows} <= set(NAMES)
    assert {row["printed_by"] for row in rows} == {"authors", "others"}
    assert all(row["source"] and float(row["accuracy"]) < 100 for row in rows)


def test_unknown_method_is_refused():
    with pytest.raises(
        SystemExit, match=r"Expected methods of .* Received: \['lottery'\]"
    ):
        method_pages.main(["lottery"])
