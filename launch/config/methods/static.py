"""Static masks: the first mask is never changed."""

from absl import flags

from launch.config.flag import Flag
from launch.config.methods.base import POWERED, RunMethod, Scope, sparse_scope

GROUP = (
    "Static masks, SET, RigL",
    (
        Flag(
            "string",
            "first_mask",
            "random",
            "random; or magnitude: the largest weights",
            choices=("random", "magnitude"),
        ),
    ),
)


def _scopes(settings: flags.FlagValues, total_steps: int | None) -> list[Scope]:
    arguments = {
        "first_mask": settings.first_mask,
        "storage": settings.storage,
        "theta_dir": METHOD.theta_dir(settings),
    }
    return [sparse_scope("static", settings, arguments)]


METHOD = RunMethod(
    "a static mask",
    _scopes,
    groups=(GROUP,),
    common=(*POWERED, "storage", "theta"),
    stores_weights=True,
)
