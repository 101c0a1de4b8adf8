"""In-time over-parameterization: SET and RigL that explore longer between updates."""

from typing import Any

from topkast_tf.methods.registry import register_setting
from topkast_tf.methods.rigl import RigL
from topkast_tf.methods.set import SET

_MOVED = {
    "drop_fraction": 0.5,
    "final_drop_fraction": 0.005,
    "anneal": "cosine",
    "update_until": 1.0,
}


@register_setting
def set_itop(*, update_every: int = 1500, **arguments: Any) -> SET:
    """SET with the setting of ITOP (Liu et al. 2021).

    Long intervals between updates that go on to the end of training: new entries have the
    time to grow, and more of theta is tried. R_s, the share of entries that have ever been
    in A, follows from `reservoir_used` of `topkast_tf.MaskDynamics` (docs/methods.md).

    Args:
      update_every: steps between two updates, for batches of 128 of CIFAR in the source.
      **arguments: of `SET`; `total_steps` is needed.

    >>> set_itop(sparsity=0.9, total_steps=10_000).drop_fraction
    0.5

    Source: the README of the authors' code: half of the entries moved at first, along a
    cosine to 0.005.
    """
    return SET(update_every=update_every, **{**_MOVED, **arguments})


@register_setting
def rigl_itop(*, update_every: int = 4000, **arguments: Any) -> RigL:
    """RigL with the setting of ITOP, as `set_itop`; an update follows a step.

    Args:
      update_every: steps between two updates, for batches of 128 of CIFAR in the source.
      **arguments: of `RigL`; `total_steps` is needed.

    >>> rigl_itop(sparsity=0.9, total_steps=100_000).update_every
    4000
    """
    given = {**_MOVED, "update_replaces_step": False, **arguments}
    return RigL(update_every=update_every, **given)
