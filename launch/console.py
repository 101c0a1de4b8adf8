"""The console scripts `topkast-train` and so on: the programs of `launch/` by name.

`topkast-train` is `python launch/train.py`, wherever the package is installed. A
flagfile of the package is found by its name, `--flagfile=quickstart.cfg`, also where a
flagfile includes it, unless there is such a file in the working directory; help and
messages name the scripts.
"""

import functools
import importlib
import pathlib
import re
import sys
from collections.abc import Sequence

from launch.support import terminal

PROGRAMS = ("train", "evaluate", "plan", "sweep", "report", "simulate", "multiworker")
FLAGFILES = pathlib.Path(__file__).resolve().parent / "flagfiles"
_FLAG = re.compile(r"--?flagfile=")
_NAMED = re.compile(rf"python (?:\S*/)?launch/({'|'.join(PROGRAMS)})\.py")


def main(program: str, argv: Sequence[str] | None = None) -> int:
    """Runs a program as a console script.

    Args:
      program: one of `PROGRAMS`.
      argv: the script's name, then its arguments; default those of the process.

    Returns:
      The exit code of the program.
    """
    terminal.spell(with_scripts)
    module = importlib.import_module(f"launch.{program}")
    return module.main(with_flagfiles(sys.argv if argv is None else argv))


def with_flagfiles(argv: Sequence[str]) -> list[str]:
    """The arguments, with the paths of flagfiles that the package has.

    >>> with_flagfiles(["topkast-train", "--flagfile=quickstart.cfg"])[1].startswith(
    ...     f"--flagfile={FLAGFILES}"
    ... )
    True
    """
    found: list[str] = []
    words = iter(argv)
    for word in words:
        flag = _FLAG.match(word)
        if flag:
            found += _words_of(word[flag.end() :])
        elif word in ("--flagfile", "-flagfile"):
            name = next(words, None)
            found += [word] if name is None else _words_of(name)
        else:
            found.append(word)
    return found


def _words_of(name: str, within: Sequence[str] = ()) -> list[str]:
    """What stands for a flagfile: its path, or its lines if it includes one by name."""
    path = _packaged(name)
    try:
        lines = pathlib.Path(path).expanduser().read_text().splitlines()
    except (OSError, ValueError):  # the program says so
        return [f"--flagfile={path}"]
    words = [line.strip() for line in lines]
    words = [word for word in words if word and not word.startswith(("#", "//"))]
    flags = [_FLAG.match(word) for word in words]
    included = [
        word[flag.end() :].strip()
        for word, flag in zip(words, flags, strict=True)
        if flag
    ]
    if path in within or all(_packaged(each) == each for each in included):
        return [f"--flagfile={path}"]
    inner = [*within, path]
    return [
        each
        for word, flag in zip(words, flags, strict=True)
        for each in (_words_of(word[flag.end() :].strip(), inner) if flag else [word])
    ]


def with_scripts(text: str) -> str:
    """A text whose commands are those of the scripts, and flagfiles those of the package.

    >>> with_scripts("python launch/train.py --flagfile=launch/flagfiles/quickstart.cfg")
    'topkast-train --flagfile=quickstart.cfg'
    """
    return _NAMED.sub(r"topkast-\1", text).replace("=launch/flagfiles/", "=")


def _packaged(name: str) -> str:
    """The path of a flagfile of the package, or the name as it is."""
    path = pathlib.PurePath(name.removeprefix("launch/flagfiles/"))
    packaged = FLAGFILES / path
    is_named = name and not path.is_absolute() and ".." not in path.parts
    if is_named and packaged.is_file() and not pathlib.Path(name).is_file():
        return str(packaged)
    return name


train = functools.partial(main, "train")
evaluate = functools.partial(main, "evaluate")
plan = functools.partial(main, "plan")
sweep = functools.partial(main, "sweep")
report = functools.partial(main, "report")
simulate = functools.partial(main, "simulate")
multiworker = functools.partial(main, "multiworker")
