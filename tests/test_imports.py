"""The imports of the packages: no cycles, and only from lower layers.

They are read from the sources, so imports for types only (`TYPE_CHECKING`) and imports
within functions count too.
"""

import ast
import functools
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("topkast_tf", "swat_tf", "launch")
WINGS = ("core", "kernels", "methods", "variables", "layers", "compaction", "analysis")
"""Subpackages of topkast_tf, the lowest first; its other modules are above them."""
GROUND = "topkast_tf.compat"
"""The module below all subpackages."""
MAY_USE = {"methods": ("core",), "variables": ("core", "kernels", "methods")}
"""Subpackages that one may import besides itself; by default all lower ones."""


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports():
    """Module -> the modules of these packages that its source names."""
    files = [file for name in PACKAGES for file in sorted((ROOT / name).rglob("*.py"))]
    known = {name_of(file) for file in files}
    found = {}
    for file in files:
        named = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                named.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file} has a relative import"
                modules = {f"{node.module}.{alias.name}" for alias in node.names}
                named.update(modules & known or {node.module})
                if not modules <= known:
                    named.add(node.module)
        found[name_of(file)] = (named & known) - {name_of(file)}
    return found


def test_no_import_cycles():
    """Depth first: a module that is met again while it is open closes a cycle."""
    done, path = set(), []

    def visit(module):
        assert module not in path, f"{' -> '.join([*path, module])}"
        if module in done:
            return
        path.append(module)
        for other in sorted(imports()[module]):
            # `from package.sub import module` also names the subpackage, which imports
            # nothing or its public names.
            if not module.startswith(f"{other}."):
                visit(other)
        done.add(path.pop())

    for module in imports():
        visit(module)


def test_the_sources_have_imports():
    assert len(imports()) > 80
    assert "topkast_tf.core.selection" in imports()["topkast_tf.methods.topkast"]


def test_packages_import_only_lower_packages():
    below = {"topkast_tf": (), "swat_tf": ("topkast_tf",)}
    for module, named in imports().items():
        package = module.split(".")[0]
        for other in named:
            if package in below:
                assert other.split(".")[0] in (package, *below[package]), module


def wing_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "topkast_tf" and len(parts) > 2 else None


def test_subpackages_import_only_lower_subpackages():
    for module, named in imports().items():
        wing = wing_of(module)
        if wing is None:
            continue
        allowed = {wing, *MAY_USE.get(wing, WINGS[: WINGS.index(wing)])}
        others = {o for o in named if o.split(".")[0] == "topkast_tf"}
        others -= {f"topkast_tf.{w}" for w in WINGS} | {"topkast_tf", GROUND}
        above = {other for other in others if wing_of(other) not in allowed}
        assert not above, f"{module} uses {sorted(above)}"


def test_core_uses_no_variables():
    for path in (ROOT / "topkast_tf" / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("Variable", "read_value", "assign"), path


def test_only_compat_imports_private_modules():
    for module in imports():
        if module == GROUND or not module.startswith(("topkast_tf", "swat_tf")):
            continue
        path = ROOT / (module.replace(".", "/") + ".py")
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        assert "tensorflow.python" not in text and "keras.src" not in text, module
