"""Native kernels beside TensorFlow's dense products: layers alone, and whole steps.

Products (`--cases` of the form `forward_512x2048`, `gradient_2048x512`): one product of a
weight of inputs x outputs with 2,048 positions. A compiled function computes it five times,
as a step has many operations too; times are those of one.

  forward   y = x alpha; the input gradient is the same product of alpha's transpose. Also
            `static`: by the compiled loops where the library would generate code
  gradient  the weight gradient: on B for the native kernels, everywhere for the dense

The same of a weight whose sets are whole blocks, in the variants `outputs` (blocks of 16
outputs of one input), `inputs` (16 inputs of one output: this is also the input gradient of
a weight of outputs x inputs with the others) and `entries` (the kernels of single entries):

  blocks           the forward product
  blocks_gradient  the weight gradient on B

And the first two of a 3 x 3 convolution with as many channels in its input as in its output
(`forward_conv_28x128`, `gradient_conv_28x128`: --images of 28 x 28 with 128 channels).

Steps (`transformer_xl`, `resnet50`, ...): `train_on_batch` of a Keras model
(native_models.py), in variants:

  dense        the model without a scope, as Keras runs it on a CPU
  dense_xla    the same with jit_compile=True
  masked       in its scope with kernels="masked"
  native       with kernels="native"
  auto         with kernels="auto"

and of two layers of any size, `dense_256x32` (width, positions) or `convs_8x64` (size,
channels; 32 images), with refresh_every=--refresh_every (SWAT's topk_period). A model with
a layer that has no native kernels has no variant `native`. A burst of steps of each variant
is measured in each round, in random order; a ratio compares medians of one round, so what
else runs on the machine hits both sides alike. The table gives the median of the ratios
over the rounds, and the range between their quartiles. Speed-ups are over the faster of the
two dense variants.

With --dtype=bfloat16 all variants compute in it, from variables in float32 (Keras's
mixed_bfloat16); a dense product then casts its weight first, as Keras does in each step.
With --storage=packed the sparse variants of models with Top-KAST train the entries of B.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/native.py --cases=forward_512x2048 --rounds=5 --threads=1
"""

import contextlib
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from benchmarks import common
from launch.support.quiet import quiet_start

with quiet_start():
    import keras
    import tensorflow as tf

    from benchmarks import native_models, native_products
    from topkast_tf.kernels.library import library
    from topkast_tf.variables.packing import STORAGES

COLUMNS = (
    *("case", "fwd", "bwd", "threads", "cpu", "burst", "refresh_every", "tensorflow"),
    *("round", "variant", "wall_ms", "cpu_ms"),
)
CASES = (*native_products.CASES, *native_models.CASES)
DENSE = ("dense", "dense_xla")
OF_STEPS = (*DENSE, "masked", "native", "auto")


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    for kind, name, default, text in (
        ("list", "cases", list(CASES), "which products and models"),
        (
            "list",
            "sparsities",
            ["0.8/0.6", "0.9/0.8", "0.95/0.9"],
            "pairs fwd/bwd of sparsities",
        ),
        ("string", "csv", "native.csv", "where the rounds are kept"),
        ("float", "seconds", 0.0, "begin no round after so long; 0: no limit"),
    ):
        define = getattr(flags, f"DEFINE_{kind}")
        define(name, default, text, flag_values=values)
    for name, default, text in (
        ("rounds", 10, "rounds of each case"),
        ("burst", 3, "calls that count of each variant in a round"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)
    define_sizes(values)


def define_sizes(values: flags.FlagValues) -> None:
    """Adds the flags of the models, and of how they compute."""
    text = "of the computation: float32 or bfloat16"
    flags.DEFINE_string("dtype", "float32", text, flag_values=values)
    flags.DEFINE_enum(
        *("storage", "dense", STORAGES),
        "of Top-KAST's weights: dense, or packed, the entries of B alone",
        flag_values=values,
    )
    for name, default, text in (
        ("threads", 1, "threads within an operation"),
        ("positions", 2048, "positions of the products and of dense_stack"),
        ("batch", 8, "segments a step of transformer_xl"),
        ("length", 256, "tokens of a segment"),
        ("images", 32, "images of the convolutions"),
        ("layers", 6, "blocks of transformer_xl"),
        ("width", 512, "width of transformer_xl and dense_stack; 4 times that inside"),
        ("refresh_every", 100, "steps between selections"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)


def step_of(
    case: str, variant: str, fwd: float, bwd: float, values: flags.FlagValues
) -> Callable[[], object]:
    """A training step of a variant, compiled and warm."""
    keras.utils.set_random_seed(0)
    of = native_models.find(case)
    if variant in DENSE:
        model = of.build(values)
    else:
        how = {"kernels": variant, "storage": values.storage}
        with of.scope(fwd, bwd, values.refresh_every, **how):
            model = of.build(values)
    model.compile(**of.compile(), jit_compile=variant == "dense_xla")
    x, y = of.batch(values)

    def step():
        return model.train_on_batch(x, y)

    for _ in range(2):
        step()
    return step


def run_case(
    case: str, fwd: float, bwd: float, values: flags.FlagValues, deadline: float
) -> list[Sequence[str]]:
    """Measures the rounds that are missing; returns the rows of the table."""
    is_product = native_products.is_product(case)
    variants = (
        native_products.VARIANTS[case.rsplit("_", 1)[0]]
        if is_product
        else _variants_of(case)
    )
    make = native_products.product_of if is_product else step_of
    repeats = native_products.REPEATS if is_product else 1
    results = common.Results(
        values.csv,
        COLUMNS,
        {
            "case": sized(case, values),
            "fwd": fwd,
            "bwd": bwd,
            "threads": values.threads,
            "cpu": library().cpu,
            "burst": values.burst,
            "refresh_every": values.refresh_every,
            "tensorflow": tf.__version__,
        },
    )
    name = f"{sized(case, values)} at {fwd:g}/{bwd:g}"
    rounds = common.run_rounds(
        results,
        variants,
        lambda variant: make(case, variant, fwd, bwd, values),
        rounds=values.rounds,
        deadline=deadline,
        burst=values.burst,
        name=name,
        units=repeats,
    )
    return table_rows(name, variants, rounds)


def _variants_of(case: str) -> tuple[str, ...]:
    whole = native_models.find(case).whole
    return tuple(variant for variant in OF_STEPS if whole or variant != "native")


def sized(case: str, values: flags.FlagValues) -> str:
    """A case with its sizes, as it stands in the CSV."""
    dtype = "" if values.dtype == "float32" else f", {values.dtype}"
    model = native_models.find(case)
    if model is not None:
        storage = "" if values.storage == "dense" else f", {values.storage}"
        return f"{case} {model.about(values)}{dtype}{storage}"
    return f"{case}, {values.images if 'conv' in case else values.positions}{dtype}"


def table_rows(
    name: str, variants: Sequence[str], rounds: Sequence[dict[str, common.Times]]
) -> list[Sequence[str]]:
    """The rows of the table for one case, without the header."""
    if not rounds:
        return [(name, "no round yet", "", "")]
    dense = [v for v in variants if v in DENSE]
    median = {v: statistics.median(t[v].wall for t in rounds) for v in variants}
    best = min(dense, key=median.__getitem__)
    rows: list[Sequence[str]] = []
    for variant in variants:
        ratio = common.spread([t[best].wall / t[variant].wall for t in rounds])
        rows.append(
            (
                f"{name}: {variant}",
                f"{median[variant]:.2f}",
                str(ratio),
                str(len(rounds)),
            )
        )
    return rows


def sparsities_of(pair: str) -> tuple[float, float]:
    """fwd and bwd of a pair such as `0.9/0.8`; exits for another text."""
    try:
        fwd, bwd = map(float, pair.split("/"))
    except ValueError:
        common.fail(f"Expected sparsities such as 0.9/0.8. Received: {pair}")
    return fwd, bwd


def set_up(values: flags.FlagValues) -> None:
    """Sets the dtype and the number of threads that the flags ask for."""
    if values.dtype not in ("float32", "bfloat16"):
        common.fail(
            f"Expected --dtype=float32 or bfloat16. Received: --dtype={values.dtype}"
        )
    if values.dtype == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    with contextlib.suppress(RuntimeError):  # in a process where TensorFlow runs
        tf.config.threading.set_intra_op_parallelism_threads(values.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    for case in values.cases:
        if not native_products.is_product(case) and native_models.find(case) is None:
            common.fail(f"Expected --cases of {', '.join(CASES)}. Received: {case}")
    pairs = [sparsities_of(pair) for pair in values.sparsities]
    set_up(values)
    deadline = time.monotonic() + (values.seconds or float("inf"))
    rows: list[Sequence[str]] = [("", "ms", "speed-up over dense", "rounds")]
    for case in values.cases:
        for fwd, bwd in pairs:
            rows += run_case(case, fwd, bwd, values, deadline)
    print(common.table(rows))
    print("median (quartiles) over the rounds")


if __name__ == "__main__":
    main(sys.argv)
