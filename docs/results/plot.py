"""Draws test accuracy over steps from the metrics of several runs.

python docs/results/plot.py OUT.png NAME=metrics.csv [NAME=metrics.csv ...]
"""

import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main(out, *runs):
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for run in runs:
        name, path = run.split("=", 1)
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        steps = [int(row["step"]) for row in rows]
        accuracy = [100 * float(row["test_accuracy"]) for row in rows]
        axes.plot(steps, accuracy, marker="o", markersize=3, label=name)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
