"""The documentation runs: docstrings, their examples, and the code of the pages."""

import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PACKAGES = [p for p in ("topkast_tf", "swat_tf", "launch") if (ROOT / p).is_dir()]


def modules():
    """The names of all modules of the packages."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield name
        for info in pkgutil.walk_packages(package.__path__, f"{name}."):
            yield info.name


def is_public(name):
    return not any(part.startswith("_") for part in name.split("."))


MODULES = list(modules())


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failures, _ = doctest.testmod(module, optionflags=flags)
    assert failures == 0, f"see the printed examples of {name}"


def public_objects(name):
    """(qualified name, object) of each class and function of a module."""
    module = importlib.import_module(name)
    exported = {n: getattr(module, n) for n in getattr(module, "__all__", ())}
    own = {
        n: value
        for n, value in vars(module).items()
        if is_public(n) and getattr(value, "__module__", None) == name
    }
    for short, value in (own | exported).items():
        if inspect.isclass(value) or inspect.isfunction(value):
            yield f"{name}.{short}", value


@pytest.mark.parametrize("name", [*filter(is_public, MODULES)])
def test_public_names_are_documented(name):
    module = importlib.import_module(name)
    missing = [] if module.__doc__ else [name]
    for path, value in public_objects(name):
        # `inspect.getdoc` would fall back on the docstring of a base class; that of a
        # dataclass without one is its generated signature.
        doc = value.__doc__ or ""
        if not doc.strip() or doc.startswith(f"{value.__name__}("):
            missing.append(path)
    assert not missing, f"no docstring: {', '.join(missing)}"


PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?P<run><!-- ci: run -->\s*\n)?```python\n(?P<code>.*?)^```", re.M | re.S
)


def python_blocks(page):
    """(whether to run it, compiled code) of each Python block of a page."""
    text = page.read_text(encoding="utf-8")
    for found in BLOCK.finditer(text):
        # The padding makes errors name the line of the page.
        padding = "\n" * text.count("\n", 0, found.start("code"))
        yield bool(found["run"]), compile(padding + found["code"], str(page), "exec")


def pages_that_run():
    """The pages with blocks to run; those marked `<!-- ci: slow -->` are slow."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if "<!-- ci: run -->" in text:
            marks = [pytest.mark.slow] if "<!-- ci: slow -->" in text else []
            yield pytest.param(page, marks=marks, id=str(page.relative_to(ROOT)))


def test_python_of_every_page_compiles():
    assert sum(1 for page in PAGES for _ in python_blocks(page)) > 20


@pytest.fixture
def registries_as_before():
    """Takes out what a page registers."""
    from launch.data import DATASETS
    from topkast_tf.layers.product_rule import RULES
    from topkast_tf.methods import METHODS

    before = [(registry, dict(registry)) for registry in (DATASETS, RULES, METHODS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.mark.parametrize("page", [*pages_that_run()])
@pytest.mark.usefixtures("registries_as_before")
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """All blocks of a page that are to run, in order, as a reader would."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for run, code in python_blocks(page):
        if run:
            exec(code, names)


LINK = re.compile(r"\[[^\]\[]*\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```|`[^`\n]+`", re.M | re.S)


def anchors(page):
    """The anchors of a page's headings, as code hosts and the site make them."""
    text = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    for heading in re.findall(r"^#+ (.+)$", text, re.M):
        words = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading)).lower()
        yield words.strip().replace(" ", "-")


@pytest.mark.parametrize(
    "page",
    [*PAGES, ROOT / "CHANGELOG.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_links_lead_somewhere(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for found in LINK.finditer(text):
        target, _, anchor = found["target"].partition("#")
        if re.match(r"https?:", target):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name} links {target}"
        if anchor and path.suffix == ".md":
            assert anchor in [*anchors(path)], f"{page.name} links {found['target']}"


@pytest.mark.parametrize("marker", ["quickstart", "test", "docs"])
def test_readme_has_the_commands_that_ci_runs(marker):
    pattern = rf"<!-- ci: {marker} -->\s*\n```bash\n[^`]+\n```"
    assert re.search(pattern, README.read_text(encoding="utf-8"))
