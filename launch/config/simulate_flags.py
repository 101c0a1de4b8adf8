"""The flags of `launch/simulate.py`: a network or a run, and the machine."""

import pathlib
from collections.abc import Sequence

from absl import flags

from launch.config import flags as launch_flags
from launch.config.flag import ABOVE_0, AT_LEAST_0, AT_LEAST_1, SHARE, Flag, Groups
from launch.config.methods import METHODS
from launch.support.errors import UserError

PRESETS = (
    *("dadiannao", "tcl", "tensordash"),
    *("systolic_output", "systolic_weight", "systolic_input"),
)
"""The names in `swat_tf.simulator.PRESETS`, which is not imported before it is needed."""

_NETWORK: tuple[Flag, ...] = (
    Flag(
        "string",
        "model",
        None,
        "a model of launch/train.py (resnet50, vgg16_cifar, ...) or of keras.applications "
        "(ResNet50, MobileNetV2, ...)",
    ),
    Flag("float", "sparsity", None, "of the weights: fraction of zeros", range=SHARE),
    Flag(
        "float",
        "activation_sparsity",
        None,
        "of the activations, in the same layers; default that of each layer's weights",
        range=SHARE,
    ),
    Flag(
        "string",
        "distribution",
        "uniform",
        "of the sparsity over layers: uniform, er, erk",
        choices=("uniform", "er", "erk"),
    ),
    Flag(
        "list",
        "exempt",
        ["first"],
        "layers that stay dense: regexes on their names, first, last",
    ),
    Flag(
        "integer",
        "image_size",
        None,
        "height and width of images; default that of the model: 224, 299 or 32",
        AT_LEAST_1,
    ),
    Flag(
        "integer",
        "classes",
        None,
        "outputs; default 1000, of models for small images 10",
        AT_LEAST_1,
    ),
)
_RUN: tuple[Flag, ...] = (
    Flag("string", "method", None, "one of the run; default all", choices=(*METHODS,)),
    Flag(
        "string",
        "checkpoint",
        "last",
        "last, or best: that of the best evaluation during training",
        choices=("last", "best"),
    ),
    Flag(
        "string",
        "data_dir",
        None,
        "the present folder of the data; default as in training",
    ),
)
_STEP: tuple[Flag, ...] = (
    Flag(
        "integer",
        "batch_size",
        None,
        "examples of the step; default that of the run, else 32",
        AT_LEAST_1,
    ),
    Flag(
        "integer",
        "examples",
        None,
        "those whose activations stand for the batch; default of a run at most 32, of "
        "random masks as many for each layer as have 3,136 positions",
        AT_LEAST_1,
    ),
    Flag(
        "integer",
        "sample",
        2**19,
        "lines of rows that are scheduled for each product at most; where there are more, "
        "the standard error is shown",
        AT_LEAST_1,
    ),
    Flag("integer", "seed", 0, "of random masks and samples", AT_LEAST_0),
)
_MEMORY: tuple[Flag, ...] = (
    *(
        Flag("integer", f"{name}_buffer", None, f"bytes for {text}", AT_LEAST_1)
        for name, text in (
            ("activation", "activations, and errors in the input gradient"),
            ("weight", "weights, and errors in the weight gradient"),
            ("output", "sums, at least 4 for each group of multipliers"),
        )
    ),
    Flag(
        "float",
        "bandwidth",
        None,
        "bytes per second between buffers and memory",
        range=ABOVE_0,
    ),
)
_BOTH = (
    Flag("integer", "rows", None, "of a tile: filters; of an array", AT_LEAST_1),
    Flag("integer", "columns", None, "of a tile: windows; of an array", AT_LEAST_1),
    Flag("float", "clock", None, "cycles per second", range=ABOVE_0),
    Flag("integer", "value_bits", None, "bits of a value in memory", AT_LEAST_1),
)
_TILES = (
    Flag("integer", "tiles", None, "tiles of rows x columns groups", AT_LEAST_1),
    Flag("integer", "lanes", None, "multipliers of a group, 1 to 64", AT_LEAST_1),
    Flag(
        "string",
        "interconnect",
        None,
        "none: zeros are multiplied; window: look-ahead and look-aside; ideal: rows pack "
        "their values without gaps",
        choices=("none", "window", "ideal"),
    ),
    Flag(
        "integer",
        "look_ahead",
        None,
        "h, lines ahead from which a value may come: at most h + 1 times the dense speed",
        AT_LEAST_0,
    ),
    Flag("integer", "look_aside", None, "d, places in other lanes", AT_LEAST_0),
    Flag(
        "string",
        "shape",
        None,
        "of these places: T or L, as published",
        choices=("T", "L"),
    ),
    Flag("boolean", "synchronised", None, "the rows of a tile advance together"),
    Flag(
        "string",
        "skips",
        None,
        "swat: zeros of weights, in the weight gradient of activations; sparser: in the "
        "forward pass those of the operand that has more",
        choices=("swat", "sparser"),
    ),
    Flag("boolean", "skips_padding", None, "skip zeros that only fill up lines, too"),
    Flag(
        "string",
        "metadata",
        None,
        "of stored values: mask, a bit for each entry; select, bits for each value",
        choices=("mask", "select"),
    ),
)
_PRESET = Flag(
    "string",
    "preset",
    "tcl",
    "dadiannao: zeros are multiplied; tcl (Bit-Tactical): a window, 16 tiles of 16 rows; "
    "tensordash: the same window, 16 tiles of 4 rows, at half the clock; systolic_output, "
    "_weight, _input: dense arrays by what is stationary. The flags below change it",
    choices=PRESETS,
)
_OUTPUT: tuple[Flag, ...] = (
    Flag(
        "boolean",
        "compare",
        False,
        "the speed-ups of nine stated machines, beside those that SWAT has published",
    ),
    Flag(
        "integer",
        "layers",
        10,
        "layers in the table, those with the most dense cycles; 0: all",
        AT_LEAST_0,
    ),
    Flag("string", "csv", None, "a file for all layers, or for all machines"),
    Flag("boolean", "json", False, "print the figures as JSON"),
    Flag("boolean", "verbose", False, "do not silence TensorFlow"),
)
GROUPS: Groups = (
    ("A network with random masks", _NETWORK),
    ("A run of launch/train.py", _RUN),
    ("The step", _STEP),
    ("The machine; default that of the preset", (_PRESET, *_BOTH, *_TILES, *_MEMORY)),
    ("The output", _OUTPUT),
)
MACHINE = tuple(flag.name for flag in (*_BOTH, *_TILES))
"""Flags that are parameters of a machine of the same name."""
BUFFERS = {
    "activation_buffer": "activations",
    "weight_buffer": "weights",
    "output_buffer": "outputs",
    "bandwidth": "bandwidth",
}
"""Flags that are parameters of its memory."""

HEAD = """\
Simulates the cycles of a training step on an accelerator that skips zeros: the
three products of each layer, counted beside simulated.

  # ResNet-50, 90 % of weights and activations zero, random masks
  python launch/simulate.py --model=resnet50 --sparsity=0.9

  # nine machines, and the speed-ups that SWAT has published
  python launch/simulate.py --model=resnet50 --sparsity=0.9 --compare

  # the trained masks and sampled activations of a run, of each method
  python launch/simulate.py runs/quickstart_swat

  # another machine, and all layers as CSV
  python launch/simulate.py --model=MobileNetV2 --sparsity=0.8 --tiles=4 \\
      --look_ahead=6 --look_aside=11 --nosynchronised --csv=cycles.csv

Cycles are simulated, not measured, and not by the simulator of SWAT's authors,
whose parameters are not published. Products skip zeros of one operand, as SWAT
makes them: of the weights in the forward pass and the input gradient, of the
activations in the weight gradient. Zeros that a run's activations have by
themselves, after a ReLU, count. That a method updates a part of the weights is
not used. Sparsities are fractions of zeros. docs/simulator.md has the formulas.
"""


def parse(argv: Sequence[str]) -> tuple[pathlib.Path | None, flags.FlagValues]:
    """Parses and checks a command line.

    Returns:
      The folder of a run, or None for a network with random masks, and the flags.

    Raises:
      UserError: for an unknown flag, a value out of range, and flags that do not belong
        together.
    """
    values, folders = launch_flags.known(argv, GROUPS)
    if len(folders) + (values.model is not None) != 1:
        received = [*folders, *([f"--model={values.model}"] if values.model else [])]
        raise UserError(
            "Expected the folder of one run, or --model and --sparsity. "
            f"Received: {', '.join(received) or 'neither'}"
        )
    if folders:
        _refuse(
            values, _NETWORK, "with a run, which has a network and masks of its own"
        )
    else:
        _refuse(values, _RUN, "with --model, as it is of a run")
        if values.sparsity is None:
            raise UserError("Expected --sparsity with --model. Received: none")
    _check_machine(values)
    return (pathlib.Path(folders[0]) if folders else None), values


def _check_machine(values: flags.FlagValues) -> None:
    if values.compare:
        own = (_PRESET, *_BOTH, *_TILES, *_MEMORY)
        _refuse(values, own, "with --compare, which has machines of its own")
    elif values.preset.startswith("systolic"):
        _refuse(values, _TILES, f"with --preset={values.preset}, which has none")


def _refuse(values: flags.FlagValues, group: Sequence[Flag], why: str) -> None:
    """Raises `UserError` for a flag of a group that was given."""
    for flag in group:
        if values[flag.name].present:
            raise UserError(
                f"Expected no --{flag.name} {why}. "
                f"Received: {values[flag.name].serialize()}"
            )
