"""`prune`: selects the masks of methods that prune before training."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from topkast_tf.layers.structure import library_of
from topkast_tf.methods import Selection
from topkast_tf.variables.lookup import some_sparse_weights
from topkast_tf.variables.weight import SparseWeight


def prune(model: Any, batch: Any = None) -> None:
    """Selects the masks of a method that prunes before training: SNIP, GraSP, SynFlow.

    Once, before the first step; weights are assigned before it, as an assignment makes the
    network dense again.

    Args:
      model: a built Keras 3 model of such a scope; compiled, if the method needs a loss.
      batch: inputs and targets, `(x, y)`, for SNIP and GraSP; SynFlow takes none, or
        inputs for their shape, which only those of a subclassed model are needed for.

    Raises:
      ValueError: for a model that has none of these methods, is not built or compiled, has
        been trained, or for a batch that is missing.

    >>> import keras
    >>> from topkast_tf import prune, sparse_scope, sparse_weights
    >>> with sparse_scope("snip", sparsity=0.75):
    ...     model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    >>> model.compile("sgd", "mse")
    >>> prune(model, (tf.ones([4, 8]), tf.zeros([4, 2])))
    >>> int(sparse_weights(model)[0].forward_mask().sum())
    4
    """
    weights = [w for w in some_sparse_weights(model) if not w.exempt]
    pruned = [w for w in weights if w.method.prunes_before_training]
    if not pruned:
        names = sorted({weight.method.name for weight in weights})
        raise ValueError(
            "Expected a model of a method that prunes before training. "
            f"Received: the methods {names}"
        )
    if library_of(model).__name__ != "keras":
        raise ValueError("Expected a model of Keras 3. Received: one of tf_keras")
    for weight in pruned:
        if weight.step:
            raise ValueError(
                "Expected a model before its first step. "
                f"Received: {weight.path} after {weight.step} steps"
            )
    for method in dict.fromkeys(weight.method for weight in pruned):
        own = [weight for weight in pruned if weight.method == method]
        network = KerasNetwork(model, own, batch)
        selections = [
            Selection(
                theta=tf.convert_to_tensor(weight.unmasked()),
                kept_forward=tf.constant(weight.kept_forward),
                kept_backward=tf.constant(weight.kept_backward),
                seed=tf.constant(weight.seed, tf.int64),
                blocks=None,
                view=weight.view,
            )
            for weight in own
        ]
        masks = method.prune(network, selections, _budgets(own))
        for weight, mask in zip(own, masks, strict=True):
            weight.take_pruned(mask.numpy())


def _budgets(weights: Sequence[SparseWeight]) -> list[list[int]]:
    """Places of the weights that share a budget."""
    places = {id(weight): i for i, weight in enumerate(weights)}
    found: dict[tuple[int, ...], list[int]] = {}
    for weight in weights:
        own = [places[id(peer)] for peer in weight.peers() if id(peer) in places]
        found[tuple(own)] = own
    return list(found.values())


class KerasNetwork:
    """A Keras model as a function of the alphas of some of its sparse weights.

    Nothing of the model changes: its calls are stateless. It computes with the masked
    product and can be differentiated twice.

    Args:
      model: a built model.
      weights: its weights.
      batch: inputs and targets, or None.
    """

    def __init__(self, model: Any, weights: Sequence[SparseWeight], batch: Any):
        self._model, self._batch = model, batch
        self._variables = list(model.trainable_variables)
        ids = {id(variable): i for i, variable in enumerate(self._variables)}
        paths = {variable.path: i for i, variable in enumerate(self._variables)}
        self._places = [
            ids.get(id(weight._theta), paths.get(weight.path)) for weight in weights
        ]
        if None in self._places:
            raise ValueError(
                "Expected sparse weights that are trainable variables of the model. "
                f"Received: {[weight.path for weight in weights]}"
            )

    def loss(self, alphas: Sequence[tf.Tensor], temperature: float = 1.0) -> tf.Tensor:
        """As `Network.loss`; in training mode, as the papers have it."""
        x, y = self._inputs_and_targets()
        if temperature != 1:
            self._refuse_probabilities("a temperature does not change probabilities")
        outputs = self._outputs(alphas, x, training=True)
        scaled = tf.nest.map_structure(lambda output: output / temperature, outputs)
        loss = self._model._compile_loss
        if not loss.built:
            loss.build(y, scaled)
        return tf.convert_to_tensor(loss(y, scaled))

    def flow(self, alphas: Sequence[tf.Tensor]) -> tf.Tensor:
        """As `Network.flow`."""
        self._refuse_probabilities("the sum of probabilities is constant")
        like = self._batch[0] if isinstance(self._batch, tuple) else self._batch
        if like is None:
            like = getattr(self._model, "inputs", None)
            if not like:
                raise ValueError(
                    "Expected inputs, of which the shape is taken, for a model that is "
                    f"neither Functional nor Sequential. Received: {self._model.name!r} "
                    "and no batch"
                )
            like = like[0] if len(like) == 1 else like
        ones = tf.nest.map_structure(
            lambda spec: tf.ones([1, *spec.shape[1:]], spec.dtype), like
        )
        outputs = self._outputs(alphas, ones, training=False, magnitudes=True)
        return tf.add_n([tf.reduce_sum(each) for each in tf.nest.flatten(outputs)])

    def _refuse_probabilities(self, why: str) -> None:
        last = self._model.layers[-1]
        activation = getattr(getattr(last, "activation", None), "__name__", "")
        if activation == "softmax" or type(last).__name__ == "Softmax":
            raise ValueError(
                f"Expected a model whose outputs are logits, as {why}. Received: one that "
                f"ends in softmax, in {last.name!r}"
            )

    def _inputs_and_targets(self) -> tuple[Any, Any]:
        batch = self._batch
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise ValueError(
                "Expected a batch `(x, y)` of inputs and targets, on which the method "
                f"computes its scores. Received: {type(batch).__name__}"
            )
        if getattr(self._model, "_compile_loss", None) is None:
            raise ValueError(
                "Expected a compiled model, whose loss is differentiated. "
                f"Received: {self._model.name!r}, which is not compiled"
            )
        return batch[0], batch[1]

    def _outputs(
        self,
        alphas: Sequence[tf.Tensor],
        inputs: Any,
        training: bool,
        magnitudes: bool = False,
    ) -> Any:
        values = [tf.convert_to_tensor(each.value) for each in self._variables]
        if magnitudes:
            values = [tf.abs(value) for value in values]
        for place, alpha in zip(self._places, alphas, strict=True):
            values[place] = alpha
        others = [each.value for each in self._model.non_trainable_variables]
        found, _ = self._model.stateless_call(values, others, inputs, training=training)
        return found
