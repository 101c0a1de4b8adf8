"""The flags of `launch/train.py`: their checks, and their form as a flagfile.

absl parses them, on a `FlagValues` of our own: the flags of other libraries neither
show in the help nor hide a misspelt one.
"""

import difflib
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch.errors import UserError
from launch.flag_table import GROUPS, Groups, new_flags

METHODS = ("dense", "topkast", "swat", "topkast_swat")
SCHEDULES = ("cosine", "steps", "constant")
OPTIMIZERS = ("sgd", "adam")
DECAYED = ("kernels", "all")
# Where a run lies, how much it says and how much it keeps do not change what it computes.
PLACE_FLAGS = frozenset(
    {"run_dir", "data_dir", "text_cache", "verbose", "keep_checkpoints"}
)


def parse(argv: Sequence[str], groups: Groups = GROUPS) -> flags.FlagValues:
    """Parses a command line, flagfiles included, and checks what stands alone.

    Args:
      argv: the program's name, then its arguments.
      groups: the flags there are.

    Returns:
      The flags, each an attribute.

    Raises:
      UserError: an unknown flag (with the nearest name, and the flagfile and line it
        stands on), a wrong value, or an argument that is not a flag.
    """
    values, rest = known(argv, groups)
    if rest:
        raise UserError(
            f"Expected flags only, written --name=value. Received: {rest[0]!r}."
        )
    _check(values)
    return values


def known(argv: Sequence[str], groups: Groups) -> tuple[flags.FlagValues, list[str]]:
    """Parses a command line of any program of the launcher; the values as they are.

    Args:
      argv: the program's name, then its arguments.
      groups: the flags there are.

    Returns:
      The flags, and the arguments that are none.

    Raises:
      UserError: an unknown flag, or a value of another type.
    """
    values = new_flags(groups)
    try:
        rest = values(list(argv))[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname, argv[1:], groups)) from None
    except (flags.Error, ValueError) as error:
        said = " ".join(str(error).split()).removeprefix("ERROR:: ")
        raise UserError(said) from None
    return values, rest


def to_text(values: flags.FlagValues, groups: Groups = GROUPS) -> str:
    """The flags as a flagfile, one a line, in the order of the help."""
    lines = []
    for title, group in groups:
        lines.append(f"# {title}")
        for flag in group:
            line = values[flag.name].serialize()
            lines.append(line or f"# --{flag.name} is not set")
    return "\n".join(lines) + "\n"


def differences(
    ours: flags.FlagValues, theirs: flags.FlagValues, groups: Groups = GROUPS
) -> list[tuple[str, Any, Any]]:
    """(name, ours, theirs) of each flag on which two runs differ.

    Where a run lies, how much it prints and how much it keeps (`PLACE_FLAGS`) do not
    count.
    """
    return [
        (flag.name, ours[flag.name].value, theirs[flag.name].value)
        for _, group in groups
        for flag in group
        if flag.name not in PLACE_FLAGS
        and ours[flag.name].value != theirs[flag.name].value
    ]


def _distribution(values: flags.FlagValues) -> Any:
    distribution = values.distribution
    if not distribution.lstrip().startswith("{"):
        return distribution
    try:
        mapping = json.loads(distribution)
    except ValueError as error:
        raise UserError(
            "Expected --distribution to be a name or a JSON mapping such as "
            f'{{"stage1/.*": 0.8}} ({error}). Received: {distribution}'
        ) from None
    return {
        pattern: tuple(asked) if isinstance(asked, list) else asked
        for pattern, asked in mapping.items()
    }


def swat_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """The keyword arguments of `swat_scope` that speak of products and activations.

    Only the form is settled here, as in `topkast_arguments`.
    """
    return {
        "sparsity": values.sparsity,
        "topk_period": values.topk_period,
        "topk_period_of": values.topk_period_of,
        "activations": values.activations,
        "activations_per": values.activations_per,
        "errors": values.errors,
        "errors_per": values.errors_per,
        "forward": tuple(values.forward_sparse),
        "backward": tuple(values.backward_sparse),
        "storage": values.storage,
        "seed": values.seed,
    }


def swat_weight_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """The keyword arguments of `swat_scope` that speak of weights."""
    return {
        "distribution": _distribution(values),
        "structured": values.structured,
        "updates": values.updates,
        "freeze_at": values.freeze_at,
        "exempt": tuple(values.exempt),
        "include": tuple(values.include) if values.include else None,
    }


def topkast_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """The keyword arguments of `topkast_scope` that the flags ask for.

    Only the form is settled here; the scope itself checks the values.
    """
    return {
        "fwd": values.fwd,
        "bwd": values.bwd,
        "refresh_every": values.refresh_every,
        "distribution": _distribution(values),
        "exploration": values.exploration,
        "exploration_norm": values.exploration_norm,
        "backward": values.backward,
        "stop_exploring_at": values.stop_exploring_at,
        "block": _integers(values, "block") if values.block else None,
        "block_reduce": values.block_reduce,
        "exempt": tuple(values.exempt),
        "include": _include(values),
        "seed": values.seed,
    }


def _include(values: flags.FlagValues) -> tuple[str, ...] | None:
    if not values.sparse_embeddings:
        return tuple(values.include) if values.include else None
    # Imported where it is needed, as it imports TensorFlow.
    from launch.models.transformer_xl_counts import sparse_patterns

    return sparse_patterns(sparse_embeddings=True)


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
    choices = {
        "method": METHODS,
        "lr_schedule": SCHEDULES,
        "optimizer": (None, *OPTIMIZERS),
        "decay": DECAYED,
    }
    for name, allowed in choices.items():
        if name in values and values[name].value not in allowed:
            names = list(filter(None, allowed))
            raise UserError(
                f"Expected --{name} to be one of {', '.join(names)}. "
                f"Received: {values[name].value!r}"
                + _nearest(values[name].value, names)
            )
    ranges = {
        "momentum": (0 <= values.momentum < 1, "in [0, 1)"),
        "label_smoothing": (0 <= values.label_smoothing < 1, "in [0, 1)"),
        "learning_rate": (
            values.learning_rate is None or 0 < values.learning_rate < float("inf"),
            "above 0",
        ),
        "lr_drop": (0 < values.lr_drop < 1, "in (0, 1)"),
        "width": (0 < values.width < float("inf"), "above 0"),
        "clip_norm": (0 <= values.clip_norm < float("inf"), "at least 0"),
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
    if "compare_dense" in values and values.compare_dense and values.method == "dense":
        raise UserError(
            "Expected --compare_dense with a sparse --method. Received: --method=dense"
        )


def _unknown(name: str, arguments: Sequence[str], groups: Groups) -> str:
    names = [flag.name for _, group in groups for flag in group] + ["flagfile"]
    stem = name[2:] if name.startswith("no") and name[2:] in names else name
    near = difflib.get_close_matches(stem, names, n=1, cutoff=0.5)
    meant = f"; did you mean --{near[0]}?" if near else "; --help lists them."
    return f"unknown flag --{name}{_place(name, arguments)}{meant}"


def _nearest(given: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _place(name: str, arguments: Sequence[str]) -> str:
    """ " (FILE, line N)" where a flagfile of the command line holds the flag."""
    pattern = re.compile(rf"\s*--?{re.escape(name)}(=|\s|$)")
    files = flagfiles(arguments)
    seen = set()
    while files:
        path = files.pop(0)
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if pattern.match(line):
                return f" ({path}, line {number})"
            nested = re.match(r"\s*--?flagfile[= ](.*)", line)
            if nested:
                files.append(_path(nested[1]))
    return ""


def flagfiles(arguments: Sequence[str]) -> list[pathlib.Path]:
    """The flagfiles that a command line names, without those that they name."""
    joined = [a.partition("=")[2] for a in arguments if re.match("--?flagfile=", a)]
    apart = [
        arguments[i + 1]
        for i, a in enumerate(arguments[:-1])
        if a in ("--flagfile", "-flagfile")
    ]
    return [_path(name) for name in joined + apart]


def _path(name: str) -> pathlib.Path:
    return pathlib.Path(name.strip()).expanduser()
