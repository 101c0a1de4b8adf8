"""The callbacks of a run: learning rate, records, checkpoints, progress."""

from launch.callbacks.evaluation_bar import EvaluationBar
from launch.callbacks.events import Events
from launch.callbacks.nonfinite import NotFinite, StopOnNaN
from launch.callbacks.progress import Progress
from launch.callbacks.rate import LearningRate
from launch.callbacks.recorder import METRICS_FILE, Recorder
from launch.callbacks.steps import steps_taken
from launch.callbacks.stopping import StopWhenAsked, ended

__all__ = [
    "METRICS_FILE",
    "EvaluationBar",
    "Events",
    "LearningRate",
    "NotFinite",
    "Progress",
    "Recorder",
    "StopOnNaN",
    "StopWhenAsked",
    "ended",
    "steps_taken",
]
