"""The model of a run: built in the scope of its method, compiled, with weight decay."""

import contextlib

import keras

import topkast_tf
from launch.run import small_dense, sparsity
from launch.run.optimizers import optimizer_of
from launch.tasks.base import Task
from topkast_tf.layers.weights import regularizer_on


def build(task: Task, method: str) -> keras.Model:
    """A compiled model; its initial weights depend on the seed, not on the method.

    Raises:
      UserError: if the sparse scope refuses its arguments.
    """
    task.width_factor = small_dense.factor_of(task, method)
    return compiled(task, sparsity.scope(method, task.settings, task.total_steps))


def compiled(task: Task, scope: contextlib.AbstractContextManager) -> keras.Model:
    """The compiled model of a task, built in a scope and initialised from its seed."""
    settings = task.settings
    keras.utils.set_random_seed(task.seed)
    policy = keras.config.dtype_policy()
    if "mixed_precision" in settings and settings.mixed_precision:
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with scope:
            model = task.build()
    finally:
        keras.config.set_dtype_policy(policy)
    task.compile(model, optimizer_of(settings))
    return model


def add_weight_decay(
    model: keras.Model, weight_decay: float, of: str = "kernels"
) -> None:
    """Adds weight_decay / 2 * sum(w ** 2) to the loss, for each kernel.

    The gradient is weight_decay * w, as in He et al. Top-KAST's exploration loss gives
    the same gradient to the forward set of a kernel; it is the decay of such kernels,
    so they get no second one. SWAT's kernels are decayed as a whole, active or not;
    those of methods that use the gradient (RigL) only in their active weights. What a
    method trains beside the weights, such as thresholds, is not decayed.

    Args:
      model: a built model; the penalty is not saved with it.
      weight_decay: at least 0.
      of: `kernels`, or `all` to decay biases and norms too.
    """
    if not weight_decay:
        return
    decayed = sparsity.decays_itself(model) | sparsity.trained_by_methods(model)
    sparse = {weight.path: weight for weight in topkast_tf.sparse_weights(model)}
    for variable in model.trainable_variables:
        of_kind = of == "all" or len(variable.shape) > 1
        if of_kind and variable.path not in decayed:
            # Keras's L2(l) is l * sum(w ** 2), without the half.
            penalty = keras.regularizers.L2(weight_decay / 2)
            weight = sparse.get(variable.path)
            if weight is not None:
                penalty = regularizer_on(penalty, weight)
            variable.regularizer = penalty
