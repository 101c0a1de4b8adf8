"""Mutually exclusive flags: the later one on the command line wins.

A flagfile is read as if its flags were on the command line at its place.
"""

from collections.abc import Iterable, Sequence

from absl import flags

PAIRS = (("epochs", "steps"),)
"""Two flags for the same quantity; if both are set, the second one wins."""


def settle(values: flags.FlagValues, words: Iterable[str]) -> list[str]:
    """Resets each flag that a later one excludes to its default.

    Args:
      values: the parsed flags.
      words: the words of the command line, with flagfiles expanded.

    Returns:
      A sentence for each flag that was given and has no effect.

    >>> from launch.config.flag import new_flags
    >>> from launch.config.flag_table import GROUPS
    >>> values, words = new_flags(GROUPS), ["--steps=64000", "--epochs=3"]
    >>> _ = values(["train.py", *words])
    >>> settle(values, words)
    ['--epochs=3 counts, and --steps=64000, which came before it, does not.']
    >>> values.epochs, values.steps
    (3, None)
    """
    last = {
        word.lstrip("-").partition("=")[0]: place
        for place, word in enumerate(words)
        if word[:1] == "-"
    }
    sentences = []
    for pair in PAIRS:
        if not all(name in last for name in pair):
            continue
        loser, winner = sorted(pair, key=last.__getitem__)
        sentences.append(
            f"--{winner}={values[winner].value} counts, and "
            f"--{loser}={values[loser].value}, which came before it, does not."
        )
        values[loser].unparse()
    return sentences


def ignored_flags(values: flags.FlagValues) -> set[str]:
    """The flags whose value has no effect because the other of a pair is set."""
    return {
        first
        for first, second in PAIRS
        if first in values and values[second].value is not None
    }


def expanded(argv: Sequence[str]) -> list[str]:
    """The arguments of a command line, with those of the flagfiles in their place.

    Args:
      argv: the program's name, then its arguments.
    """
    return flags.FlagValues().read_flags_from_files(list(argv)[1:])
