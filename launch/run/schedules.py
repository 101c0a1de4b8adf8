"""Learning rates as plain functions of the step."""

import math
from collections.abc import Callable, Sequence

from absl import flags

from launch.config.flags import drop_steps

Schedule = Callable[[int], float]


def schedule_of(settings: flags.FlagValues, total_steps: int) -> Schedule:
    """The learning-rate schedule that the flags describe.

    Args:
      settings: the resolved flags.
      total_steps: length of the run in optimizer steps.
    """
    return learning_rate(
        settings.lr_schedule,
        settings.learning_rate,
        total_steps,
        warmup_steps=settings.warmup_steps,
        drop_steps=drop_steps(settings),
        drop=settings.lr_drop,
    )


def learning_rate(
    name: str,
    peak: float,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    drop_steps: Sequence[int] = (),
    drop: float = 0.1,
) -> Schedule:
    """The learning rate of each step, with a linear warm-up.

    lr(t) = peak * min(1, (t + 1) / warmup_steps) * shape(t), where shape(t) is

    | name | shape(t) |
    |---|---|
    | `constant` | 1 |
    | `cosine` | (1 + cos(pi * t / total_steps)) / 2 |
    | `steps` | drop ** (number of drop_steps <= t) |

    Args:
      name: `constant`, `cosine` or `steps`.
      peak: the highest rate, above 0.
      total_steps: length of the run in optimizer steps, at least 1.
      warmup_steps: steps until the warm-up factor reaches 1; 0: no warm-up.
      drop_steps: for `steps`, the steps at which the rate drops; default
        total_steps / 2 and 3 * total_steps / 4, the proportions of He et al.
      drop: the factor of each drop.

    Returns:
      A function of the step, counted from 0.

    Raises:
      ValueError: for a name that is not in the table.

    >>> rate = learning_rate("steps", 0.1, 8, warmup_steps=2)
    >>> [round(rate(t), 6) for t in range(8)]
    [0.05, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]

    Source: cosine, Loshchilov and Hutter 2017, without restarts; steps, He et al.
    2016, section 4.2 (drops at 32k and 48k of 64k steps); warm-up, Goyal et al. 2017.
    """
    if name == "constant":
        shape: Schedule = lambda step: 1.0  # noqa: E731
    elif name == "cosine":
        shape = lambda step: (1 + math.cos(math.pi * step / total_steps)) / 2  # noqa: E731
    elif name == "steps":
        drops = drop_steps or (total_steps // 2, 3 * total_steps // 4)
        shape = lambda step: drop ** sum(d <= step for d in drops)  # noqa: E731
    else:
        raise ValueError(
            f"Expected one of 'constant', 'cosine', 'steps'. Received: name={name!r}"
        )

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return peak * warm * shape(step)

    return rate
