"""The documentation runs: docstring examples, docstrings themselves, and the README."""

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


def python_blocks():
    """(line, whether to run it, code) of each Python block of the README."""
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    pattern = re.compile(
        r"^(?P<run><!-- ci: run -->\s*\n)?```python\n(?P<code>.*?)^```", re.M | re.S
    )
    for found in pattern.finditer(text):
        line = text.count("\n", 0, found.start("code"))
        yield pytest.param(line, bool(found["run"]), found["code"], id=f"line{line}")


@pytest.mark.parametrize(("line", "run", "code"), [*python_blocks()])
def test_readme_python(line, run, code, tmp_path, monkeypatch):
    # The padding makes errors name the line of the README.
    compiled = compile("\n" * line + code, str(README), "exec")
    if run:
        monkeypatch.chdir(tmp_path)
        exec(compiled, {"__name__": "__main__"})


@pytest.mark.parametrize("marker", ["quickstart", "test"])
def test_readme_has_the_commands_that_ci_runs(marker):
    pattern = rf"<!-- ci: {marker} -->\s*\n```bash\n[^`]+\n```"
    assert re.search(pattern, README.read_text(encoding="utf-8"))
