"""Draws a figure of several runs over their steps.

python launch/plot.py OUT.png COLUMN NAME=metrics.csv|NUMBER ...

COLUMN is one of metrics.csv, such as test_accuracy or valid_bpc. A number in the place of
a file is drawn as a line across, to compare with.
"""

import csv
import pathlib
import sys

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from launch.plots import curves
from launch.plots.colours import style_of
from launch.plots.panels import png

LABELS = {
    "test_accuracy": ("test accuracy (%)", 100),
    "valid_bpc": ("validation, bits a byte", 1),
    "valid_perplexity": ("validation perplexity", 1),
}
"""Column -> what stands beside the axis, and the factor to its unit."""


def main(out: str, column: str, *runs: str) -> None:
    """Draws the figure.

    Args:
      out: the file that is written.
      column: of the tables.
      *runs: a name and a table, or a number, of each line.
    """
    label, factor = LABELS.get(column, (column, 1))
    lines, across = [], {}
    for run in runs:
        name, given = run.split("=", 1)
        if given.replace(".", "", 1).isdigit():
            across[name] = float(given)
            continue
        with open(given, newline="") as file:
            rows = list(csv.DictReader(file))
        steps = [int(row["step"]) for row in rows]
        values = [factor * float(row[column]) for row in rows]
        lines.append(curves.single(name, style_of(len(lines)), steps, values))
    figure = curves.draw(lines, "optimizer step", label, across=across)
    pathlib.Path(out).write_bytes(png(figure))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
