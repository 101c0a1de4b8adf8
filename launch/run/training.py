"""Trains one method of a run, from wherever it stands."""

import contextlib
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

import topkast_tf
from launch import callbacks
from launch.config import flags as launch_flags
from launch.distribute import devices, replicas, strategies
from launch.run import sparsity, trainers
from launch.run.optimizers import optimizer_of
from launch.run.schedules import learning_rate
from launch.run.stretches import stretches
from launch.storage import checkpoints, diagnosis, run_folder
from launch.support import files, terminal
from launch.support.errors import UserError
from launch.tasks import metrics_of
from launch.tasks.base import Task
from launch.tasks.metrics import Items
from topkast_tf import gradients as reduction
from topkast_tf.analysis.mask_history import OtherFiles
from topkast_tf.layers.weights import of_alpha
from topkast_tf.methods import GRADIENT

MODEL_FILE = "model.keras"


@contextlib.contextmanager
def memory_named() -> Iterator[None]:
    """Turns what TensorFlow raises when memory runs out into a `UserError`."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        wanted = re.search(r"tensor with shape(\[[\d,]*\])", error.message)
        raise UserError(
            "there is not enough memory"
            + (f" for a tensor of shape {wanted[1]}" if wanted else "")
            + ": take a smaller --batch_size, a larger --accumulate or a smaller model "
            "(launch/plan.py says what a run needs)."
        ) from error


def build(task: Task, method: str) -> keras.Model:
    """A compiled model, made from the seed: the same initial weights for any method.

    Raises:
      UserError: if the sparse scope refuses its arguments.
    """
    scope = sparsity.scope(method, task.settings, task.total_steps)
    return compiled(task, scope, task.settings.seed)


def compiled(
    task: Task, scope: contextlib.AbstractContextManager, seed: int
) -> keras.Model:
    """The model of a task, built in a scope, made from a seed."""
    settings = task.settings
    keras.utils.set_random_seed(seed)
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

    The gradient is weight_decay * w, as in He et al., and the same that Top-KAST's
    exploration loss gives to a kernel's forward set: that loss is the decay of such
    kernels, so they get no second one. SWAT's are decayed whole, active or not; of
    methods that look at the gradient (RigL) what is active.

    Args:
      model: a built model; the penalty is not saved with it.
      weight_decay: at least 0.
      of: `kernels`; `all`: biases and norms are decayed too.
    """
    if not weight_decay:
        return
    decayed = sparsity.decays_itself(model)
    sparse = {weight.path: weight for weight in topkast_tf.sparse_weights(model)}
    for variable in model.trainable_variables:
        of_kind = of == "all" or len(variable.shape) > 1
        if of_kind and variable.path not in decayed:
            # Keras's L2(l) is l * sum(w ** 2), without the half.
            penalty = keras.regularizers.L2(weight_decay / 2)
            weight = sparse.get(variable.path)
            if weight is not None and GRADIENT in weight.method.inputs:
                penalty = of_alpha(penalty, weight)
            variable.regularizer = penalty


def train(task: Task, method: str) -> dict[str, Any]:
    """Trains one method to its end, from its last checkpoint if there is one.

    Args:
      task: what to learn, with its data loaded.
      method: `dense` or a sparse method.

    Returns:
      The result, which is also written to METHOD/result.json.

    Raises:
      UserError: for damaged checkpoints or mask dynamics, for a checkpoint that could not
        be written, and if loss or gradient are no longer finite.
      Interrupted: if a signal asks for it; the checkpoint of the last step is written.
    """
    try:
        with (
            strategies.folder_of(task.settings, method) as folder,
            callbacks.ended() as called_back,
        ):
            return _train(task, method, folder, called_back)
    except OtherFiles as error:
        raise UserError(str(error)) from error


def _train(
    task: Task,
    method: str,
    folder: pathlib.Path,
    called_back: list[keras.callbacks.Callback],
) -> dict[str, Any]:
    settings = task.settings
    is_chief = devices.worker_of(settings).is_chief
    total = task.total_steps
    per_round = settings.evaluate_every or task.steps_per_epoch

    model, state = _start(task, method, is_chief)
    add_weight_decay(model, settings.weight_decay, settings.decay)
    recorder = callbacks.Recorder(
        folder,
        state,
        metrics_of(settings).metrics,
        epoch_steps=task.steps_per_epoch,
        round_steps=per_round,
        total_steps=total,
        checkpoint_steps=settings.checkpoint_steps,
        keep_checkpoints=settings.keep_checkpoints,
    )
    # A kill may have come between a checkpoint and the table that is made from it.
    recorder.write_metrics()
    schedule = learning_rate(
        settings.lr_schedule,
        settings.learning_rate,
        total,
        warmup_steps=settings.warmup_steps,
        drop_steps=launch_flags.drop_steps(settings),
        drop=settings.lr_drop,
    )
    done = callbacks.steps_taken(model)
    events = callbacks.Events(folder, recorder, launch_flags.to_text(settings), done)
    stop = callbacks.StopOnNaN()
    items = Items(f"{metrics_of(settings).unit}s", task.units_a_step)
    called_back += [
        *task.callbacks(),
        callbacks.LearningRate(schedule),
        stop,
        *sparsity.callbacks_of(model, folder, settings.dynamics_every),
        recorder,
        events,
    ]
    if is_chief:
        called_back.append(
            callbacks.Progress(method, total, recorder, items, sys.stdout)
        )
    called_back.append(callbacks.StopWhenAsked(recorder))
    trainer = trainers.trainer_of(model, task, called_back)
    if recorder.unevaluated is not None:
        _evaluate_round(trainer, recorder.unevaluated)
    for stretch in stretches(done, total, per_round):
        try:
            trainer.fit(stretch, stretch.first_step // per_round)
        except tf.errors.DataLossError as error:
            reason = error.message.splitlines()[0]
            raise UserError(
                f"the data at --data_dir={settings.data_dir} is damaged ({reason}): put "
                "back a copy of it, and the same command goes on from the last checkpoint."
            ) from error
        except (FloatingPointError, ValueError, tf.errors.OpError) as error:
            if not diverged(error):
                raise
            recorder.settle()
            raise diagnosis.stopped(
                method,
                stop.step,
                "weights were not finite" if sparsity.met_nan(error) else str(error),
                diagnosis.findings(
                    model, lambda: next(iter(task.training_batches(stop.step - 1, 1)))
                ),
                folder / "checkpoints",
            ) from error
    return _finish(folder, model, method, task, recorder)


def _evaluate_round(
    trainer: trainers.Trainer, training_metrics: dict[str, float]
) -> None:
    """Ends a round whose evaluation was interrupted."""
    trainer.callback_list.on_train_begin()
    logs = dict(training_metrics)
    found = trainer.evaluate()
    logs |= {f"val_{name}": value for name, value in found.items()}
    trainer.callback_list.on_epoch_end(0, logs)
    trainer.callback_list.on_train_end()


def diverged(error: Exception) -> bool:
    """Whether an error says that weights or loss are no longer finite."""
    # A selection that meets NaN fails in the graph or, where that was compiled, later in
    # Python. Every other error of these types is not the user's.
    return isinstance(error, FloatingPointError) or sparsity.met_nan(error)


def _start(
    task: Task, method: str, is_chief: bool
) -> tuple[keras.Model, dict[str, Any]]:
    strategy = strategies.start(task.settings)
    # All workers read what the chief has written.
    folder = pathlib.Path(task.settings.run_dir) / method / "checkpoints"
    if is_chief:
        checkpoints.clear_unfinished(folder)
    with strategy.scope():
        restored = checkpoints.restore(folder)
        model, state, damaged = restored or (build(task, method), {}, [])
    replicas.part_seeds(model)
    step = callbacks.steps_taken(model)
    replicas.check_same_step(strategy, step)
    if is_chief:
        checkpoints.mend_best(folder, state)
        for sentence in damaged:
            terminal.warning(f"{sentence}; going back to step {step}.")
        if restored:
            print(f"{method}: resumed after step {step}", flush=True)
        if replicas.count_of(model) > 1:
            print(_exchange(model, method), flush=True)
    return model, state


def _exchange(model: keras.Model, method: str) -> str:
    """A line on what the replicas of a model tell each other."""
    sizes = reduction.bytes_reduced(model)
    return (
        f"{method}: {replicas.count_of(model)} replicas, gradients of "
        f"{sizes.packed:,} bytes a step packed, {sizes.dense:,} dense "
        f"({sizes.packed / sizes.dense:.3f}x)"
    )


def _finish(
    folder: pathlib.Path,
    model: keras.Model,
    method: str,
    task: Task,
    recorder: callbacks.Recorder,
) -> dict[str, Any]:
    """Writes the trained model and the result of a method."""
    last = recorder.rows[-1]
    counts = sparsity.counted(model, task.flops(model))
    result = {
        "method": method,
        **last,
        **counts,
        "training_flops_total": (
            counts["training_flops"] * task.units_a_step * last["step"]
        ),
    }
    if replicas.count_of(model) > 1:
        sizes = reduction.bytes_reduced(model)
        result["replicas"] = replicas.count_of(model)
        result["gradient_bytes_packed"] = sizes.packed
        result["gradient_bytes_dense"] = sizes.dense
    with files.replacing(folder / MODEL_FILE) as part:
        sparsity.plain(model).save(part)
    # Last, because its presence says that everything else is there.
    run_folder.write_result(folder, result)
    return result
