"""What `--help` says of the flags of a program."""

import textwrap
from collections.abc import Sequence
from typing import Any

from launch.config.flag import Groups
from launch.config.flag_table import GROUPS

COLUMNS = 79
"""Of the help."""
_FLAGFILE = (
    "reads flags from a file, one a line, # begins a comment; a flag that comes after "
    "it on the command line wins"
)

HEAD = """\
Trains an image classifier or a Transformer-XL, dense, with Top-KAST or with
SWAT, and compares them.

  # bundled digits at 90 % / 80 % beside the dense twin, under two minutes
  python launch/train.py --flagfile=launch/flagfiles/quickstart.cfg

  # the same, sparser: a flag after the flagfile wins; another run and folder
  python launch/train.py --flagfile=launch/flagfiles/quickstart.cfg \\
      --fwd=0.95 --bwd=0.9 --run_dir=runs/quickstart95

  # CIFAR-10 that tensorflow-datasets has prepared in DIR
  python launch/train.py --data_dir=DIR \\
      --flagfile=launch/flagfiles/cifar10_resnet20_90_80.cfg

  # ten thousand images, two epochs, a uniform 80 % but for the first layer
  python launch/train.py --dataset=cifar10 --data_dir=DIR --epochs=2 \\
      --train_examples=10000 --fwd=0.8 --bwd=0.5 --exempt=first \\
      --run_dir=runs/try

  # a language model on the sources of Python itself, as bytes
  python launch/train.py --flagfile=launch/flagfiles/quickstart_text.cfg

  # SWAT: sparse weights and activations, thresholds found every 20 steps
  python launch/train.py --flagfile=launch/flagfiles/quickstart_swat.cfg

  # two devices, here virtual ones of the CPU
  python launch/train.py --flagfile=launch/flagfiles/quickstart.cfg \\
      --strategy=mirrored --run_dir=runs/quickstart_mirrored

  # two processes, as on two hosts: docs/distributed.md
  python launch/multiworker.py --workers=2 -- \\
      --flagfile=launch/flagfiles/quickstart.cfg --run_dir=runs/quickstart_two

  # start a run again where it stopped: the same command, or the flags it wrote
  python launch/train.py --flagfile=runs/quickstart/flags.cfg

A run folder holds flags.cfg, results.csv, and for each method metrics.csv,
TensorBoard events, checkpoints and model.keras; for a sparse one also
mask_dynamics.csv. results.csv has a line for each method, with its figures, its
seed and all its flags: the files of many runs are one table.
The losses in metrics.csv are without penalties. Top-KAST's exploration loss,
which Keras counts in its own loss and val_loss, has a column, exploration_loss;
objective is what was minimised, all penalties included.
In pictures of sets blue is A (forward), amber B \\ A (updated, but zero in the
forward pass), grey C (neither); inputs go down, outputs across.
Sparsities are fractions of zeros.
"""


def asked_for_help(
    argv: Sequence[str], head: str = HEAD, groups: Groups = GROUPS
) -> str | None:
    """The help that a command line asks for, or None.

    Args:
      argv: the program's name, then its arguments; `-h` and `--help` ask for all,
        `--helpshort` for the names of the flags.
      head: what one can do with the program.
      groups: its flags.
    """
    asked = {argument.lstrip("-") for argument in argv[1:] if argument[:1] == "-"}
    if asked & {"h", "help", "helpfull"}:
        return help_text(head, groups)
    return short_help(head, groups) if "helpshort" in asked else None


def help_text(head: str = HEAD, groups: Groups = GROUPS) -> str:
    """What `--help` prints: what one can do with it, then every flag by group."""
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
    lines += ["  --helpshort", "      the names of the flags alone"]
    return "\n".join(lines)


def short_help(head: str = HEAD, groups: Groups = GROUPS) -> str:
    """What `--helpshort` prints: what the program is for, and the names of its flags."""
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
