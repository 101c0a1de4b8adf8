"""SET: an update drops the smallest active weights and grows others at random."""

from typing import Any

from absl import flags

from launch.config.flag import (
    ABOVE_0,
    AT_LEAST_0,
    AT_LEAST_1,
    FACTOR,
    SHARE,
    Flag,
    Groups,
    flags_in,
)
from launch.config.methods import static
from launch.config.methods.base import RunMethod, Scope, Scopes, sparse_scope
from launch.support.errors import UserError

GROUP = (
    "SET, RigL",
    (
        Flag(
            "float",
            "drop_fraction",
            0.3,
            "initial fraction of active weights that an update replaces",
            range=FACTOR,
        ),
        Flag("integer", "update_every", 100, "steps between two updates", AT_LEAST_1),
        Flag("integer", "update_from", 0, "the first step with an update", AT_LEAST_0),
        Flag(
            "float",
            "update_until",
            None,
            "the last step with an update, or below 1 a fraction of the run; default "
            "set: the end, rigl: 0.75",
            range=ABOVE_0,
        ),
        Flag(
            "string",
            "anneal",
            None,
            "schedule of the drop fraction: constant, cosine or exponential_K; default "
            "set: constant, rigl: cosine",
        ),
        Flag(
            "string",
            "drop",
            "magnitude",
            "drop the smallest magnitudes; or signs: the smallest positive and the "
            "smallest negative weights",
            choices=("magnitude", "signs"),
        ),
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
            1e-5,
            "standard deviation of noise added to magnitudes, to break ties",
            range=SHARE,
        ),
    ),
)


def scopes_of(name: str, groups: Groups) -> Scopes:
    """The scopes of a method that updates its mask during training.

    Args:
      name: name of the method.
      groups: its flags, named like its arguments (except `drop_noise` for `noise`).
    """
    names = [flag.name for flag in flags_in(groups)]

    def scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
        arguments: dict[str, Any] = {n: settings[n].value for n in names}
        until = arguments["update_until"]
        if until is not None and until >= 1:
            arguments["update_until"] = int(until)
        arguments["noise"] = arguments.pop("drop_noise")
        _check_length(name, until, total_steps)
        arguments["total_steps"] = total_steps
        return [sparse_scope(name, settings, arguments)]

    return scopes


def _check_length(name: str, until: float | None, total_steps: int | None) -> None:
    from topkast_tf.methods import METHODS

    default = METHODS[name].update_until  # type: ignore[attr-defined]
    until = default if until is None else until
    if total_steps is None and until is not None and until < 1:
        raise UserError(
            f"Expected --steps, as --update_until={until} is a fraction of the run. "
            "Received: a run of unknown length"
        )


_GROUPS = (static.GROUP, GROUP)
METHOD = RunMethod("SET", scopes_of("set", _GROUPS), groups=_GROUPS)
