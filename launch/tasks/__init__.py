"""The tasks of the launcher: images or text, chosen by the data set.

Nothing here imports TensorFlow before a task is made.
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
    """The metrics of a run, and the unit of its FLOPs."""
    return METRICS[data.find(settings.dataset).unit]


def task_of(settings: flags.FlagValues) -> Task:
    """The task that the flags describe.

    Raises:
      UserError: for a data set that is not registered.
    """
    if data.find(settings.dataset).kind == "text":
        from launch.tasks.language import LanguageTask

        return LanguageTask(settings)
    from launch.tasks.image import ImageTask

    return ImageTask(settings)
