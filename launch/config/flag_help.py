"""The text of `--help`."""

import textwrap
from collections.abc import Sequence
from typing import Any

from launch.config.flag import Groups
from launch.config.flag_table import GROUPS

COLUMNS = 79
_FLAGFILE = (
    "reads flags from a file, one per line, # begins a comment; a flag after it on the "
    "command line wins"
)

HEAD = """\
Trains an image classifier or a Transformer-XL, dense or with a sparse-training
method, and compares them.

  # bundled digits at 90 % / 80 % and the dense twin, under two minutes
  python launch/train.py --flagfile=launch/flagfiles/quickstart.cfg

  # the same, sparser: a flag after the flagfile wins; another run and folder
  python launch/train.py --flagfile=launch/flagfiles/quickstart.cfg \\
      --fwd=0.95 --bwd=0.9 --run_dir=runs/quickstart95

  # CIFAR-10, prepared by tensorflow-datasets in DIR
  python launch/train.py --data_dir=DIR \\
      --flagfile=launch/flagfiles/cifar10_resnet20_90_80.cfg

  # ten thousand images, two epochs, a uniform 80 % except in the first layer
  python launch/train.py --dataset=cifar10 --data_dir=DIR --epochs=2 \\
      --train_examples=10000 --fwd=0.8 --bwd=0.5 --exempt=first \\
      --run_dir=runs/try

  # a language model on the source code of Python, as bytes
  python launch/train.py --flagfile=launch/flagfiles/quickstart_text.cfg

  # SWAT: sparse weights and activations, new thresholds every 20 steps
  python launch/train.py --flagfile=launch/flagfiles/quickstart_swat.cfg

  # two devices, here virtual CPU devices
  python launch/train.py --flagfile=launch/flagfiles/quickstart.cfg \\
      --strategy=mirrored --run_dir=runs/quickstart_mirrored

  # two processes, as on two hosts: docs/distributed.md
  python launch/multiworker.py --workers=2 -- \\
      --flagfile=launch/flagfiles/quickstart.cfg --run_dir=runs/quickstart_two

  # resume a run where it stopped: the same command, or the flags it wrote
  python launch/train.py --flagfile=runs/quickstart/flags.cfg

A run folder holds flags.cfg, results.csv, and for each method metrics.csv,
TensorBoard events, checkpoints and model.keras; for a sparse one also
mask_dynamics.csv. results.csv has a line for each method, with its metrics, its
seed and all its flags, so that the files of many runs form one table.
The losses in metrics.csv exclude penalties. Top-KAST's exploration loss, which
Keras includes in its own loss and val_loss, is the column exploration_loss;
objective is the minimised loss, including all penalties.
In pictures of sets, blue is A (forward), amber B \\ A (updated, but zero in the
forward pass), grey C (neither); inputs are rows, outputs are columns.
Sparsities are fractions of zeros.
"""


def asked_for_help(
    argv: Sequence[str], head: str = HEAD, groups: Groups = GROUPS
) -> str | None:
    """The help that a command line asks for, or None.

    Args:
      argv: the program's name, then its arguments; `-h` and `--help` print all of it,
        `--helpshort` the names of the flags.
      head: the description of the program, with examples.
      groups: its flags.
    """
    asked = {argument.lstrip("-") for argument in argv[1:] if argument[:1] == "-"}
    if asked & {"h", "help", "helpfull"}:
        return help_text(head, groups)
    return short_help(head, groups) if "helpshort" in asked else None


def help_text(head: str = HEAD, groups: Groups = GROUPS) -> str:
    """The output of `--help`: the description, then every flag by group."""
    lines = [head]
    for title, group in groups:
        lines.append(f"{title}:")
        for flag in group:
            negative = f", --no{flag.name}" if flag.kind == "boolean" else ""
            lines.append(f"  --{flag.name}{negative}")
            lines += _wrapped(
                f"{flag.help} [default: {_shown(flag.default)}]", "      "
            )
        lines.append("")
    lines += ["Anywhere:", "  --flagfile=FILE"]
    lines += _wrapped(_FLAGFILE, "      ")
    lines += ["  --helpshort", "      only the names of the flags"]
    return "\n".join(lines)


def short_help(head: str = HEAD, groups: Groups = GROUPS) -> str:
    """The output of `--helpshort`: a short description and the names of the flags."""
    lines = [head.partition("\n\n")[0], ""]
    for title, group in groups:
        lines.append(f"{title}:")
        lines += _wrapped("  ".join(f"--{flag.name}" for flag in group), "  ")
    return "\n".join([*lines, "", "--help explains them, with examples."])


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, list):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
