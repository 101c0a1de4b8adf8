"""Transformer-XL as a Keras model that remembers earlier segments."""

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

    For the tokens x of a segment and the memory m of what came before::

        h, m' = core(x, m)
        loss = sum_t w_t -log p(target_t | h_t) / sum_t w_t  +  penalties of the layers

    `fit` and `evaluate` take batches of (inputs, targets), integers [batch, length],
    whose rows continue those of the batch before; batches of another size than before
    begin without memory. There is no loss to be given to `compile`. With
    a third element, weights w [batch, length], loss and metrics are weighted means over
    all tokens of all batches, so that a last segment can be filled up with zeros; the
    weights are 1 without it. `loss` is `nll` and the penalties. A data set should know
    its length (`tf.data.experimental.assert_cardinality`): where it does not, Keras
    counts the last batch of an evaluation twice.

    The memory is kept by `fit`, by `evaluate` and by each call of the model, with
    separate memories for training and evaluation (see `SegmentMemory`); `core`, a
    layer, takes it and gives it back for loops of one's own. It begins as zeros, which
    are attended to like any states. `ResetMemory` is the callback that lets each
    evaluation begin so.

    Args:
      config: the sizes and settings.
      name: of the model; its weights' paths begin with it.

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
    its two versions differ, the TensorFlow one is followed:

    * The first memory is zeros, as many as are remembered later, and they are attended
      to. The PyTorch version begins with no states.
    * With `same_length` a token sees the memory length and itself, one key more than in
      the PyTorch version, which counts the token among them.
    * Row c - 1 of `softmax.cluster_table` and `softmax.cluster_bias` is that of cluster
      c. The PyTorch version has them in reverse order: a converter of its checkpoints
      flips `cluster_weight` and `cluster_bias`.
    * Norms begin as the identity, and the weights of the clusters as zeros.

    Departs from it, as the PyTorch version does, in the norms' epsilon, 1e-5, and
    without cutoffs in the projection of the softmax, which is not that of the embedding
    but its own; and from both in computing all softmaxes in float32 at least.
    """

    def __init__(
        self,
        config: TransformerXLConfig | Mapping,
        # Not numbered by how many the process has made: paths of weights begin with it.
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
        # Hidden from Keras, as `metrics` shows it in the place of the tracker of Keras.
        object.__setattr__(self, "_token_loss", TokenLoss())
        self.build((None, self.config.segment_length))

    def build(self, input_shape=None):
        self.core.build(input_shape)
        self.softmax.build(None)

    @property
    def evaluation_memory_length(self) -> int:
        """States remembered in evaluation; may be set at any time."""
        return self._evaluation_memory_length

    @evaluation_memory_length.setter
    def evaluation_memory_length(self, length: int) -> None:
        if length < 0:
            raise ValueError(
                f"Expected `evaluation_memory_length` to be at least 0. "
                f"Received: {length}"
            )
        self._evaluation_memory_length = length
        self.test_function = self.predict_function = None  # they have the old one

    def call(self, tokens, training=None):
        """Reads one segment, and remembers it.

        Args:
          tokens: integers [batch, length].
          training: which memory, and whether there is dropout.

        Returns:
          The hidden states [batch, length, d_model]; `softmax` makes them
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
        """As of any model, but `loss` is the mean over tokens and not over batches."""
        return [self._token_loss if m.name == "loss" else m for m in super().metrics]

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        """The mean negative log-likelihood in nats, and the penalties of the layers."""
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
        # A strategy adds up the gradients of its replicas.
        return loss / tf.distribute.get_strategy().num_replicas_in_sync

    # Keras would trace one function for batches of any size when it meets a second size.

    def fit(self, x=None, *args, **kwargs):
        self._renew("train_function", x)
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self._renew("test_function", x)
        return super().evaluate(x, *args, **kwargs)

    def _renew(self, function: str, x) -> None:
        """Has a function traced anew if the batches are of another size than its."""
        if not isinstance(x, tf.data.Dataset):
            return
        shape = tf.nest.flatten(x.element_spec)[0].shape
        if self._batch_shapes.get(function, shape) != shape:
            setattr(self, function, None)
        self._batch_shapes[function] = shape

    def reset_memory(self, mode: str | None = None) -> None:
        """Forgets: sets the memory to zeros. Not for use within a `tf.function`.

        Args:
          mode: `training` or `evaluation`; None: both.
        """
        self.memory.reset(mode)

    # Dropout's random state is part of a run that is to be resumed; Keras saves none.

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
