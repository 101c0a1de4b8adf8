"""Makes the notebooks of examples/notebooks from their sources, and runs them.

    pip install -e ".[notebooks]"
    python tools/notebooks.py                 # all whose source is newer in content
    python tools/notebooks.py quickstart      # some
    python tools/notebooks.py --check         # only says which ones are out of date

A source is a Python file with cells after `# %%`, which runs as a script, too. The
notebook holds the same cells with what they printed and drew, and a digest of the source
that it was made from.
"""

import argparse
import hashlib
import pathlib
import sys
import tempfile
import time

import jupytext
import nbclient
import nbformat

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "examples" / "notebooks"
DIGEST = "source_digest"


def digest(source: pathlib.Path) -> str:
    """What tells one source from another."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def is_current(source: pathlib.Path) -> bool:
    """Whether the notebook beside a source was made from it."""
    path = source.with_suffix(".ipynb")
    if not path.is_file():
        return False
    return nbformat.read(path, 4).metadata.get(DIGEST) == digest(source)


def executed(source: pathlib.Path, folder: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook of a source, with its outputs.

    Args:
      source: the Python file.
      folder: the working directory of its cells.

    Raises:
      CellExecutionError: for a cell that fails.
    """
    notebook = jupytext.read(source)
    client = nbclient.NotebookClient(
        notebook,
        timeout=900,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which differ each time
        # Messages of TensorFlow say nothing of the example.
        outputs = cell.get("outputs", [])
        cell["outputs"] = [each for each in outputs if each.get("name") != "stderr"]
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
    notebook.metadata = {
        "kernelspec": notebook.metadata["kernelspec"],
        DIGEST: digest(source),
    }
    return notebook


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="of notebooks; default: all")
    parser.add_argument("--check", action="store_true", help="run nothing")
    asked = parser.parse_args()
    known = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
    unknown = sorted(set(asked.names) - set(known))
    if unknown:
        parser.error(f"Expected some of {', '.join(known)}. Received: {unknown[0]}")
    old = [path for path in known.values() if not is_current(path)]
    if asked.check:
        for path in old:
            print(f"out of date: {path.with_suffix('.ipynb').name}")
        return int(bool(old))
    for path in [known[name] for name in asked.names] or old:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(path, pathlib.Path(folder))
        nbformat.write(notebook, path.with_suffix(".ipynb"))
        print(f"{path.stem}: {time.monotonic() - begun:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
