"""The launcher's use of `topkast_tf`: scopes, achieved sparsities, counts."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from absl import flags

import topkast_tf
from launch.config.methods import METHODS
from launch.support.errors import UserError
from topkast_tf.analysis import flops
from topkast_tf.variables.select_sets import NAN_MESSAGE


@contextlib.contextmanager
def scope(
    method: str, settings: flags.FlagValues, total_steps: int | None = None
) -> Iterator[None]:
    """The scope in which the model of a method is built; empty for `dense`.

    Args:
      method: its name.
      settings: the resolved flags.
      total_steps: optimizer steps of the run; None if unknown.

    Raises:
      UserError: for arguments that the scope refuses.
    """
    try:
        with contextlib.ExitStack() as scopes:
            for each in METHODS[method].scopes(settings, total_steps):
                scopes.enter_context(each)
            yield
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error


def prune(model: keras.Model, batches: Callable[[], tf.data.Dataset]) -> None:
    """Selects the masks of a method that does it before training; others are left alone.

    Args:
      model: a new model.
      batches: gives the batches that the masks are selected on.
    """
    methods = {weight.method for weight in topkast_tf.sparse_weights(model)}
    if not any(m.prunes_before_training and not m.prunes_first_batch for m in methods):
        return
    parts = [batch[:2] for batch in batches()]
    x, y = (
        tf.nest.map_structure(lambda *each: tf.concat(each, 0), *(p[i] for p in parts))
        for i in range(2)
    )
    topkast_tf.prune(model, (x, y))


def sparse_paths(model: keras.Model) -> set[str]:
    """The paths of the weights that are made sparse."""
    return {row.path for row in topkast_tf.summary(model).rows}


def decays_itself(model: keras.Model) -> set[str]:
    """The paths of the weights whose method adds its own decay to the loss."""
    return {
        weight.path
        for weight in topkast_tf.sparse_weights(model)
        if hasattr(weight.method, "exploration") and not _is_dnw(weight.method)
    }


def trained_by_methods(model: keras.Model) -> set[str]:
    """The paths of what methods train beside the weights: gates and thresholds."""
    return {
        weight.auxiliary[name].path
        for weight in topkast_tf.sparse_weights(model)
        for name in weight.trained
    }


def _is_dnw(method: topkast_tf.methods.Method) -> bool:
    """Whether all entries are updated without an exploration loss: decayed as usual."""
    return method.exploration == 0 and method.bwd == 0  # type: ignore[attr-defined]


def achieved(summary: topkast_tf.analysis.summary.Summary) -> tuple[float, float]:
    """Forward and backward sparsity over all sparsified weights together.

    They are the fractions of entries outside the forward and the backward set; (0, 0)
    for a dense model.
    """
    if not summary.rows:
        return 0.0, 0.0
    return summary.forward_sparsity, summary.backward_sparsity


def exploration_loss(model: keras.Model) -> float:
    """Top-KAST's penalty for the current weights of a model; 0 without Top-KAST.

    Keras includes it in the training `loss` and in `val_loss`.
    """
    weights = topkast_tf.sparse_weights(model)
    explored = [w for w in weights if hasattr(w.method, "exploration")]
    return float(sum(weight.penalty() for weight in explored))


def callbacks_of(
    model: keras.Model, folder: pathlib.Path, every: int
) -> list[keras.callbacks.Callback]:
    """The callbacks of a sparse model: mask dynamics, unless `every` is 0."""
    if not every or not sparse_paths(model):
        return []
    return [
        topkast_tf.MaskDynamics(
            log_dir=folder / "events" / "dynamics",
            csv=folder / "mask_dynamics.csv",
            every=every,
        )
    ]


def counted(model: keras.Model, cost: flops.FlopReport) -> dict[str, Any]:
    """Parameters, achieved sparsities and counted FLOPs, for the results.

    `parameters` are all trainable ones, including biases and norms; the sparsities of
    the whole network are fractions of these. `empty_outputs` are columns of kernels
    that have no weight left. FLOPs are per unit, as in `cost`; those of
    training are averaged over the run by the schedule of the method.
    """
    summary = topkast_tf.summary(model)
    forward, backward = achieved(summary)
    share = sum(row.size for row in summary.rows) / summary.dense_parameters
    return {
        "parameters": summary.dense_parameters,
        "kept_parameters": summary.kept_parameters,
        "empty_outputs": sum(row.empty_outputs for row in summary.rows),
        "forward_sparsity": forward,
        "backward_sparsity": backward,
        "forward_sparsity_network": forward * share,
        "backward_sparsity_network": backward * share,
        "inference_flops": round(cost.sparse.forward),
        "training_flops": round(cost.run.training),
        "inference_flops_ratio": cost.inference_ratio,
    }


def met_nan(error: Exception) -> bool:
    """Whether an error comes from a selection of the sets that met a NaN."""
    return NAN_MESSAGE in str(error)


def plain(model: keras.Model) -> keras.Model:
    """A model that loads without `topkast_tf`, with the zeros in its kernels."""
    return topkast_tf.strip(model) if sparse_paths(model) else model
