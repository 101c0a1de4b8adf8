"""The interface of a task: a model and its data."""

import abc

import keras
import tensorflow as tf
from absl import flags

from topkast_tf.analysis.flops import FlopReport, count_flops


class Task(abc.ABC):
    """A model and its data, as the flags describe them.

    Nothing is read before `load`.

    Args:
      settings: the resolved flags.
      seed: of weights and batches; default --seed.

    Attributes:
      settings: the resolved flags.
      seed: of weights and batches.
      width_factor: on the widths of its model, in addition to --width.
    """

    def __init__(self, settings: flags.FlagValues, seed: int | None = None):
        self.settings = settings
        self.seed: int = settings.seed if seed is None else seed
        self.width_factor = 1.0

    @property
    @abc.abstractmethod
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the training examples."""

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.settings.steps or self.settings.epochs * self.steps_per_epoch

    @property
    def round_steps(self) -> int:
        """Steps from one evaluation to the next."""
        return self.settings.evaluate_every or self.steps_per_epoch

    @property
    @abc.abstractmethod
    def units_a_step(self) -> int:
        """Units that a step trains on; `TaskMetrics.unit` names them."""

    @abc.abstractmethod
    def load(self) -> None:
        """Reads the data.

        Raises:
          UserError: if it is missing or damaged.
        """

    @property
    @abc.abstractmethod
    def data_digest(self) -> str:
        """A digest that identifies the loaded data."""

    @abc.abstractmethod
    def build(self) -> keras.Model:
        """The model, built in the active scope and not compiled."""

    @abc.abstractmethod
    def compile(self, model: keras.Model, optimizer: keras.Optimizer) -> None:
        """Compiles a model with the loss and the metrics of the task."""

    @abc.abstractmethod
    def training_batches(
        self, first_step: int, steps: int, shard: tuple[int, int] = (0, 1)
    ) -> tf.data.Dataset:
        """The batches of steps `first_step` ... `first_step + steps - 1` of the run.

        Args:
          first_step: step of the first batch.
          steps: number of batches.
          shard: (index of a worker, number of workers); only its rows are returned.
        """

    @abc.abstractmethod
    def evaluation_batches(self, shard: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
        """All test data, in order.

        Args:
          shard: (index of a worker, number of workers); only its rows are returned.
        """

    @property
    @abc.abstractmethod
    def batch_spec(self) -> tuple[tf.TensorSpec, tf.TensorSpec]:
        """Inputs and targets of a batch, as the model is given them."""

    def flops(self, model: keras.Model) -> FlopReport:
        """The counted FLOPs of one unit, dense and at the model's sparsities."""
        return count_flops(model)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """The callbacks that the task adds to those of the launcher."""
        return []
