"""Trains one method of a run with Keras `fit`, from wherever it stands."""

import contextlib
import pathlib
import sys
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from launch import (
    callbacks,
    checkpoints,
    diagnosis,
    experiment,
    files,
    sparsity,
    terminal,
)
from launch import flags as launch_flags
from launch.optimizers import optimizer_of
from launch.schedules import learning_rate
from launch.tasks import judged
from launch.tasks.base import Task
from launch.tasks.figures import Items

MODEL_FILE = "model.keras"


class Stretch(NamedTuple):
    """Rounds of equal length that one call of `fit` trains, each an epoch to Keras.

    Args:
      first_step: step of the first batch.
      round_steps: batches in each of the rounds.
      rounds: how many.
    """

    first_step: int
    round_steps: int
    rounds: int


def stretches(done: int, total: int, per_round: int) -> list[Stretch]:
    """Cuts the steps that are left into stretches.

    Whole rounds, before them the rest of a round that was interrupted, after them the
    round that the end of the run cuts short.

    Args:
      done: steps already taken.
      total: steps of the whole run.
      per_round: steps from one evaluation to the next.

    >>> stretches(done=5, total=13, per_round=4)
    [Stretch(first_step=5, round_steps=3, rounds=1), \
Stretch(first_step=8, round_steps=4, rounds=1), \
Stretch(first_step=12, round_steps=1, rounds=1)]
    """
    found = []
    while done < total:
        into = done % per_round
        length = min(per_round - into, total - done)
        rounds = (total - done) // per_round if length == per_round else 1
        found.append(Stretch(done, length, rounds))
        done += length * rounds
    return found


def build(task: Task, method: str) -> keras.Model:
    """A compiled model, made from the seed: the same initial weights for any method.

    Raises:
      UserError: if the sparse scope refuses its arguments.
    """
    scope = sparsity.scope(method, task.settings)
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
    kernels, so they get no second one. SWAT's are decayed whole, active or not.

    Args:
      model: a built model; the penalty is not saved with it.
      weight_decay: at least 0.
      of: `kernels`; `all`: biases and norms are decayed too.
    """
    if not weight_decay:
        return
    decayed = sparsity.decays_itself(model)
    for variable in model.trainable_variables:
        of_kind = of == "all" or len(variable.shape) > 1
        if of_kind and variable.path not in decayed:
            # Keras's L2(l) is l * sum(w ** 2), without the half.
            variable.regularizer = keras.regularizers.L2(weight_decay / 2)


def train(task: Task, method: str) -> dict[str, Any]:
    """Trains one method to its end, from its last checkpoint if there is one.

    Args:
      task: what to learn, with its data loaded.
      method: `dense` or a sparse method.

    Returns:
      The result, which is also written to METHOD/result.json.

    Raises:
      UserError: for damaged checkpoints, for one that could not be written, and if loss
        or gradient are no longer finite.
      Interrupted: if a signal asks for it; the checkpoint of the last step is written.
    """
    with callbacks.ended() as listeners:
        return _train(task, method, listeners)


def _train(
    task: Task, method: str, listeners: list[keras.callbacks.Callback]
) -> dict[str, Any]:
    settings = task.settings
    folder = pathlib.Path(settings.run_dir) / method
    folder.mkdir(exist_ok=True)
    total = settings.steps or settings.epochs * task.steps_per_epoch
    per_round = settings.evaluate_every or task.steps_per_epoch

    model, state = _start(folder, task, method)
    add_weight_decay(model, settings.weight_decay, settings.decay)
    recorder = callbacks.Recorder(
        folder,
        state,
        judged(settings).figures,
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
    items = Items(f"{judged(settings).unit}s", task.units_a_step)
    listeners += [
        *task.callbacks(),
        callbacks.LearningRate(schedule),
        stop,
        *sparsity.listeners(model, folder, settings.dynamics_every),
        recorder,
        events,
        callbacks.Progress(method, total, recorder, items, sys.stdout),
        callbacks.StopWhenAsked(recorder),
    ]
    test = task.evaluation_batches()
    if recorder.unevaluated is not None:
        _evaluate_round(model, recorder, listeners, test)
    for stretch in stretches(done, total, per_round):
        first_round = stretch.first_step // per_round
        batches = task.training_batches(
            stretch.first_step, stretch.round_steps * stretch.rounds
        )
        try:
            model.fit(
                batches,
                validation_data=test,
                initial_epoch=first_round,
                epochs=first_round + stretch.rounds,
                steps_per_epoch=stretch.round_steps,
                shuffle=False,
                callbacks=listeners,
                verbose=0,
            )
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
    model: keras.Model,
    recorder: callbacks.Recorder,
    listeners: list[keras.callbacks.Callback],
    batches: tf.data.Dataset,
) -> None:
    """Ends a round whose evaluation was interrupted."""
    called = keras.callbacks.CallbackList(listeners, model=model)
    called.on_train_begin()
    trained = dict(recorder.unevaluated)
    found = model.evaluate(batches, verbose=0, return_dict=True, callbacks=called)
    logs = trained | {f"val_{name}": value for name, value in found.items()}
    called.on_epoch_end(0, logs)
    called.on_train_end()


def diverged(error: Exception) -> bool:
    """Whether an error says that weights or loss are no longer finite."""
    # A selection that meets NaN fails in the graph or, where that was compiled, later in
    # Python. Every other error of these types is not the user's.
    return isinstance(error, FloatingPointError) or sparsity.met_nan(error)


def _start(
    folder: pathlib.Path, task: Task, method: str
) -> tuple[keras.Model, dict[str, Any]]:
    checkpoints.clear_unfinished(folder / "checkpoints")
    restored = checkpoints.restore(folder / "checkpoints")
    if restored is None:
        return build(task, method), {}
    model, state, damaged = restored
    checkpoints.mend_best(folder / "checkpoints", state)
    step = callbacks.steps_taken(model)
    for sentence in damaged:
        terminal.warning(f"{sentence}; going back to step {step}.")
    print(f"{method}: resumed after step {step}", flush=True)
    return model, state


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
    with files.replacing(folder / MODEL_FILE) as part:
        sparsity.plain(model).save(part)
    # Last, because its presence says that everything else is there.
    experiment.write_result(folder, result)
    return result
