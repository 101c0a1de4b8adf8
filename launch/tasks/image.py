"""Classification of images."""

import keras
import tensorflow as tf
from absl import flags

from launch import data, models
from launch.data import pipeline
from launch.tasks.base import Task

_TOP = 5


class ImageTask(Task):
    """Classification by cross-entropy, with label smoothing.

    Args:
      settings: the resolved flags.
      seed: of weights and batches; default --seed.
      images: loaded images; if None, `load` reads them.
    """

    def __init__(
        self,
        settings: flags.FlagValues,
        seed: int | None = None,
        images: data.ImageData | data.ImageStream | None = None,
    ):
        super().__init__(settings, seed)
        self._images = images

    @property
    def steps_per_epoch(self) -> int:
        return pipeline.steps_per_epoch(
            self.settings.train_examples, self.settings.batch_size
        )

    @property
    def units_a_step(self) -> int:
        return self.settings.batch_size

    def load(self) -> None:
        source = data.find(self.settings.dataset)
        images = source.open(self.settings.data_dir)
        images = images.subset(self.settings.train_examples)
        if self.settings.crop_padding is not None:
            images = images.cropped(self.settings.crop_padding)
        self._images = images

    @property
    def data_digest(self) -> str:
        return self._images.digest

    def build(self) -> keras.Model:
        source = data.find(self.settings.dataset)
        return models.find(self.settings.model)(
            source.image_shape,
            source.classes,
            self.settings.width * self.width_factor,
        )

    def compile(self, model: keras.Model, optimizer: keras.Optimizer) -> None:
        model.compile(
            optimizer,
            keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=self.settings.label_smoothing
            ),
            metrics=[
                keras.metrics.CategoricalAccuracy("accuracy"),
                keras.metrics.TopKCategoricalAccuracy(_TOP, "top5"),
                keras.metrics.CategoricalCrossentropy(
                    "cross_entropy", from_logits=True
                ),
            ],
            jit_compile=self.settings.jit,
        )

    def training_batches(
        self, first_step: int, steps: int, shard: tuple[int, int] = (0, 1)
    ) -> tf.data.Dataset:
        return pipeline.training_batches(
            self._images,
            batch_size=self.settings.batch_size,
            seed=self.seed,
            first_step=first_step,
            steps=steps,
            shard=shard,
        )

    def evaluation_batches(self, shard: tuple[int, int] = (0, 1)) -> tf.data.Dataset:
        return pipeline.evaluation_batches(self._images, shard=shard)

    @property
    def batch_spec(self) -> tuple[tf.TensorSpec, tf.TensorSpec]:
        batch = self.settings.batch_size
        source = data.find(self.settings.dataset)
        return (
            tf.TensorSpec((batch, *source.image_shape), tf.float32),
            tf.TensorSpec((batch, source.classes), tf.float32),
        )
