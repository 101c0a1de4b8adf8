"""What the launcher can learn: images or text, chosen by the data set.

Nothing here imports TensorFlow before a task is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launch import data
from launch.tasks.metrics import METRICS, TaskMetrics

if TYPE_CHECKING:
    from absl import flags

    from launch.tasks.base import Task

__all__ = ["metrics_of", "task_of"]


def metrics_of(settings: flags.FlagValues) -> TaskMetrics:
    """The figures of a run, and what its FLOPs are counted for."""
    return METRICS[data.find(settings.dataset).unit]


def task_of(settings: flags.FlagValues) -> Task:
    """The task of a run's flags.

    Raises:
      UserError: for a data set that is not registered.
    """
    if data.find(settings.dataset).kind == "text":
        from launch.tasks.language import LanguageTask

        return LanguageTask(settings)
    from launch.tasks.image import ImageTask

    return ImageTask(settings)
