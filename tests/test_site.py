"""The site: its navigation, its API pages, its tables, and what its hooks do."""

import doctest
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

from docs import faster, rooms, studies
from docs.tools import marked
from docs.tools.method_steps import NAMES
from tests.launch import browser

ROOT = pathlib.Path(__file__).resolve().parent.parent
API = {
    "topkast_tf": "topkast_tf",
    "swat_tf": "swat_tf",
    "topkast_tf.methods": "methods",
    "swat_tf.simulator": "simulator",
}
"""Package -> its page in docs/api."""


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("package", API)
def test_every_public_name_has_its_place_in_the_api(package):
    """A name of a package that is also a module of it is listed as `module.name`."""
    listed = re.findall(r"^::: (\S+)", read(f"docs/api/{API[package]}.md"), re.M)
    names = [name.removeprefix(f"{package}.").rpartition(".")[2] for name in listed]
    assert sorted(names) == sorted(importlib.import_module(package).__all__)
    for name in listed:
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), name


def test_every_page_is_in_the_navigation():
    pages = {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")}
    listed = re.findall(
        r"(?<![\w/.])[\w/]+\.md", read("mkdocs.yml").partition("nav:")[2]
    )
    assert sorted(listed) == sorted(pages | {"changelog.md"})


@pytest.mark.parametrize("script", [faster, rooms, studies])
def test_tables_are_what_their_script_writes(script):
    page = script.PAGE.read_text(encoding="utf-8")
    assert page == marked.filled(page, script.TABLES)


def test_examples_of_marked_tables():
    failures, tried = doctest.testmod(marked)
    assert tried and not failures


def test_tables_need_their_markers():
    with pytest.raises(ValueError, match=r"Expected a marker for each of \['a'\]"):
        marked.filled("no table", {"a": str})


def test_links_of_the_site(caplog):
    pytest.importorskip("mkdocs", reason="the site's packages are not installed")
    from docs.tools.site_hooks import site_links

    text = "[a](../README.md) [b](../CHANGELOG.md#unreleased) `[c](d)` [e](kernels.md)"
    assert site_links(text, "docs/packed.md", "packed.md", None) == (
        "a [b](changelog.md#unreleased) `[c](d)` [e](kernels.md)"
    )
    text = "[methods.md](../methods.md#the-methods)"
    assert site_links(text, "docs/results/methods.md", "results/methods.md", None) == (
        "[Choose a method](../methods.md#the-methods)"
    )
    hosted = site_links("[a](../README.md)", "docs/a.md", "a.md", "https://host/repo/")
    assert hosted == "[a](https://host/repo/blob/main/README.md)"
    assert not caplog.records
    site_links("[a](nothing.md)", "docs/packed.md", "packed.md", None)
    assert "docs/packed.md links nothing.md, which does not exist" in caplog.text


def test_pages_that_ask_another_host_are_found():
    pytest.importorskip("mkdocs", reason="the site's packages are not installed")
    from docs.tools.site_hooks import OTHER_HOST

    assert OTHER_HOST.search('<script src="https://host/a.js"></script>')
    assert OTHER_HOST.search('<link rel="stylesheet" href="//host/a.css">')
    assert not OTHER_HOST.search('<a href="https://host/">a link</a><img src="a.png">')


def test_docstrings_become_markdown():
    pytest.importorskip("griffe", reason="the site's packages are not installed")
    from docs.tools.docstring_markdown import markdown

    assert markdown("Adds::\n\n    1 + 1\n\n>>> 1 + 1\n2\n") == (
        "Adds:\n\n    1 + 1\n\n```pycon\n>>> 1 + 1\n2\n```\n\n"
    )


@pytest.mark.parametrize("path", ["docs/index.md", "docs/guides/transformer_xl.md"])
def test_speed_that_pages_quote_is_that_of_the_table(path):
    row = next(line for line in faster.training().splitlines() if "Transformer" in line)
    first, *_, last = (float(cell) for cell in re.findall(r"\d+\.\d+", row))
    assert f"{first:.1f} to {last:.1f} times" in read(path)


def test_number_of_methods_is_that_of_the_registry():
    assert f"one of {len(NAMES)}" in read("docs/start.md")
    for path in ("docs/index.md", "README.md"):
        assert re.search(rf"\b{len(NAMES) - 5} other(s| methods)", read(path)), path


@pytest.mark.parametrize(
    "page", ["contributing", "extending", "how_it_works", "reproduce"]
)
def test_files_that_a_page_names_are_there(page):
    """`folder/file.py`, also as the first argument of `python` or `pytest`."""
    text = re.sub(r"\n\s*", " ", read(f"docs/{page}.md"))
    named = re.findall(r"`(?:python |pytest )?(\w+(?:/\w+)+\.\w+)\b", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.slow
def test_pages_fit_wide_and_narrow_and_ask_no_other_host(tmp_path):
    pytest.importorskip("mkdocs", reason="the site's packages are not installed")
    if browser.found() is None:
        pytest.skip("no browser is installed")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    opened = browser.Browser(tmp_path / "profile")
    try:
        for page in sorted(site.rglob("*.html")):
            if page.parent.name == "reports":  # tests/launch looks at these
                continue
            if page.parent.name == "methods" and page.stem not in ("swat", "topkast"):
                continue  # of one form
            for width, scheme in ((375, "dark"), (1280, "light")):
                opened.open(page, width, scheme)
                assert opened.value("document.documentElement.scrollWidth") <= width
                wide = opened.value(TOO_WIDE)
                assert not wide, f"{page.name}, {width} pixels wide: {wide}"
                asked = opened.requests()
                assert [url for url in asked if not url.startswith("file:")] == []
    finally:
        opened.close()


TOO_WIDE = """
[...document.querySelectorAll('.md-content *')]
  .filter(e => e.getBoundingClientRect().right > window.innerWidth + 2)
  .filter(e => !e.closest('.md-typeset__scrollwrap, pre, .highlight'))
  .map(e => e.tagName + ': ' + e.textContent.slice(0, 40))
"""
"""The elements beyond the right edge that cannot be scrolled to in a box of their own."""
