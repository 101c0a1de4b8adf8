"""Step time and peak memory of every method beside dense, in one run.

What is measured: `train_on_batch` (SGD with momentum) of a network of `launch`, built in
the scope of each method at --sparsity, first layer dense, without it (`dense`) and without
it once more (`dense_again`, whose ratio shows the noise). Each is measured in a process of
its own, in each round in random order: the median time of --steps steps after the first
two, the processor time likewise, and the most memory that was resident above what was
before the model was built. A ratio compares the processes of one round.

The steps are those between two updates of the masks, at the beginning of a run: methods
that are dense then (`pruning`, `acdc`, `str`, `dst`, `cs`, `spartan`) are measured dense.
Those that select in each step (`topkast`, `swat`, `nm`, `dnw`) have --refresh_every;
`nm` keeps 2 of 16.

Example: python benchmarks/methods.py --rounds=3 --csv=docs/benchmarks/methods.csv
"""

import contextlib
import json
import pathlib
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags
from tqdm import tqdm

from benchmarks import common

COLUMNS = (
    *("model", "batch", "sparsity", "refresh_every", "kernels", "threads"),
    *("round", "variant", "wall_ms", "cpu_ms", "memory_bytes"),
)
_TOTAL = {"total_steps": 10_000}
_REFRESHED = {"refresh_every": None}  # by the flag
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static", {}),
    "set": ("set", _TOTAL),
    "rigl": ("rigl", _TOTAL),
    "srigl": ("srigl", _TOTAL),
    "snfs": ("snfs", _TOTAL),
    "dsr": ("dsr", _TOTAL),
    "mest": ("mest", _TOTAL),
    "granet": ("granet", _TOTAL),
    "pruning": ("pruning", _TOTAL),
    "acdc": ("acdc", _TOTAL),
    "topkast": ("topkast", {"b_over_a": 2.0, **_REFRESHED}),
    "topkast_dense_b": ("topkast", {"b_over_a": 0.0, **_REFRESHED}),
    "dnw": ("dnw", _REFRESHED),
    "nm": ("nm", {"m": 16, "sparsity": 0.875, **_REFRESHED}),  # 2 of 16
    "str": ("str", {}),
    "dst": ("dst", {}),
    "cs": ("cs", _TOTAL),
    "spartan": ("spartan", _TOTAL),
    "snip": ("snip", {}),
    "filters": ("filters", {}),
    "swat": ("swat", {"topk_period": None}),
    "meprop": ("meprop", {}),
    "dsg": ("dsg", {}),
}
"""Variant -> the method, and its own arguments; None is --refresh_every."""
DENSE = ("dense", "dense_again")


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    text = "where the rounds are kept"
    flags.DEFINE_string("csv", "methods.csv", text, flag_values=values)
    text = "of the weights, a fraction of zeros"
    flags.DEFINE_float("sparsity", 0.9, text, 0.0, 0.999, flag_values=values)
    flags.DEFINE_list("methods", list(METHODS), "which", flag_values=values)
    text = "a network of launch/train.py"
    flags.DEFINE_string("model", "resnet20", text, flag_values=values)
    text = "what computes the products"
    flags.DEFINE_enum(
        "kernels", "auto", ("auto", "masked", "native"), text, flag_values=values
    )
    for name, default, text in (
        ("batch", 128, "images a step"),
        ("steps", 8, "steps that are timed"),
        ("refresh_every", 100, "steps between selections"),
        ("threads", 1, "within an operation"),
        ("rounds", 3, "rounds, each of a process for each variant"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)
    flags.DEFINE_string(
        "measure", None, "measure this process, a variant, and print JSON (what the "
        "benchmark does in its own processes)", flag_values=values,
    )  # fmt: skip


def scope_of(
    variant: str, sparsity: float, refresh_every: int, kernels: str
) -> contextlib.AbstractContextManager:
    """The scope of a variant."""
    import swat_tf  # noqa: F401  registers its scopes
    from topkast_tf import sparse_scope

    if variant in DENSE:
        return contextlib.nullcontext()
    name, own = METHODS[variant]
    arguments = {k: refresh_every if v is None else v for k, v in own.items()}
    if "b_over_a" in arguments:  # 0 for all entries
        share = arguments.pop("b_over_a")
        arguments["bwd"] = max(0.0, 1 - share * (1 - sparsity)) if share else 0.0
    if name not in ("str", "dst", "cs"):  # which find it
        arguments.setdefault("sparsity", sparsity)
    if name not in ("meprop", "dsg"):  # whose products are masked
        arguments["kernels"] = kernels
    return sparse_scope(name, exempt=("first", "last"), **arguments)


def measure(variant: str, values: flags.FlagValues) -> dict[str, float]:
    """Trains a network in this process, and says what it took."""
    import keras
    import tensorflow as tf

    from launch import models

    tf.config.threading.set_intra_op_parallelism_threads(values.threads)
    keras.utils.set_random_seed(0)
    before = common.peak_bytes()
    with scope_of(variant, values.sparsity, values.refresh_every, values.kernels):
        model = models.find(values.model)((32, 32, 3), 10)
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    x = tf.random.normal([values.batch, 32, 32, 3])
    y = tf.random.uniform([values.batch], 0, 10, tf.int32)
    times = [
        common.timed(lambda: model.train_on_batch(x, y))
        for _ in range(values.steps + 2)
    ][2:]
    return {
        "wall_ms": round(statistics.median(each.wall for each in times), 2),
        "cpu_ms": round(statistics.median(each.cpu for each in times), 2),
        "memory_bytes": common.peak_bytes() - before,
    }


def measure_elsewhere(variant: str, values: flags.FlagValues) -> dict[str, float]:
    """`measure` in a process of its own."""
    names = (*_SETTINGS, "steps")
    command = [
        sys.executable,
        __file__,
        f"--measure={variant}",
        *(f"--{name}={values[name].value}" for name in names),
    ]
    return common.json_of_process(command)


_SETTINGS = ("model", "batch", "sparsity", "refresh_every", "kernels", "threads")
_FIGURES = ("wall_ms", "cpu_ms", "memory_bytes")


def figures_of(row: Mapping[str, str]) -> dict[str, float]:
    """Figure -> number of a row of the CSV."""
    return {name: float(row[name]) for name in _FIGURES}


def table_rows(
    variants: Sequence[str], rounds: Sequence[Mapping[str, Mapping[str, float]]]
) -> list[Sequence[str]]:
    """The rows of the table, without the header."""
    rows: list[Sequence[str]] = []
    for variant in variants:
        pairs = [(found[variant], found["dense"]) for found in rounds]
        ratios = [
            str(common.spread([own[name] / dense[name] for own, dense in pairs]))
            for name in _FIGURES
        ]
        own = statistics.median(own["wall_ms"] for own, _ in pairs)
        rows.append((variant, f"{own:.0f} ms", *ratios))
    return rows


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    if values.measure:
        if values.measure not in (*DENSE, *METHODS):
            common.fail(
                f"Expected --measure of {(*DENSE, *METHODS)}. "
                f"Received: {values.measure}"
            )
        print(json.dumps(measure(values.measure, values)))
        return
    if not set(values.methods) <= set(METHODS):
        common.fail(
            f"Expected --methods of {', '.join(METHODS)}. Received: {values.methods}"
        )
    variants = (*DENSE, *values.methods)
    settings = {name: values[name].value for name in _SETTINGS}
    results = common.Results(values.csv, COLUMNS, settings)
    for number in tqdm(range(values.rounds), "rounds", unit="round", disable=None):
        measured = {row["variant"] for row in results.where(round=number)}
        left = [variant for variant in variants if variant not in measured]
        random.Random(number).shuffle(left)
        for variant in left:
            results.add(
                round=number, variant=variant, **measure_elsewhere(variant, values)
            )
    by_round: dict[str, dict[str, dict[str, float]]] = {}
    for row in results.rows:
        by_round.setdefault(row["round"], {})[row["variant"]] = figures_of(row)
    whole = [found for found in by_round.values() if set(variants) <= set(found)]
    header = ("method", "step", "wall time", "processor time", "memory")
    print(common.table([header, *table_rows(variants, whole)]))
    print("ratios to dense of the same round: median (quartiles)")


if __name__ == "__main__":
    main(sys.argv)
