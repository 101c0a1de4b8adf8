"""Trains one method of a run, resuming from its last checkpoint if there is one."""

import dataclasses
import pathlib
import sys
from typing import Any

import keras

from launch import callbacks
from launch.config import flags as launch_flags
from launch.config.methods import METHODS
from launch.distribute import devices, replicas, strategies
from launch.run import failures, sparsity, trainers
from launch.run.building import add_weight_decay, build
from launch.run.schedules import schedule_of
from launch.run.stretches import stretches
from launch.storage import checkpoints, diagnosis, run_folder
from launch.support import files, terminal
from launch.support.errors import RunDiverged, UserError
from launch.tasks import metrics_of
from launch.tasks.base import Task
from launch.tasks.metrics import Items
from topkast_tf import gradients as reduction
from topkast_tf.analysis.mask_history import OtherFiles
from topkast_tf.variables.of_run import loading_with

MODEL_FILE = "model.keras"


def train(task: Task, method: str) -> dict[str, Any]:
    """Trains one method to the end of its run, from its last checkpoint if there is one.

    Args:
      task: the task, with its data loaded.
      method: `dense` or a sparse method.

    Returns:
      The result, which is also written to METHOD/result.json.

    Raises:
      UserError: for damaged checkpoints or mask dynamics, for a checkpoint that could not
        be written, and if loss or gradient are no longer finite.
      Interrupted: after a signal; the checkpoint of the last step is written.
    """
    try:
        with (
            strategies.folder_of(task.settings, method) as folder,
            callbacks.ended() as called_back,
        ):
            return _train(task, method, folder, called_back)
    except OtherFiles as error:
        raise UserError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class _Run:
    """The training of one method in this process.

    Attributes:
      task: the task, with its data loaded.
      method: its name.
      folder: where this process writes.
      is_chief: whether this process reports and writes to the folder of the run.
      model: built or restored.
      recorder: writes metrics and checkpoints.
    """

    task: Task
    method: str
    folder: pathlib.Path
    is_chief: bool
    model: keras.Model
    recorder: callbacks.Recorder


def _train(
    task: Task,
    method: str,
    folder: pathlib.Path,
    called_back: list[keras.callbacks.Callback],
) -> dict[str, Any]:
    settings = task.settings
    is_chief = devices.worker_of(settings).is_chief
    model, state = _start(task, method, is_chief)
    add_weight_decay(model, settings.weight_decay, settings.decay)
    recorder = _recorder(task, folder, state)
    # A kill may have come between a checkpoint and the table that is made from it.
    recorder.write_metrics()
    run = _Run(task, method, folder, is_chief, model, recorder)
    stop = callbacks.StopOnNaN()
    called_back += _callbacks(run, stop)
    trainer = trainers.trainer_of(model, task, called_back)
    if recorder.unevaluated is not None:
        _evaluate_round(trainer, recorder.unevaluated)
    try:
        with failures.damaged_data_named(settings.data_dir):
            _fit(run, trainer)
    except failures.Diverged as error:
        recorder.settle()
        raise _stopped(run, stop.step, str(error)) from error
    [events] = [each for each in called_back if isinstance(each, callbacks.Events)]
    return _finish(run, events)


def _start(
    task: Task, method: str, is_chief: bool
) -> tuple[keras.Model, dict[str, Any]]:
    """The restored or new model, under its strategy, and the state of the run."""
    strategy = strategies.start(task.settings)
    storage = METHODS[method].storage_of_weights(task.settings)
    theta_dir = METHODS[method].theta_dir(task.settings)
    # All workers read what the chief has written.
    folder = pathlib.Path(task.settings.run_dir) / method / "checkpoints"
    if is_chief:
        checkpoints.clear_unfinished(folder)
    with strategy.scope():
        with loading_with(task.settings.kernels, storage, theta_dir):
            restored = checkpoints.restore(folder)
        model, state, damaged = restored or (_new(task, method), {}, [])
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


def _new(task: Task, method: str) -> keras.Model:
    """A new model, whose masks are selected if its method does that before training."""
    model = build(task, method)
    settings = task.settings
    batches = settings.prune_batches if "prune_batches" in settings else 1
    sparsity.prune(model, lambda: task.training_batches(0, batches))
    return model


def _exchange(model: keras.Model, method: str) -> str:
    """A line on the gradients that the replicas of a model exchange."""
    sizes = reduction.bytes_reduced(model)
    return (
        f"{method}: {replicas.count_of(model)} replicas, gradients of "
        f"{sizes.packed:,} bytes a step packed, {sizes.dense:,} dense "
        f"({sizes.packed / sizes.dense:.3f}x)"
    )


def _recorder(
    task: Task, folder: pathlib.Path, state: dict[str, Any]
) -> callbacks.Recorder:
    settings = task.settings
    return callbacks.Recorder(
        folder,
        state,
        metrics_of(settings).metrics,
        epoch_steps=task.steps_per_epoch,
        round_steps=task.round_steps,
        total_steps=task.total_steps,
        checkpoint_steps=settings.checkpoint_steps,
        keep_checkpoints=settings.keep_checkpoints,
    )


def _callbacks(run: _Run, stop: callbacks.StopOnNaN) -> list[keras.callbacks.Callback]:
    """The callbacks of a run, in the order in which they are called."""
    task, settings, recorder = run.task, run.task.settings, run.recorder
    done = callbacks.steps_taken(run.model)
    flags_text = launch_flags.to_text(settings)
    # Before `MaskDynamics`, which opens files in the folder that `Events` tidies up.
    events = callbacks.Events(run.folder, recorder, flags_text, done)
    found = [
        *task.callbacks(),
        callbacks.LearningRate(schedule_of(settings, task.total_steps)),
        stop,
        *sparsity.callbacks_of(run.model, run.folder, settings.dynamics_every),
        recorder,
        events,
    ]
    if run.is_chief:
        items = Items(f"{metrics_of(settings).unit}s", task.units_a_step)
        found.append(
            callbacks.Progress(
                run.method, task.total_steps, recorder, items, sys.stdout
            )
        )
    return [*found, callbacks.StopWhenAsked(recorder)]


def _evaluate_round(
    trainer: trainers.Trainer, training_metrics: dict[str, float]
) -> None:
    """Completes a round whose evaluation was interrupted."""
    trainer.callback_list.on_train_begin()
    logs = dict(training_metrics)
    found = trainer.evaluate()
    logs |= {f"val_{name}": value for name, value in found.items()}
    trainer.callback_list.on_epoch_end(0, logs)
    trainer.callback_list.on_train_end()


def _fit(run: _Run, trainer: trainers.Trainer) -> None:
    """Trains the remaining steps."""
    done, task = callbacks.steps_taken(run.model), run.task
    for stretch in stretches(done, task.total_steps, task.round_steps):
        with failures.divergence_named():
            trainer.fit(stretch, stretch.first_step // task.round_steps)


def _stopped(run: _Run, step: int, cause: str) -> RunDiverged:
    """The report on a run that has diverged at a step, counted from 1."""
    return diagnosis.stopped(
        run.method,
        step,
        cause,
        diagnosis.findings(
            run.model, lambda: next(iter(run.task.training_batches(step - 1, 1)))
        ),
        run.folder / "checkpoints",
    )


def _finish(run: _Run, events: callbacks.Events) -> dict[str, Any]:
    """Writes the trained model, its counted FLOPs and the result of a method."""
    task, model = run.task, run.model
    last = run.recorder.rows[-1]
    cost = task.flops(model)
    events.write_counts(last["step"], cost)
    counts = sparsity.counted(model, cost)
    before = METHODS[run.method].dense_steps(task.settings) * cost.dense.training
    training = counts["training_flops"] * last["step"] + before
    result = {
        "method": run.method,
        **last,
        **counts,
        "training_flops_total": round(training * task.units_a_step),
        # Of the whole run: pruning before training is part of both.
        "training_flops_ratio": training / (cost.dense.training * last["step"]),
    }
    if replicas.count_of(model) > 1:
        sizes = reduction.bytes_reduced(model)
        result["replicas"] = replicas.count_of(model)
        result["gradient_bytes_packed"] = sizes.packed
        result["gradient_bytes_dense"] = sizes.dense
    needs_layers = METHODS[run.method].selects_outputs
    with files.replacing(run.folder / MODEL_FILE) as part:
        (model if needs_layers else sparsity.plain(model)).save(part)
    # Last, because its presence means that all other files exist.
    run_folder.write_result(run.folder, result)
    return result
