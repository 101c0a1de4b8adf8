"""STR: a soft threshold for each weight, trained with it."""

from absl import flags

from launch.config.flag import NOT_NEGATIVE, Flag
from launch.config.methods.base import RunMethod, Scope, sparse_scope

GROUP = (
    "STR (--sparsity: what is expected, for plans)",
    (
        Flag(
            "float",
            "initial_threshold",
            -3200.0,
            "the first value of s; weights up to sigmoid(s) are zero",
        ),
        Flag(
            "float",
            "threshold_decay",
            2.2517578e-5,
            "weight decay of s, which makes the network sparse",
            range=NOT_NEGATIVE,
        ),
    ),
)


def _scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    arguments = {
        "initial_threshold": settings.initial_threshold,
        "decay": settings.threshold_decay,
    }
    return [sparse_scope("str", settings, arguments)]


METHOD = RunMethod(
    "STR, soft thresholds",
    _scopes,
    groups=(GROUP,),
    distributions=("uniform",),
    finds_sparsity=True,
)
