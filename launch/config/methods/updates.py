"""The flags of methods whose sets change by updates, and what makes their scopes."""

import dataclasses
from typing import Any

from absl import flags

from launch.config.flag import (
    ABOVE_0,
    AT_LEAST_1,
    FACTOR,
    NOT_NEGATIVE,
    SHARE,
    Flag,
    Groups,
    flags_in,
)
from launch.config.methods.base import Scope, Scopes, sparse_scope
from launch.support.errors import UserError

WHEN = (
    "When the sets change",
    (
        Flag(
            "integer",
            "update_every",
            None,
            "steps between two updates; default 100, set_itop: 1500, rigl_itop: 4000, "
            "granet: 1000",
            AT_LEAST_1,
        ),
        Flag(
            "float",
            "update_from",
            None,
            "the first step with an update; pruning: or below 1 a fraction of the run "
            "(default 0.25); default 0",
            range=NOT_NEGATIVE,
        ),
        Flag(
            "float",
            "update_until",
            None,
            "the last step with an update, or up to 1 a fraction of the run; default "
            "set, mest: the end, rigl, srigl, pruning: 0.75, dsr: 0.95, others: 1",
            range=ABOVE_0,
        ),
    ),
)
MOVED = (
    "What an update moves",
    (
        Flag(
            "float",
            "drop_fraction",
            None,
            "initial fraction of active weights that an update replaces; default 0.3, "
            "set_itop, rigl_itop, snfs, granet: 0.5, dsr: 0.15",
            range=FACTOR,
        ),
    ),
)
ANNEALED = (
    "How little it moves in the end",
    (
        Flag(
            "float",
            "final_drop_fraction",
            None,
            "where the cosine of the fraction ends; default set, rigl: 0, others: 0.005",
            range=SHARE,
        ),
    ),
)
GROWN = (
    "New weights",
    (
        Flag(
            "string",
            "grow_init",
            "zeros",
            "new weights: zeros, random_normal_D, random_uniform_D; rigl: "
            "grad_scale_D, grad_sign_D",
        ),
        Flag(
            "float",
            "drop_noise",
            None,
            "standard deviation of noise added to magnitudes, to break ties; default "
            "set, rigl: 1e-5, others: 0",
            range=SHARE,
        ),
    ),
)

WARM_UP = (
    "How it begins (a fraction of the run)",
    (
        Flag(
            "float",
            "warm_up",
            None,
            "acdc: dense training before the first compressed phase, default 0.1; "
            "spartan: until the density is that of the end, default 0.2",
            range=FACTOR,
        ),
    ),
)

_ARGUMENTS = {"drop_noise": "noise", "gate_penalty": "penalty_coefficient"}
"""Name of a flag -> the argument of the method, where they differ."""
_STEPS = ("update_from", "update_until", "prune_until")


def scopes_of(name: str, groups: Groups) -> Scopes:
    """The scopes of a method that updates its sets during training.

    Args:
      name: name of the method.
      groups: its flags, named like its arguments (except those of `_ARGUMENTS`). None
        selects the default of the method; a step below 1, or an end of 1, is a fraction.
    """
    names = [flag.name for flag in flags_in(groups)]

    def scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
        arguments: dict[str, Any] = {}
        for flag in names:
            value = settings[flag].value
            if flag in _STEPS and value is not None and not _is_fraction(flag, value):
                value = int(value)
            arguments[_ARGUMENTS.get(flag, flag)] = value
        _check_length(name, arguments, total_steps)
        arguments["total_steps"] = total_steps
        return [sparse_scope(name, settings, arguments)]

    return scopes


def _is_fraction(flag: str, value: float) -> bool:
    """Whether a step is given as a fraction of the run; 1 is the whole run as an end."""
    return 0 < value < 1 or (value == 1 and flag != "update_from")


def _check_length(
    name: str, arguments: dict[str, Any], total_steps: int | None
) -> None:
    """Raises `UserError` for a run of unknown length whose schedule needs it."""
    from topkast_tf.methods import METHODS, SETTINGS

    if total_steps is not None:
        return
    if name in SETTINGS:
        raise UserError(_of_unknown_length(f"the schedule of {name}"))
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(METHODS[name])  # type: ignore[arg-type]
    }
    for argument in _STEPS:
        if argument not in defaults:
            continue
        value = arguments.get(argument)
        value = defaults[argument] if value is None else value
        if isinstance(value, float) and 0 < value <= 1:
            raise UserError(_of_unknown_length(f"--{argument}={value}"))


def _of_unknown_length(what: str) -> str:
    return (
        f"Expected --steps, as {what} is a fraction of the run. "
        "Received: a run of unknown length"
    )
