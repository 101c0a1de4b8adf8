"""Prediction of the next token of a text."""

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from launch import data
from launch.callbacks import steps_taken
from launch.data import segments
from launch.data.shares import share
from launch.data.text import TextData
from launch.models import transformer_xl_config
from launch.models.segment_memory import ResetMemory
from launch.models.transformer_xl import TransformerXL
from launch.models.transformer_xl_config import TransformerXLConfig
from launch.models.transformer_xl_flops import count_token_flops
from launch.support.errors import UserError
from launch.tasks.base import Task
from topkast_tf.analysis.flops import FlopReport

OVERRIDES = {
    "segment_length": "segment_length",
    "memory_length": "memory_length",
    "evaluation_segment": "evaluation_segment_length",
    "evaluation_memory": "evaluation_memory_length",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
}
"""Flag -> field of the configuration that it replaces."""


def config_of(
    settings: flags.FlagValues,
    vocabulary: int,
    overrides: Mapping[str, str] = OVERRIDES,
) -> TransformerXLConfig:
    """The named configuration, widened, with the fields that other flags replace.

    Cutoffs of the adaptive softmax beyond the vocabulary are left out.

    Args:
      settings: the resolved flags.
      vocabulary: number of distinct tokens of the text.
      overrides: flag -> field that it replaces, if the flag is given.

    Raises:
      UserError: for a size out of range.
    """
    named = transformer_xl_config.find(settings.model)
    changes: dict[str, Any] = {
        field: settings[flag].value
        for flag, field in overrides.items()
        if settings[flag].value is not None
    }
    changes["vocabulary"] = vocabulary
    changes["cutoffs"] = tuple(cut for cut in named.cutoffs if cut < vocabulary)
    try:
        return named.widened(settings.width).replaced(**changes)
    except ValueError as error:
        raise UserError(str(error)) from error


class LanguageTask(Task):
    """A Transformer-XL on consecutive segments of a text; loss in nats per token."""

    @functools.cached_property
    def text(self) -> TextData:
        """The text; read at first use, because it determines the vocabulary."""
        settings = self.settings
        return data.find(settings.dataset).load(settings.data_dir, settings.text_cache)

    @property
    def config(self) -> TransformerXLConfig:
        """The configuration that the flags and the vocabulary of the text determine."""
        found = config_of(self.settings, self.text.vocabulary_size)
        return found if self.width_factor == 1 else found.widened(self.width_factor)

    @property
    def steps_per_epoch(self) -> int:
        return segments.steps_per_epoch(
            len(self.text.train), self.settings.batch_size, self.config.segment_length
        )

    @property
    def units_a_step(self) -> int:
        return self.settings.batch_size * self.config.segment_length

    def load(self) -> None:
        _ = self.text

    @property
    def data_digest(self) -> str:
        return self.text.digest

    def build(self) -> keras.Model:
        return TransformerXL(self.config)

    def compile(self, model: keras.Model, optimizer: keras.Optimizer) -> None:
        model.compile(optimizer, jit_compile=self.settings.jit)

    def training_batches(
        self, first_step: int, steps: int, shard: tuple[int, int] = (0, 1)
    ) -> tf.data.Dataset:
        return segments.segment_batches(
            self.text.train,
            self.settings.batch_size,
            self.config.segment_length,
            first_step,
            steps,
            shard=shard,
        )

    def evaluation_batches(
        self, shard: tuple[int, int] = (0, 1), part: str = "valid"
    ) -> tf.data.Dataset:
        """A whole part of the text, each token predicted once.

        Args:
          shard: (index of a worker, number of workers); only its rows are returned.
          part: `valid` or `test`.
        """
        return segments.evaluation_segments(
            getattr(self.text, part),
            self.settings.evaluation_batch,
            self.config.evaluation_segment_length,
        ).map(lambda *batch: share(batch, shard))

    @property
    def batch_spec(self) -> tuple[tf.TensorSpec, tf.TensorSpec]:
        shape = (self.settings.batch_size, self.config.segment_length)
        return tf.TensorSpec(shape, tf.int32), tf.TensorSpec(shape, tf.int32)

    def flops(self, model: keras.Model) -> FlopReport:
        counts = [
            int(((start <= self.text.train) & (self.text.train < end)).sum())
            for start, end, _ in self.config.clusters
        ]
        return count_token_flops(model, np.divide(counts, len(self.text.train)))

    def callbacks(self) -> list[keras.callbacks.Callback]:
        return [ResetMemory(), _ForgetAtEpoch(self.steps_per_epoch)]


class _ForgetAtEpoch(keras.callbacks.Callback):
    """Clears the training memory when the text restarts, but not when a run resumes."""

    def __init__(self, steps_per_epoch: int):
        super().__init__()
        self._steps = steps_per_epoch

    def on_train_batch_begin(self, batch, logs=None):
        if steps_taken(self.model) % self._steps == 0:
            self.model.reset_memory("training")
