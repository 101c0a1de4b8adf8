"""DST: a hard threshold for each output, trained with the weights."""

from absl import flags

from launch.config.flag import NOT_NEGATIVE, Flag
from launch.config.methods.base import RunMethod, Scope, sparse_scope

GROUP = (
    "DST (--sparsity: what is expected, for plans)",
    (
        Flag(
            "float",
            "penalty_coefficient",
            5e-6,
            "of the term of the loss that raises thresholds",
            range=NOT_NEGATIVE,
        ),
        Flag(
            "string",
            "thresholds_per",
            "output",
            "what has a threshold: output, weight or entry",
            choices=("output", "weight", "entry"),
        ),
    ),
)


def _scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    arguments = {
        "penalty_coefficient": settings.penalty_coefficient,
        "per": settings.thresholds_per,
    }
    return [sparse_scope("dst", settings, arguments)]


METHOD = RunMethod(
    "DST, trained thresholds",
    _scopes,
    groups=(GROUP,),
    distributions=("uniform",),
    finds_sparsity=True,
)
