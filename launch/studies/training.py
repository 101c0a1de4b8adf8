"""Trains the runs of a study, each from its beginning to its end."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from launch import data
from launch.config import flags as launch_flags
from launch.studies.results import arguments
from launch.studies.runs import Run
from launch.support.errors import UserError
from launch.tasks import task_of


def check_scopes(runs: Sequence[Run], settings: flags.FlagValues) -> None:
    """Builds one network of each sparse study, before hours are spent on the others.

    Raises:
      UserError: for what the scope says of the flags, such as an --exempt that matches
        no weight.
    """
    import keras

    from launch.run import training

    first = {one.study: one for one in reversed(runs) if one.study != "dense"}
    for one in first.values():
        keras.utils.clear_session()
        try:
            training.compiled(task_of(settings), scope_of(one, settings), one.seed)
        except ValueError as error:
            raise UserError(f"{error} (study {one.study!r})") from error


def scope_of(
    one: Run, settings: flags.FlagValues, total_steps: int | None = None
) -> Any:
    """The scope in which the network of one run is built, however long that is."""
    del total_steps
    from swat_tf import swat_scope

    asked = one.scope_arguments(settings.topk_period, settings.errors_per)
    if asked is None:
        return contextlib.nullcontext()
    sparsity = asked.pop("sparsity", one.sparsity)
    return swat_scope(sparsity, exempt=tuple(settings.exempt), **asked)


def train(
    one: Run,
    settings: flags.FlagValues,
    images: data.ImageData,
    show: Callable[[int, int], None] = lambda step, steps: None,
) -> dict[str, Any]:
    """Trains one run from its beginning to its end.

    Args:
      one: which.
      settings: the resolved flags.
      images: to learn from, and to be tested on.
      show: is told after each step how many are done, of how many.

    Returns:
      A row of the results. A run that has diverged has no accuracy and no loss: NaN.
    """
    import keras
    import tensorflow as tf

    from launch.callbacks import LearningRate, StopOnNaN
    from launch.data import pipeline
    from launch.run import training
    from launch.run.schedules import learning_rate
    from swat_tf.report import densities

    start = time.monotonic()
    keras.utils.clear_session()
    steps = settings.steps or settings.epochs * pipeline.steps_per_epoch(
        settings.train_examples, settings.batch_size
    )
    model = training.compiled(task_of(settings), scope_of(one, settings), one.seed)
    training.add_weight_decay(model, settings.weight_decay, settings.decay)
    schedule = learning_rate(
        settings.lr_schedule,
        settings.learning_rate,
        steps,
        warmup_steps=settings.warmup_steps,
        drop_steps=launch_flags.drop_steps(settings),
        drop=settings.lr_drop,
    )
    batches = pipeline.training_batches(
        images,
        batch_size=settings.batch_size,
        seed=one.seed,
        first_step=0,
        steps=steps,
    )
    progress = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: show(batch + 1, steps)
    )
    try:
        history = model.fit(
            batches,
            steps_per_epoch=steps,
            callbacks=[LearningRate(schedule), StopOnNaN(), progress],
            shuffle=False,
            verbose=0,
        )
        train_loss = history.history["cross_entropy"][-1]
    except (FloatingPointError, ValueError, tf.errors.OpError) as error:
        if not training.diverged(error):
            raise
        train_loss = math.nan
    test = {"accuracy": math.nan, "cross_entropy": math.nan}
    weight_density = activation_density = math.nan
    if math.isfinite(train_loss):
        test = model.evaluate(
            pipeline.evaluation_batches(images), return_dict=True, verbose=0
        )
        weight_density, activation_density = densities(model)
    return {
        **vars(one),
        "steps": steps,
        "test_accuracy": test["accuracy"],
        "test_loss": test["cross_entropy"],
        "train_loss": train_loss,
        "weight_density": weight_density,
        "activation_density": activation_density,
        "diverged": int(not math.isfinite(train_loss)),
        "seconds": round(time.monotonic() - start, 1),
        **arguments(one, settings),
    }
