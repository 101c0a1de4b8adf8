"""Filter pruning: outputs of the smallest L1 norm are zero, from the first step on."""

from absl import flags

from launch.config.methods.base import POWERED, RunMethod, Scope, sparse_scope


def _scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    return [sparse_scope("filters", settings, {})]


METHOD = RunMethod(
    "filter pruning by L1 norm, of whole outputs; with --exempt=last",
    _scopes,
    common=POWERED,
)
