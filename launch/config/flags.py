"""The flags of `launch/train.py`: their checks, and their form as a flagfile.

absl parses them, on a `FlagValues` of our own: the flags of other libraries neither
show in the help nor hide a misspelt one.
"""

import difflib
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from launch.config import exclusive, methods
from launch.config.flag import (
    Flag,
    Groups,
    check_size,
    nearest,
    new_flags,
    whole_numbers,
)
from launch.config.flag_table import GROUPS
from launch.support.errors import UserError

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
    _check_together(values)
    return values


def overruled(argv: Sequence[str], groups: Groups = GROUPS) -> list[str]:
    """A sentence on each flag of a command line that a later one takes the place of.

    Args:
      argv: as for `parse`, which has accepted it.
      groups: the flags there are.
    """
    values = new_flags(groups)
    values(list(argv))
    return exclusive.settle(values, exclusive.expanded(argv))


def known(argv: Sequence[str], groups: Groups) -> tuple[flags.FlagValues, list[str]]:
    """Parses a command line of any program of the launcher; the values as they are.

    Args:
      argv: the program's name, then its arguments.
      groups: the flags there are.

    Returns:
      The flags, and the arguments that are none.

    Raises:
      UserError: an unknown flag, or a value of another type or out of its range.
    """
    values = new_flags(groups)
    try:
        rest = values(list(argv))[1:]
        exclusive.settle(values, exclusive.expanded(argv))
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(error.flagname, argv[1:], groups)) from None
    except (flags.Error, ValueError) as error:
        said = " ".join(str(error).split()).removeprefix("ERROR:: ")
        raise UserError(said) from None
    for _, group in groups:
        for flag in group:
            _check_value(flag, values[flag.name].value)
    return values, rest


def to_text(values: flags.FlagValues, groups: Groups = GROUPS) -> str:
    """The flags as a flagfile, one a line, in the order of the help."""
    lines = []
    ignored = exclusive.ignored_flags(values)
    for title, group in groups:
        lines.append(f"# {title}")
        for flag in group:
            if flag.name in ignored:
                lines.append(f"# --{flag.name} does not count")
                continue
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


def drop_steps(values: flags.FlagValues) -> tuple[int, ...]:
    """`--lr_drop_steps` as numbers."""
    return whole_numbers(values, "lr_drop_steps")


def _check_value(flag: Flag, value: Any) -> None:
    """Raises `UserError` for a value that is out of the range of its flag."""
    if value is None:
        return
    if flag.kind == "integer":
        check_size(flag.name, value)
    if flag.range is not None and not flag.range.holds(value):
        raise UserError(
            f"Expected --{flag.name} to be {flag.range.words}. Received: {value}"
        )
    for item in value if flag.kind == "list" else [value]:
        if flag.choices and item not in flag.choices:
            raise UserError(
                f"Expected --{flag.name} to be one of {', '.join(flag.choices)}. "
                f"Received: {item!r}" + nearest(item, flag.choices)
            )


def _check_together(values: flags.FlagValues) -> None:
    """Raises `UserError` for values that do not fit together, or are no such lists."""
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
    for name in ("exempt", "include"):
        for pattern in (values[name].value if name in values else None) or ():
            _check_pattern(name, pattern)
    if "distribution" in values:
        _check_sparsities(values)


def _check_pattern(name: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"Expected --{name} to be regular expressions ({error}). "
            f"Received: {pattern!r}"
        ) from None


def _check_sparsities(values: flags.FlagValues) -> None:
    distribution, method = (
        methods.distribution_of(values),
        methods.METHODS[values.method],
    )
    known = method.distributions
    if isinstance(distribution, str) and known and distribution not in known:
        having = [
            n for n, m in methods.METHODS.items() if distribution in m.distributions
        ]
        raise UserError(
            f"Expected --distribution={distribution} with one of the methods "
            f"{', '.join(having)}. Received: --method={values.method}"
        )
    if isinstance(distribution, dict):
        for pattern, asked in distribution.items():
            _check_pattern("distribution", pattern)
            _check_pair(f"--distribution of {pattern!r}", asked)
    if "bwd" in method.flag_names and values.bwd > values.fwd:
        raise UserError(
            "Expected --bwd to be at most --fwd: sparsities are fractions of zeros, and "
            "the backward set contains the forward set. "
            f"Received: --fwd={values.fwd}, --bwd={values.bwd}"
        )
    block = whole_numbers(values, "block") or (1, 1)
    if len(block) != 2 or min(block) < 1:
        raise UserError(
            "Expected --block to be rows,cols, both at least 1. "
            f"Received: {','.join(values.block)}"
        )


def _check_pair(name: str, asked: Any) -> None:
    pair = asked if isinstance(asked, tuple) else (asked,)
    numbers = all(type(number) in (int, float) for number in pair)
    falling = numbers and list(pair) == sorted(pair, reverse=True)
    if not (falling and 1 <= len(pair) <= 2 and 0 <= pair[-1] <= pair[0] < 1):
        raise UserError(
            f"Expected {name} to be a sparsity in [0, 1) or a pair [forward, backward], "
            f"the backward one at most the forward one. Received: {asked!r}"
        )


def _unknown(name: str, arguments: Sequence[str], groups: Groups) -> str:
    names = [flag.name for _, group in groups for flag in group] + ["flagfile"]
    stem = name[2:] if name.startswith("no") and name[2:] in names else name
    near = difflib.get_close_matches(stem, names, n=1, cutoff=0.5)
    meant = f"; did you mean --{near[0]}?" if near else "; --help lists them."
    return f"unknown flag --{name}{_place(name, arguments)}{meant}"


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
