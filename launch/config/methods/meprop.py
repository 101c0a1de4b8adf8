"""meProp: back-propagation of the largest error gradients of each example alone."""

from absl import flags

from launch.config.methods.base import RunMethod, Scope, sparse_scope


def _scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    import swat_tf  # noqa: F401  registers the scope

    return [sparse_scope("meprop", settings, {})]


METHOD = RunMethod(
    "meProp, sparse error gradients and a dense network",
    _scopes,
    distributions=("uniform",),
)
