"""The width of a dense network that costs what a sparse one does."""

import contextlib
from collections.abc import Callable

import keras

import topkast_tf
from launch.config.methods import METHODS
from launch.run import sparsity
from launch.support.errors import UserError
from launch.tasks.base import Task

_TRIES = 6
_CLOSE = 0.01


def width_factor(task: Task) -> float:
    """The factor on the widths of a task's model at which it costs what is asked for.

    The cost is that of the static network with the sparsity, distribution and exemptions
    of the flags: FLOPs of a forward pass, or parameters that it keeps. Channels are whole
    numbers, so that it is met as nearly as a few tries find.

    Args:
      task: the task, whose own factor is 1.

    Raises:
      UserError: if even the smallest network costs more than twice as much.
    """
    settings = task.settings
    cost = _COSTS[settings.small_by]

    def built(scope: contextlib.AbstractContextManager) -> float:
        keras.utils.set_random_seed(task.seed)
        with scope:
            model = task.build()
        return cost(task, model)

    task.width_factor = 1.0
    target = built(sparsity.scope("static", settings, task.total_steps))
    factor, best, least = 1.0, 1.0, float("inf")
    try:
        for _ in range(_TRIES):
            task.width_factor = factor
            found = built(contextlib.nullcontext())
            if abs(found / target - 1) < abs(least / target - 1):
                best, least = factor, found
            if abs(found / target - 1) < _CLOSE:
                break
            # The cost of most layers is quadratic in the width.
            factor *= (target / found) ** 0.5
    finally:
        task.width_factor = 1.0
    if least > 2 * target:
        raise UserError(
            f"Expected a sparsity at which a smaller network exists. Received: "
            f"--sparsity={settings.sparsity}, of which the smallest network with the "
            f"layers of {settings.model} has {least / target:.1f} times the "
            f"{settings.small_by}"
        )
    print(
        f"small_dense: {best:.4g} of the width, {least / target:.3f} times the "
        f"{settings.small_by} of the network at {settings.sparsity}",
        flush=True,
    )
    return best


def factor_of(task: Task, method: str) -> float:
    """The factor on the widths of a method's model: 1 for all but a resized one."""
    return width_factor(task) if METHODS[method].is_resized else 1.0


def _flops(task: Task, model: keras.Model) -> float:
    return task.flops(model).sparse.forward


def _parameters(task: Task, model: keras.Model) -> float:
    del task
    return topkast_tf.summary(model).kept_parameters


_COSTS: dict[str, Callable[[Task, keras.Model], float]] = {
    "flops": _flops,
    "parameters": _parameters,
}
