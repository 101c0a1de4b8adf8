"""N:M sparsity: of every M inputs of an output, N are kept."""

from absl import flags

from launch.config.flag import SHARE, Flag
from launch.config.methods.base import POWERED, RunMethod, Scope, sparse_scope

GROUP = (
    "N:M",
    (
        Flag(
            "integer",
            "m",
            4,
            "M; N is (1 - sparsity) M",
            {"lower_bound": 2, "upper_bound": 64},
        ),
        Flag(
            "float",
            "sr_ste_decay",
            2e-4,
            "decay of the weights that are zero in the forward pass; 0: straight-through",
            range=SHARE,
        ),
    ),
)


def _scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    arguments = {
        "m": settings.m,
        "decay": settings.sr_ste_decay,
        "total_steps": total_steps,
    }
    return [sparse_scope("nm", settings, arguments)]


METHOD = RunMethod(
    "N:M with SR-STE",
    _scopes,
    groups=(GROUP,),
    common=POWERED,
    distributions=("uniform",),
)
