"""The runs of a sweep: variants x sparsities x seeds, as command lines."""

import dataclasses
import re
import shlex
from collections.abc import Iterable, Sequence
from decimal import Decimal, InvalidOperation

from absl import flags

from launch.config import flags as launch_flags
from launch.config import methods, sweep_flags
from launch.config.flag import flags_in
from launch.config.flag_table import GROUPS
from launch.support.errors import UserError

_PLACE = re.compile(r"\{(?:([0-9.]+)\s*\*\s*)?sparsity(?:\s*([-+])\s*([0-9.]+))?\}")
_WITHOUT_EFFECT = re.compile(
    "--?(no)?({})(=|$)".format(
        "|".join(f.name for f in flags_in(GROUPS) if not f.affects_result)
    )
)
"""An argument that changes no result, such as the folder of the data."""
_NAME = re.compile(r"[A-Za-z0-9_.+-]+")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      variant: its name.
      sparsity: as text; empty for a variant that has none.
      seed: of weights and batches.
      arguments: of launch/train.py, without the folder.
    """

    variant: str
    sparsity: str
    seed: int
    arguments: tuple[str, ...]

    @property
    def method(self) -> str:
        """Its method, and the name of its folder within that of the run."""
        given = [a for a in self.arguments if re.match("--?method=", a)]
        return given[-1].partition("=")[2] if given else "topkast"

    @property
    def recorded(self) -> str:
        """The arguments that results depend on: a table names no folders of a machine."""
        return " ".join(a for a in self.arguments if not _WITHOUT_EFFECT.match(a))

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is found by in the CSV."""
        return self.variant, self.sparsity, str(self.seed)

    @property
    def name(self) -> str:
        """Its name, and that of its folder."""
        return name_of(self.key)


def name_of(key: Iterable[str]) -> str:
    """The name of a run, and of its folder, from its key in the CSV.

    >>> name_of(("dense", "", "0")), name_of(("set", "0.9", "1"))
    ('dense-0', 'set-0.9-1')
    """
    return "-".join(part for part in key if part)


def runs_of(values: flags.FlagValues) -> list[Run]:
    """All runs of a sweep, seed by seed, so that an early end has all variants.

    Args:
      values: from `sweep_flags.parse`.

    Raises:
      UserError: for a variant without a name or with one that is taken, a sparsity or a
        seed that is none, and for flags that launch/train.py refuses.
    """
    variants = _variants(values)
    if not variants:
        raise UserError(
            "Expected --methods or --variant, which say what is run. Received: neither"
        )
    common = sweep_flags.of_runs(values)
    sparsities = [_sparsity(text) for text in values.sparsities]
    found = []
    for seed in _seeds(values.seeds):
        for name, text in variants.items():
            depends = _PLACE.search(text) is not None
            for sparsity in sparsities if depends else [""]:
                own = _split(name, _filled(name, text, sparsity))
                run = Run(name, sparsity, seed, (*common, *own, f"--seed={seed}"))
                if seed == int(values.seeds[0]):
                    _check(run)
                found.append(run)
    for run, other in zip(
        *(sorted(found, key=lambda r: r.name)[i:] for i in (0, 1)), strict=False
    ):
        if run.name == other.name:
            raise UserError(
                "Expected runs with names of their own, which are those of their folders. "
                f"Received: two named {run.name}"
            )
    return found


def _variants(values: flags.FlagValues) -> dict[str, str]:
    """Name -> flags, in the order in which they are given."""
    found = {}
    for name in values.methods:
        if name not in methods.METHODS:
            raise UserError(
                f"Expected --methods out of {', '.join(methods.METHODS)}. "
                f"Received: {name!r}"
            )
        # Others find their own, and would be trained anew at each sparsity for nothing.
        has_sparsity = (
            "sparsity" in methods.METHODS[name].flag_names
            and not methods.METHODS[name].finds_sparsity
        )
        found[name] = f"--method={name}" + " --sparsity={sparsity}" * has_sparsity
        if "fwd" in methods.METHODS[name].flag_names:
            raise UserError(
                f"Expected a --variant for {name}, as in 'topkast: --method=topkast "
                "--fwd={sparsity} --bwd={sparsity-0.1}'. Received: it among --methods"
            )
    for given in values.variant:
        name, colon, text = given.partition(":")
        name = name.strip()
        if not colon or not _NAME.fullmatch(name):
            raise UserError(
                "Expected --variant='NAME: FLAGS', with a name of letters, digits and "
                f"'_.+-'. Received: {given!r}"
            )
        if name in found:
            raise UserError(
                f"Expected each variant to have a name of its own. Received: {name} twice"
            )
        found[name] = text.strip()
    return found


def _filled(name: str, text: str, sparsity: str) -> str:
    """The flags of a variant at a sparsity."""

    def value(place: re.Match) -> str:
        factor, sign, step = place.groups()
        changed = Decimal(sparsity)
        try:
            changed *= Decimal(factor or 1)
            changed += Decimal(step or 0) * (-1 if sign == "-" else 1)
        except InvalidOperation:
            changed = Decimal(-1)
        if not 0 <= changed < 1:
            raise UserError(
                f"Expected {place[0]} of the variant {name} to be in [0, 1). Received: "
                f"{changed} at the sparsity {sparsity}"
            )
        return format(changed.normalize(), "f")

    return _PLACE.sub(value, text)


def _split(name: str, text: str) -> tuple[str, ...]:
    """The flags of a variant as arguments: a value in a word of its own joins its flag."""
    found: list[str] = []
    try:
        for word in shlex.split(text):
            if word.startswith("-") or not found or "=" in found[-1]:
                found.append(word)
            else:
                found[-1] += f"={word}"
    except ValueError as error:
        raise UserError(
            f"Expected flags that a shell can split ({error}). Received, of the variant "
            f"{name}: {text}"
        ) from None
    for argument in found:
        given = argument.lstrip("-").partition("=")[0]
        if given in ("seed", "run_dir", "compare_dense"):
            raise UserError(
                f"Expected no --{given} in a variant, which the sweep gives. Received: it "
                f"in {name}"
            )
    return tuple(found)


def _sparsity(text: str) -> str:
    try:
        if 0 <= Decimal(text) < 1:
            return format(Decimal(text).normalize(), "f")
    except InvalidOperation:
        pass
    raise UserError(f"Expected --sparsities to be in [0, 1). Received: {text}")


def _seeds(given: Sequence[str]) -> list[int]:
    try:
        seeds = [int(text) for text in given]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(
            "Expected --seeds to be whole numbers of at least 0, each once. "
            f"Received: {','.join(given)}"
        )
    return seeds


def _check(run: Run) -> None:
    """Raises `UserError` for flags that launch/train.py would refuse."""
    try:
        launch_flags.parse(["launch/train.py", *run.arguments])
    except UserError as error:
        raise UserError(f"The run {run.name}: {error}") from None
