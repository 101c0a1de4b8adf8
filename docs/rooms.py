"""Writes the table of packages in docs/how_it_works.md.

python docs/rooms.py
"""

import ast
import pathlib
import sys
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Run as a file, Python looks for modules in docs/ and not in the project.
    sys.path[0] = str(ROOT)

from docs.tools.marked import filled, table  # noqa: E402

PAGE = ROOT / "docs/how_it_works.md"
PACKAGES = ("topkast_tf", "swat_tf", "launch")


def rooms() -> str:
    """Each package, what it is for, and how many modules it has."""

    def body() -> Iterator[Sequence[str]]:
        for package in PACKAGES:
            for path in sorted((ROOT / package).rglob("__init__.py")):
                tree = ast.parse(path.read_text(encoding="utf-8"))
                about = (ast.get_docstring(tree) or "").splitlines()[0]
                files = sum(1 for _ in path.parent.glob("*.py")) - 1
                yield f"`{path.parent.relative_to(ROOT)}`", about, str(files)

    return table(("package", "what it is for", "modules"), body())


TABLES = {"rooms": rooms}


def main() -> None:
    """Writes the table."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), TABLES), encoding="utf-8")


if __name__ == "__main__":
    main()
