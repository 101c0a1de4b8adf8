"""The metrics of a run. Nothing here imports TensorFlow."""

from collections.abc import Callable
from typing import NamedTuple


class Metric(NamedTuple):
    """One metric of a run.

    Attributes:
      column: its name in metrics.csv and results.csv: `train_`, `valid_` or `test_`,
        then the quantity measured on that part.
      log: its name in Keras's logs of an epoch.
      label: its name in the table at the end.
      shown: formats a value as text.
      higher_is_better: True for an accuracy, False for a loss.

    >>> loss = Metric("test_loss", "val_loss", "test loss", decimals)
    >>> loss.is_better(0.5, than=1.0), loss.is_better(0.5, than=0.5)
    (True, False)
    """

    column: str
    log: str
    label: str
    shown: Callable[[float], str]
    higher_is_better: bool = False

    def is_better(self, value: float, than: float) -> bool:
        """Whether a value is strictly better than another."""
        return value > than if self.higher_is_better else value < than


def percent(share: float) -> str:
    """A share as a percentage.

    >>> percent(0.5)
    '50.00%'
    """
    return f"{share:.2%}"


def decimals(number: float) -> str:
    """A number with four decimals.

    >>> decimals(2.0)
    '2.0000'
    """
    return f"{number:.4f}"


class Items(NamedTuple):
    """The items that a step trains on.

    Attributes:
      name: plural noun, such as `images`.
      a_step: number per step.
    """

    name: str
    a_step: int


class TaskMetrics(NamedTuple):
    """The metrics of a kind of data.

    Attributes:
      unit: the unit of FLOPs and of speed.
      metrics: the metrics of each epoch, the headline first.
      loads: the requirement for loading the saved model.
    """

    unit: str
    metrics: tuple[Metric, ...]
    loads: str


_PERPLEXITY = Metric(
    "valid_perplexity", "val_perplexity", "validation perplexity", decimals
)
_TEXT_LOSSES = (
    Metric("valid_loss", "val_nll", "validation loss (nats)", decimals),
    Metric("train_loss", "nll", "training loss (nats)", decimals),
)
_TEXT_LOADS = "launch.models.transformer_xl imported"

METRICS: dict[str, TaskMetrics] = {
    "image": TaskMetrics(
        "image",
        (
            Metric("test_accuracy", "val_accuracy", "test accuracy", percent, True),
            Metric("test_top5", "val_top5", "test accuracy, top 5", percent, True),
            Metric("test_loss", "val_cross_entropy", "test loss (nats)", decimals),
            Metric("train_accuracy", "accuracy", "training accuracy", percent, True),
            Metric("train_loss", "cross_entropy", "training loss (nats)", decimals),
        ),
        "Keras alone",
    ),
    "byte": TaskMetrics(
        "token",
        (
            Metric("valid_bpc", "val_bpc", "validation, bits per byte", decimals),
            _PERPLEXITY,
            *_TEXT_LOSSES,
        ),
        _TEXT_LOADS,
    ),
    "word": TaskMetrics("token", (_PERPLEXITY, *_TEXT_LOSSES), _TEXT_LOADS),
}
"""Unit of the data set -> its metrics."""
