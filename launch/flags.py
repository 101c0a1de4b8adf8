"""The flags of `launch/train.py`: their meaning, their checks, their flagfile.

absl parses them, on a `FlagValues` of our own: the flags of other libraries neither
show in the help nor hide a misspelt one.
"""

import difflib
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from launch.errors import UserError

METHODS = ("dense", "topkast")
SCHEDULES = ("cosine", "steps", "constant")
# Where a run lies and how much it says do not change what it computes.
PLACE_FLAGS = frozenset({"run_dir", "data_dir", "verbose"})


class Flag(NamedTuple):
    """One flag: the suffix of an absl `DEFINE_` function and its arguments."""

    kind: str
    name: str
    default: Any
    help: str
    bounds: dict[str, Any] = {}


def _at_least(number: float) -> dict[str, Any]:
    return {"lower_bound": number}


GROUPS: tuple[tuple[str, tuple[Flag, ...]], ...] = (
    (
        "What is trained",
        (
            Flag("string", "dataset", "digits", "digits (bundled) or cifar10"),
            Flag(
                "string",
                "data_dir",
                None,
                "folder of prepared tensorflow-datasets; default $TFDS_DATA_DIR, "
                "else ~/tensorflow_datasets",
            ),
            Flag(
                "integer",
                "train_examples",
                None,
                "train on the first N examples of a fixed permutation; default all",
                _at_least(1),
            ),
            Flag(
                "string",
                "model",
                None,
                "resnet8, resnet20, resnet32 or resnet56; default by data set",
            ),
            Flag(
                "float",
                "width",
                1.0,
                "factor on the number of channels (16, 32 and 64)",
            ),
        ),
    ),
    (
        "How it is made sparse",
        (
            Flag("string", "method", "topkast", "dense or topkast"),
            Flag(
                "boolean",
                "compare_dense",
                False,
                "first train the dense twin: same seed, same steps, same batches",
            ),
            Flag("float", "fwd", 0.9, "forward sparsity, a fraction of zeros"),
            Flag("float", "bwd", 0.8, "backward sparsity, at most --fwd"),
            Flag(
                "integer",
                "refresh_every",
                1,
                "steps between two selections of the sets",
            ),
            Flag(
                "string",
                "distribution",
                "uniform",
                "uniform, er, erk, global, or a JSON mapping of regex to sparsity",
            ),
            Flag(
                "float",
                "exploration",
                1e-4,
                "coefficient of the exploration loss, the weight decay of sparse "
                "kernels",
            ),
            Flag("string", "backward", "topk", "topk or random"),
            Flag(
                "integer",
                "stop_exploring_at",
                None,
                "step from which the backward set is the forward set",
            ),
            Flag("list", "block", None, "rows,cols of the blocks that are selected"),
            Flag("string", "block_reduce", "sum", "score of a block: sum or max"),
            Flag(
                "list",
                "exempt",
                [],
                "weights left dense: first, last, regexes on their paths",
            ),
            Flag("list", "include", None, "only these weights are made sparse"),
        ),
    ),
    (
        "How long and how fast it learns",
        (
            Flag("integer", "epochs", 30, "length of the run", _at_least(1)),
            Flag(
                "integer",
                "steps",
                None,
                "length in optimizer steps; counts instead of --epochs",
                _at_least(1),
            ),
            Flag("integer", "batch_size", 128, "images a step", _at_least(1)),
            Flag("float", "learning_rate", 0.1, "the highest learning rate"),
            Flag("string", "lr_schedule", "cosine", "cosine, steps or constant"),
            Flag(
                "list",
                "lr_drop_steps",
                [],
                "steps at which `steps` divides by 10; default 1/2 and 3/4 of the run",
            ),
            Flag(
                "integer",
                "warmup_steps",
                0,
                "steps of linear warm-up, for any schedule",
                _at_least(0),
            ),
            Flag("float", "momentum", 0.9, "momentum of SGD, in [0, 1)"),
            Flag("boolean", "nesterov", False, "Nesterov momentum"),
            Flag(
                "float",
                "weight_decay",
                1e-4,
                "L2 of the kernels that are left dense (gradient weight_decay * w)",
            ),
            Flag("float", "label_smoothing", 0.0, "in [0, 1)"),
        ),
    ),
    (
        "The run",
        (
            Flag(
                "string",
                "run_dir",
                None,
                "folder of the run; default runs/DATASET-MODEL-METHOD",
            ),
            Flag("integer", "seed", 0, "of weights, batches and sets", _at_least(0)),
            Flag(
                "integer",
                "checkpoint_steps",
                0,
                "also write a checkpoint every N steps; 0: only after each epoch",
                _at_least(0),
            ),
            Flag(
                "integer",
                "dynamics_every",
                100,
                "steps between two rows of mask dynamics; 0: none",
                _at_least(0),
            ),
            Flag(
                "boolean",
                "mixed_precision",
                False,
                "compute in bfloat16, keep variables in float32",
            ),
            Flag("boolean", "jit", False, "compile with XLA; needs --nodeterministic"),
            Flag(
                "boolean",
                "deterministic",
                True,
                "deterministic ops: what makes a resumed run equal bit for bit",
            ),
            Flag("boolean", "verbose", False, "do not silence TensorFlow"),
        ),
    ),
)

_HEAD = """\
Trains an image classifier, dense or with Top-KAST, and compares the two.

  # bundled digits at 90 % / 80 % beside the dense twin, under two minutes
  python launch/train.py --flagfile=launch/flagfiles/quickstart.cfg

  # the same, sparser: a flag after the flagfile wins; another run, another folder
  python launch/train.py --flagfile=launch/flagfiles/quickstart.cfg \\
      --fwd=0.95 --bwd=0.9 --run_dir=runs/quickstart95

  # CIFAR-10 that tensorflow-datasets has prepared in DIR
  python launch/train.py --flagfile=launch/flagfiles/cifar10_resnet20_90_80.cfg \\
      --data_dir=DIR

  # ten thousand images, two epochs, a uniform 80 % but for the first layer
  python launch/train.py --dataset=cifar10 --data_dir=DIR --train_examples=10000 \\
      --epochs=2 --fwd=0.8 --bwd=0.5 --exempt=first --run_dir=runs/try

  # start a run again where it stopped: the same command, or the flags it wrote
  python launch/train.py --flagfile=runs/quickstart/flags.cfg

A run folder holds flags.cfg, results.csv, and for each method metrics.csv,
TensorBoard events, checkpoints and model.keras; for a sparse one mask_dynamics.csv too.
Sparsities are fractions of zeros.
"""


def new_flags() -> flags.FlagValues:
    """The flags of the launcher with their defaults, nothing parsed yet."""
    values = flags.FlagValues()
    for _, group in GROUPS:
        for flag in group:
            define = getattr(flags, f"DEFINE_{flag.kind}")
            define(
                flag.name, flag.default, flag.help, flag_values=values, **flag.bounds
            )
    return values


def help_text() -> str:
    """What `--help` prints: what one can do with it, then every flag by group."""
    lines = [_HEAD]
    for title, group in GROUPS:
        lines.append(f"{title}:")
        for flag in group:
            shown = _shown(flag.default)
            default = f" [{shown}]" if shown else ""
            lines.append(f"  --{flag.name}{default}\n      {flag.help}")
        lines.append("")
    lines.append("  --flagfile\n      reads flags from a file, one a line, # comments")
    return "\n".join(lines)


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """Parses a command line, flagfiles included, and checks what stands alone.

    Args:
      argv: the program's name, then its arguments.

    Returns:
      The flags, each an attribute.

    Raises:
      UserError: an unknown flag (with the nearest name, and the flagfile and line it
        stands on), a wrong value, or an argument that is not a flag.
    """
    values = new_flags()
    try:
        rest = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname, argv[1:], values)) from None
    except (flags.Error, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from None
    if rest:
        raise UserError(
            f"Expected flags only, written --name=value. Received: {rest[0]!r}."
        )
    _check(values)
    return values


def to_text(values: flags.FlagValues) -> str:
    """The flags as a flagfile, one a line, in the order of the help."""
    lines = []
    for title, group in GROUPS:
        lines.append(f"# {title}")
        for flag in group:
            line = values[flag.name].serialize()
            lines.append(line or f"# --{flag.name} is not set")
    return "\n".join(lines) + "\n"


def differences(
    ours: flags.FlagValues, theirs: flags.FlagValues
) -> list[tuple[str, Any, Any]]:
    """(name, ours, theirs) of each flag on which two runs differ.

    Where a run lies and how much it prints (`PLACE_FLAGS`) do not count.
    """
    return [
        (flag.name, ours[flag.name].value, theirs[flag.name].value)
        for _, group in GROUPS
        for flag in group
        if flag.name not in PLACE_FLAGS
        and ours[flag.name].value != theirs[flag.name].value
    ]


def scope_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """The keyword arguments of `topkast_scope` that the flags ask for.

    Only the form is settled here; the scope itself checks the values.
    """
    distribution: Any = values.distribution
    if distribution.lstrip().startswith("{"):
        try:
            distribution = json.loads(distribution)
        except ValueError as error:
            raise UserError(
                "Expected --distribution to be a name or a JSON mapping such as "
                f'{{"stage1/.*": 0.8}} ({error}). Received: {distribution}'
            ) from None
        distribution = {
            pattern: tuple(asked) if isinstance(asked, list) else asked
            for pattern, asked in distribution.items()
        }
    return {
        "fwd": values.fwd,
        "bwd": values.bwd,
        "refresh_every": values.refresh_every,
        "distribution": distribution,
        "exploration": values.exploration,
        "backward": values.backward,
        "stop_exploring_at": values.stop_exploring_at,
        "block": _integers(values, "block") if values.block else None,
        "block_reduce": values.block_reduce,
        "exempt": tuple(values.exempt),
        "include": tuple(values.include) if values.include else None,
        "seed": values.seed,
    }


def drop_steps(values: flags.FlagValues) -> tuple[int, ...]:
    """`--lr_drop_steps` as numbers."""
    return _integers(values, "lr_drop_steps")


def _integers(values: flags.FlagValues, name: str) -> tuple[int, ...]:
    try:
        return tuple(int(item) for item in values[name].value)
    except ValueError:
        raise UserError(
            f"Expected --{name} to be whole numbers with commas between them. "
            f"Received: {','.join(values[name].value)}"
        ) from None


def _check(values: flags.FlagValues) -> None:
    choices = {"method": METHODS, "lr_schedule": SCHEDULES}
    for name, allowed in choices.items():
        if values[name].value not in allowed:
            raise UserError(
                f"Expected --{name} to be one of {', '.join(allowed)}. "
                f"Received: {values[name].value!r}"
            )
    ranges = {
        "momentum": (0 <= values.momentum < 1, "in [0, 1)"),
        "label_smoothing": (0 <= values.label_smoothing < 1, "in [0, 1)"),
        "learning_rate": (0 < values.learning_rate < float("inf"), "above 0"),
        "width": (0 < values.width < float("inf"), "above 0"),
        "weight_decay": (0 <= values.weight_decay < float("inf"), "at least 0"),
        "seed": (values.seed < 2**31, "below 2**31"),
    }
    for name, (holds, expected) in ranges.items():
        if not holds:
            raise UserError(
                f"Expected --{name} to be {expected}. Received: {values[name].value}"
            )
    steps = drop_steps(values)
    if list(steps) != sorted(set(steps)) or any(step < 1 for step in steps):
        raise UserError(
            "Expected --lr_drop_steps to rise from at least 1. "
            f"Received: {','.join(values.lr_drop_steps)}"
        )
    if values.jit and values.deterministic:
        raise UserError(
            "Expected --nodeterministic with --jit, because Keras does not compile a "
            "model while TensorFlow's ops are deterministic. Received: --jit"
        )
    if values.compare_dense and values.method == "dense":
        raise UserError(
            "Expected --compare_dense with a sparse --method. Received: --method=dense"
        )


def _shown(value: Any) -> str:
    if value is None or value == []:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unknown(name: str, arguments: Sequence[str], values: flags.FlagValues) -> str:
    names = [flag.name for _, group in GROUPS for flag in group] + ["flagfile"]
    stem = name[2:] if name.startswith("no") and name[2:] in names else name
    near = difflib.get_close_matches(stem, names, n=1, cutoff=0.5)
    meant = f"; did you mean --{near[0]}?" if near else "; --help lists them."
    return f"unknown flag --{name}{_place(name, arguments, values)}{meant}"


def _place(name: str, arguments: Sequence[str], values: flags.FlagValues) -> str:
    """ " (FILE, line N)" where a flagfile of the command line holds the flag."""
    pattern = re.compile(rf"\s*--?{re.escape(name)}(=|\s|$)")
    files = [a.partition("=")[2] for a in arguments if re.match("--?flagfile=", a)]
    files += [
        arguments[i + 1]
        for i, a in enumerate(arguments[:-1])
        if a in ("--flagfile", "-flagfile")
    ]
    seen = set()
    while files:
        path = pathlib.Path(files.pop(0).strip()).expanduser()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if pattern.match(line):
                return f" ({path}, line {number})"
            nested = re.match(r"\s*--?flagfile[= ](.*)", line)
            if nested:
                files.append(nested[1])
    return ""
