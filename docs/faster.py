"""Writes the tables of docs/faster.md from the CSVs of benchmarks and results.

python docs/faster.py
"""

import collections
import pathlib
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    # Run as a file, Python looks for modules in docs/ and not in the project.
    sys.path[0] = str(ROOT)

from benchmarks.common import spread  # noqa: E402
from docs.tools.marked import filled, rows, table  # noqa: E402

DOCS = ROOT / "docs"
PAGE = DOCS / "faster.md"
BENCHMARKS, CURVES = DOCS / "benchmarks", DOCS / "results/loss_over_time/curves.csv"

SPARSITIES = (("0.8", "0.6"), ("0.9", "0.8"), ("0.95", "0.9"))
STEPS = (
    ("Transformer-XL, 512 wide, 6 layers", "transformer_xl 512, 6 layers, 8x256"),
    ("ResNet-50, 64 x 64, batch 32", "resnet50 64x64, batch 32"),
    ("ResNet-20, 32 x 32, batch 128", "resnet20 32x32, batch 128"),
    ("the same in `mixed_bfloat16`", "resnet20 32x32, batch 128, bfloat16"),
    ("VGG-16 with SWAT, batch 128", "vgg16_swat 32x32, batch 128"),
    ("two Dense layers, 1024 → 4096 → 1024, 512 rows", "dense_1024x512 1024, 512"),
    ("the same with packed storage", "dense_1024x512 1024, 512, packed"),
    ("the same with 32 rows", "dense_1024x32 1024, 32"),
    ("two Dense layers, 64 → 256 → 64, 32 rows", "dense_64x32 64, 32"),
)
"""What a row of the table is called, and the case of native.csv."""
MACHINES = {
    ("avx512", "1"): "AVX-512, one thread",
    ("avx2", "1"): "AVX2, one thread",
    ("avx2", "2"): "AVX2, two threads",
}
ENGINES = ("keras", "litert", "onnx")
SERVED = (
    ("ResNet-50, 224 x 224, one image", "resnet50", "1"),
    ("Dense 4096 → 4096, one row", "mlp_4096", "1"),
    ("the same, 32 rows", "mlp_4096", "32"),
    ("two Dense layers, 512 → 2048 → 512, one row", "mlp_512", "1"),
    ("the same, 32 rows", "mlp_512", "32"),
    ("MobileNetV2, 224 x 224, one image", "mobilenet_v2", "1"),
)
FILES = (
    ("`.keras`", "keras"),
    ("SavedModel", "saved_model"),
    ("LiteRT, float32", "tflite"),
    ("LiteRT, int8", "tflite_int8"),
)
RATES = {"dense": "0.001", "sparse": "0.0014"}
"""The learning rates of the study of loss over time that its page reports."""


def rounds_of(found: Sequence[Mapping[str, str]]) -> list[dict[str, Mapping[str, str]]]:
    """Variant -> row, for each round in which all variants were measured."""
    rounds: dict[str, dict[str, Mapping[str, str]]] = collections.defaultdict(dict)
    for row in found:
        rounds[row["round"]][row["variant"]] = row
    variants = {row["variant"] for row in found}
    return [each for each in rounds.values() if set(each) == variants]


def training() -> str:
    """How many times as fast a training step is as the faster of the dense ones."""
    measured: dict[tuple[str, ...], list[Mapping[str, str]]] = collections.defaultdict(
        list
    )
    for row in rows(BENCHMARKS / "native.csv"):
        key = (row["case"], row["cpu"], row["threads"], row["fwd"], row["bwd"])
        measured[(*key, row["burst"])].append(row)

    def cell(case: str, machine: tuple[str, str], fwd: str, bwd: str) -> str:
        of_weights = fwd if "swat" in case else bwd  # SWAT has one sparsity
        keys = [key for key in measured if key[:5] == (case, *machine, fwd, of_weights)]
        # Of two series, the one of longer bursts.
        return f"{step_gain(measured[max(keys)]):.2f}" if keys else ""

    def body() -> Iterator[Sequence[str]]:
        for name, case in STEPS:
            for machine, on in MACHINES.items():
                cells = [cell(case, machine, *pair) for pair in SPARSITIES]
                if any(cells):
                    yield name, on, *cells

    return table(("a training step of", "on", "80/60", "90/80", "95/90"), body())


def step_gain(found: Sequence[Mapping[str, str]]) -> float:
    """The median of dense over sparse times, of the rows of one case and sparsity."""
    clock = "cpu_ms" if found[0]["threads"] == "1" else "wall_ms"
    rounds = [
        {variant: float(row[clock]) for variant, row in each.items()}
        for each in rounds_of(found)
    ]
    variant = "auto" if "auto" in rounds[0] else "native"
    best = min(
        ("dense", "dense_xla"),
        key=lambda dense: statistics.median(each[dense] for each in rounds),
    )
    return spread([each[best] / each[variant] for each in rounds]).median


def served() -> str:
    """How many times as fast a served model is as the fastest other engine."""
    measured = rows(BENCHMARKS / "serving.csv")

    def body() -> Iterator[Sequence[str]]:
        for name, case, batch in SERVED:
            cells = []
            for fwd in ("0.8", "0.9", "0.95"):
                found = rounds_of(
                    [
                        row
                        for row in measured
                        if (row["case"], row["batch"], row["fwd"], row["cpu"])
                        == (case, batch, fwd, "avx512")
                    ]
                )
                gains = [
                    min(float(each[engine]["wall_ms"]) for engine in ENGINES)
                    / float(each["native"]["wall_ms"])
                    for each in found
                ]
                cells.append(f"{spread(gains).median:.2f}")
            yield name, *cells

    return table(("served", "80 %", "90 %", "95 %"), body())


def loss() -> str:
    """What is reached in ten minutes."""

    def body() -> Iterator[Sequence[str]]:
        found: dict[tuple[str, str], dict[str, str]] = {}
        for row in rows(CURVES):
            if (row["study"], row["cpu"]) != ("txl_medium", "avx2"):
                continue
            if float(row["learning_rate"]) != float(RATES.get(row["network"], "nan")):
                continue
            key = row["network"], row["seed"]
            if key not in found or int(row["step"]) > int(found[key]["step"]):
                found[key] = row
        for network, name in (("dense", "dense"), ("sparse", "90/80")):
            ends = [row for key, row in found.items() if key[0] == network]
            losses = [float(row["loss"]) for row in ends]
            steps = [int(row["step"]) for row in ends]
            yield (
                name,
                f"{statistics.median(steps):.0f}",
                f"{statistics.median(losses):.2f} ({min(losses):.2f} to {max(losses):.2f})",
                str(len(ends)),
            )

    return table(("", "steps", "bits a byte at the end", "seeds"), body())


def memory() -> str:
    """Memory of training, over dense."""
    measured = [
        row
        for row in rows(BENCHMARKS / "training_memory.csv")
        if row["width"] == "1024"
    ]
    [dense] = [row for row in measured if row["variant"] == "dense"]
    names = {"packed": '`storage="packed"`', "mapped": "the same with `theta_dir`"}

    def body() -> Iterator[Sequence[str]]:
        for variant, name in names.items():
            for column, what in (
                ("counted_bytes", "weights, gradients, slots, plans: counted"),
                ("peak_bytes", "peak of the process: measured"),
            ):
                cells = [
                    f"{float(row[column]) / float(dense[column]):.2f}"
                    for pair in SPARSITIES
                    for row in measured
                    if (row["variant"], row["fwd"], row["bwd"]) == (variant, *pair)
                ]
                yield name, what, *cells

    return table(("", "over dense", "80/60", "90/80", "95/90"), body())


def files() -> str:
    """Sizes of files of a ResNet-20 at 90 %, over dense."""
    last = rounds_of(rows(BENCHMARKS / "model_size.csv"))[-1]

    def body() -> Iterator[Sequence[str]]:
        for name, column in FILES:
            raw, gzipped = (
                float(last["stripped"][c]) / float(last["dense"][c])
                for c in (column, f"{column}_gzip")
            )
            yield name, f"{raw:.2f}", f"{gzipped:.2f}"

    return table(("`strip(model)` as", "over dense", "both compressed"), body())


TABLES = {
    "training": training,
    "loss": loss,
    "served": served,
    "memory": memory,
    "files": files,
}


def main() -> None:
    """Writes the tables."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), TABLES), encoding="utf-8")


if __name__ == "__main__":
    main()
