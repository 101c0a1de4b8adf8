"""Transformer-XL as a Keras model with a memory of earlier segments."""

import dataclasses
from collections.abc import Mapping

import keras
import tensorflow as tf

from launch.models.adaptive_softmax import AdaptiveSoftmax
from launch.models.language_metrics import (
    BitsPerCharacter,
    NegativeLogLikelihood,
    Perplexity,
    TokenLoss,
)
from launch.models.segment_memory import SegmentMemory
from launch.models.transformer_xl_config import TransformerXLConfig, from_saved
from launch.models.transformer_xl_core import TransformerXLCore
from topkast_tf.compat import layers_within, seed_generators


@keras.saving.register_keras_serializable("launch")
class TransformerXL(keras.Model):
    """A language model that attends to the hidden states of earlier segments.

    For the tokens x of a segment and the memory m of earlier segments::

        h, m' = core(x, m)
        loss = sum_t w_t -log p(target_t | h_t) / sum_t w_t  +  penalties of the layers

    `fit` and `evaluate` take batches of (inputs, targets), integers [batch, length],
    whose rows continue those of the previous batch. Batches of a new size start without
    memory. `compile` takes no loss. With a third element, weights w [batch, length], loss
    and metrics are weighted means over all tokens of all batches, so that a last segment
    can be padded with zeros; without it, the weights are 1. `loss` is `nll` plus the
    penalties. A data set should have a known length
    (`tf.data.experimental.assert_cardinality`); otherwise Keras counts the last batch of
    an evaluation twice.

    `fit`, `evaluate` and each call of the model update the memory, with separate memories
    for training and evaluation (see `SegmentMemory`). For custom loops, `core` is a layer
    that takes and returns the memory. The memory starts as zeros, which are attended to
    like other states. The callback `ResetMemory` resets it before each evaluation.

    Args:
      config: the configuration.
      name: name of the model, with which the paths of its weights begin.

    Raises:
      ValueError: in `fit` and `evaluate`, if there are no targets.

    >>> import numpy as np
    >>> from launch.models.transformer_xl_config import CONFIGS
    >>> model = TransformerXL(CONFIGS["txl_tiny"])
    >>> model.compile("adam", jit_compile=False)
    >>> text = np.arange(9)[None] % 11
    >>> result = model.evaluate(text[:, :-1], text[:, 1:], verbose=0, return_dict=True)
    >>> sorted(result)
    ['bpc', 'loss', 'nll', 'perplexity']

    Source: Dai et al., Transformer-XL, ACL 2019, and the authors' published code. Where
    its two versions differ, this model follows the TensorFlow version:

    * The first memory is zeros, in full length, and is attended to. The PyTorch version
      starts without states.
    * With `same_length` a token sees the memory length and itself, one key more than in
      the PyTorch version, which includes the token in the memory length.
    * Row c - 1 of `softmax.cluster_table` and `softmax.cluster_bias` belongs to cluster
      c. The PyTorch version has the reverse order, so a converter of its checkpoints must
      flip `cluster_weight` and `cluster_bias`.
    * Norms start as the identity, and the weights of the clusters as zeros.

    Departs from it, as the PyTorch version does, in the epsilon of norms, 1e-5, and
    without cutoffs in the projection of the softmax, which is not shared with the
    embedding; and from both in computing all softmaxes at least in float32.
    """

    def __init__(
        self,
        config: TransformerXLConfig | Mapping,
        # A fixed name without a counter, because paths of weights begin with it.
        name: str = "transformer_xl",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.config = from_saved(config)
        self.core = TransformerXLCore(self.config, dtype=self.dtype_policy, name="core")
        self.softmax = AdaptiveSoftmax(self.config, self.core.embedding, name="softmax")
        self.memory = SegmentMemory(
            self.config.layers,
            self.config.d_model,
            dtype=self.dtype_policy,
            name="memory",
        )
        self._evaluation_memory_length = self.config.evaluation_memory_length
        object.__setattr__(self, "_batch_shapes", {})
        self._token_metrics = [
            NegativeLogLikelihood(),
            BitsPerCharacter(),
            Perplexity(),
        ]
        # Hidden from Keras, because `metrics` returns it in place of Keras's tracker.
        object.__setattr__(self, "_token_loss", TokenLoss())
        self.build((None, self.config.segment_length))

    def build(self, input_shape=None):
        self.core.build(input_shape)
        self.softmax.build(None)

    @property
    def evaluation_memory_length(self) -> int:
        """Length of the memory in evaluation; may be set at any time."""
        return self._evaluation_memory_length

    @evaluation_memory_length.setter
    def evaluation_memory_length(self, length: int) -> None:
        if length < 0:
            raise ValueError(
                f"Expected `evaluation_memory_length` to be at least 0. "
                f"Received: {length}"
            )
        self._evaluation_memory_length = length
        self.test_function = self.predict_function = None  # traced with the old length

    def call(self, tokens, training=None):
        """Computes the hidden states of one segment, and updates the memory.

        Args:
          tokens: integers [batch, length].
          training: selects the memory, and whether dropout is applied.

        Returns:
          The hidden states [batch, length, d_model]; `softmax` turns them into
          log-probabilities.
        """
        tokens = tf.cast(tokens, tf.int32)
        batch = tokens.shape[0]
        if batch is None:
            if self.compiled and self.jit_compile:
                raise ValueError(
                    "Expected batches of a known size, because under XLA a memory cannot "
                    "change its size: use `dataset.batch(size, drop_remainder=True)`, or "
                    "compile with `jit_compile=False`. "
                    f"Received: tokens of shape {tuple(tokens.shape)}"
                )
            batch = tf.shape(tokens)[0]
        mode = "training" if training else "evaluation"
        length = (
            self.config.memory_length if training else self.evaluation_memory_length
        )
        memory = self.memory.read(mode, batch, length)
        hidden, following = self.core(tokens, memory, training=training)
        self.memory.write(mode, batch, length, following)
        return hidden

    def compute_output_spec(self, tokens, training=None):
        return keras.KerasTensor(
            (*tokens.shape, self.config.d_model), dtype=self.compute_dtype
        )

    @property
    def metrics(self) -> list[keras.Metric]:
        """The metrics of the model; `loss` is the mean over tokens, not over batches."""
        return [self._token_loss if m.name == "loss" else m for m in super().metrics]

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The mean negative log-likelihood in nats, plus the penalties of the layers."""
        if y is None:
            raise ValueError(
                "Expected batches of (inputs, targets), both integers [batch, length]. "
                "Received: no targets"
            )
        nll = self.softmax(y_pred, y)
        weights = tf.ones_like(nll)
        if sample_weight is not None:
            weights = tf.broadcast_to(tf.cast(sample_weight, nll.dtype), tf.shape(nll))
        for metric in self._token_metrics:
            metric.update_state(nll, weights)
        total = tf.reduce_sum(weights)
        mean = tf.math.divide_no_nan(tf.reduce_sum(weights * nll), total)
        penalties = [tf.cast(loss, mean.dtype) for loss in self.losses]
        loss = tf.add_n([mean, *penalties])
        self._token_loss.update_state(loss, total)
        # A strategy sums the gradients of its replicas.
        return loss / tf.distribute.get_strategy().num_replicas_in_sync

    # For a second batch size, Keras would trace one function for batches of any size.

    def fit(self, x=None, *args, **kwargs):
        self._renew("train_function", x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self._renew("test_function", x)
        return super().evaluate(x, *args, **kwargs)

    def _renew(self, function: str, x) -> None:
        """Makes Keras retrace a function if the shape of the batches has changed."""
        if not isinstance(x, tf.data.Dataset):
            return
        shape = tf.nest.flatten(x.element_spec)[0].shape
        if self._batch_shapes.get(function, shape) != shape:
            setattr(self, function, None)
        self._batch_shapes[function] = shape

    def reset_memory(self, mode: str | None = None) -> None:
        """Sets the memory to zeros. Must not be called within a `tf.function`.

        Args:
          mode: `training` or `evaluation`; None: both.
        """
        self.memory.reset(mode)

    # A resumed run needs the random state of dropout, which Keras does not save.

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for name, state in self._random_states().items():
            store[name] = state.numpy()

    def load_own_variables(self, store):
        states = self._random_states()
        own = {name: store[name] for name in store.keys() if name not in states}
        super().load_own_variables(own)
        for name, state in states.items():
            if name in store.keys():
                state.assign(store[name])

    def _random_states(self) -> dict[str, keras.Variable]:
        generators = [
            generator
            for layer in layers_within(self)[1:]
            for generator in seed_generators(layer)
        ]
        return {f"random_{i}": made.state for i, made in enumerate(generators)}

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        children = super()._trackable_children(save_type, **kwargs)
        if save_type != "checkpoint":
            return children
        return {**children, **self._random_states()}

    def _lookup_dependency(self, name, *args, **kwargs):
        found = self._random_states().get(name)
        if found is not None:
            return found
        return super()._lookup_dependency(name, *args, **kwargs)

    def get_config(self):
        return {**super().get_config(), "config": dataclasses.asdict(self.config)}
