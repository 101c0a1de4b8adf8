"""What happens at each step and round of `fit`: rate, record, checkpoint, progress."""

from launch.callbacks.nonfinite import StopOnNaN
from launch.callbacks.progress import Progress
from launch.callbacks.rate import LearningRate
from launch.callbacks.recorder import METRICS_FILE, Recorder
from launch.callbacks.steps import steps_taken

__all__ = [
    "METRICS_FILE",
    "LearningRate",
    "Progress",
    "Recorder",
    "StopOnNaN",
    "steps_taken",
]
