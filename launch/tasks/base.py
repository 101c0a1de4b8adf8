"""What a task is: a model and its data."""

import abc

import keras
import tensorflow as tf
from absl import flags

from topkast_tf.analysis.flops import FlopReport, count_flops


class Task(abc.ABC):
    """A model and its data, as the flags ask for them.

    Nothing is read before `load`.

    Attributes:
      settings: the resolved flags.
    """

    def __init__(self, settings: flags.FlagValues):
        self.settings = settings

    @property
    @abc.abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimizer steps in which every training example is seen once."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.settings.steps or self.settings.epochs * self.steps_per_epoch

    @property
    @abc.abstractmethod
    def units_a_step(self) -> int:
        """How many units a step trains on; `TaskMetrics.unit` says what they are."""

    @abc.abstractmethod
    def load(self) -> None:
        """Reads the data.

        Raises:
          UserError: if it is missing or damaged.
        """

    @property
    @abc.abstractmethod
    def data_digest(self) -> str:
        """A name for the data that was loaded, which other data does not have."""

    @abc.abstractmethod
    def build(self) -> keras.Model:
        """The model, built and not compiled, in whatever scope is active."""

    @abc.abstractmethod
    def compile(self, model: keras.Model, optimizer: keras.Optimizer) -> None:
        """Compiles a model with the loss, and the metrics that its figures need."""

    @abc.abstractmethod
    def training_batches(
        self, first_step: int, steps: int, shard: tuple[int, int] = (0, 1)
    ) -> tf.data.Dataset:
        """The batches of steps `first_step` ... `first_step + steps - 1` of the run.

        Args:
          first_step: step of the first batch.
          steps: number of batches.
          shard: (index of a worker, number of workers), to get its rows only.
        """

    @abc.abstractmethod
    def evaluation_batches(self, shard: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
        """All test data, in its order.

        Args:
          shard: (index of a worker, number of workers), to get its rows only.
        """

    def flops(self, model: keras.Model) -> FlopReport:
        """The FLOPs of one unit, counted, dense and at the model's sparsities."""
        return count_flops(model)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What `fit` needs beside the launcher's own callbacks."""
        return []
