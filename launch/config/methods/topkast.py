"""Top-KAST: forward and backward sets of the largest weights."""

from typing import Any

from absl import flags

from launch.config.flag import (
    AT_LEAST_0,
    AT_LEAST_1,
    NOT_NEGATIVE,
    SHARE,
    Flag,
    whole_numbers,
)
from launch.config.methods.base import (
    LAYERWISE,
    PLACEMENT,
    RunMethod,
    Scope,
    placement,
)
from launch.support.errors import UserError

FLAGS = (
    Flag("float", "fwd", 0.9, "forward sparsity, a fraction of zeros", range=SHARE),
    Flag("float", "bwd", 0.8, "backward sparsity, at most --fwd", range=SHARE),
    Flag(
        "integer",
        "refresh_every",
        1,
        "steps between two selections of the sets",
        bounds=AT_LEAST_1,
    ),
    Flag(
        "float",
        "exploration",
        1e-4,
        "coefficient of the exploration loss, the weight decay of sparse kernels",
        range=NOT_NEGATIVE,
    ),
    Flag(
        "string",
        "exploration_norm",
        "l2",
        "l2 (squared), or l1, the form printed in the paper",
        choices=("l2", "l1"),
    ),
    Flag("string", "backward", "topk", "topk or random", choices=("topk", "random")),
    Flag(
        "integer",
        "stop_exploring_at",
        None,
        "step from which the backward set equals the forward set",
        bounds=AT_LEAST_0,
    ),
    Flag("list", "block", None, "rows,cols of the blocks that are selected"),
    Flag(
        "string",
        "block_reduce",
        "sum",
        "score of a block: sum or max",
        choices=("sum", "max"),
    ),
    Flag(
        "string",
        "slots",
        None,
        "the optimizer's slots outside the backward set: decay, with a gradient of zero "
        "(the default); or reset to zero (the only one with --storage=packed)",
        choices=("decay", "reset"),
    ),
)
GROUP = ("Top-KAST", FLAGS)


def check(values: flags.FlagValues) -> None:
    """Raises `UserError` for a backward sparsity above the forward sparsity."""
    if values.bwd > values.fwd:
        raise UserError(
            "Expected --bwd to be at most --fwd: sparsities are fractions of zeros, and "
            "the backward set contains the forward set. "
            f"Received: --fwd={values.fwd}, --bwd={values.bwd}"
        )


def scope(
    settings: flags.FlagValues,
    total_steps: int | None,
    storage: str = "dense",
    theta_dir: str | None = None,
) -> Scope:
    """The scope of Top-KAST.

    Args:
      settings: the resolved flags.
      total_steps: the number of optimizer steps of the run, or None if it is unknown.
      storage: of its weights.
      theta_dir: for mapped files of theta, or None.
    """
    from topkast_tf import topkast_scope

    arguments: dict[str, Any] = {flag.name: settings[flag.name].value for flag in FLAGS}
    arguments["block"] = whole_numbers(settings, "block") or None
    return topkast_scope(
        **arguments,
        total_steps=total_steps,
        kernels=settings.kernels,
        power=settings.power,
        storage=storage,
        theta_dir=theta_dir,
        **placement(settings),
    )


def _scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    return [scope(settings, total_steps, settings.storage, METHOD.theta_dir(settings))]


METHOD = RunMethod(
    "Top-KAST",
    _scopes,
    groups=(GROUP,),
    common=(*PLACEMENT, "kernels", "power", "storage", "theta"),
    stores_weights=True,
    distributions=(*LAYERWISE, "global"),
    check=check,
    has_penalty=True,
)
