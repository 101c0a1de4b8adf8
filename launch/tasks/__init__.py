"""What the launcher can learn: images or text, chosen by the data set.

Nothing here imports TensorFlow before a task is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from launch import data
from launch.tasks.figures import JUDGED, Judged

if TYPE_CHECKING:
    from absl import flags

    from launch.tasks.base import Task

__all__ = ["judged", "task_of"]


def judged(settings: flags.FlagValues) -> Judged:
    """The figures of a run, and what its FLOPs are counted for."""
    return JUDGED[data.find(settings.dataset).unit]


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
