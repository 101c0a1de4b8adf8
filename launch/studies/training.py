"""Trains the runs of a study, each from its beginning to its end."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from launch import data
from launch.studies.results import arguments
from launch.studies.runs import Run
from launch.support.errors import UserError

# The functions import TensorFlow themselves, after `launch/sensitivity.py` has reported
# mistakes in the flags.


def check_scopes(runs: Sequence[Run], settings: flags.FlagValues) -> None:
    """Builds one network of each sparse study before the first run starts.

    Raises:
      UserError: for flags that the scope refuses, such as an --exempt that matches no
        weight.
    """
    import keras

    from launch.run import building
    from launch.tasks.image import ImageTask

    first = {one.study: one for one in reversed(runs) if one.study != "dense"}
    for one in first.values():
        keras.utils.clear_session()
        try:
            building.compiled(ImageTask(settings, one.seed), scope_of(one, settings))
        except ValueError as error:
            raise UserError(f"{error} (study {one.study!r})") from error


def scope_of(
    one: Run, settings: flags.FlagValues, total_steps: int | None = None
) -> Any:
    """The scope in which the network of one run is built, of a run of this length."""
    from swat_tf import swat_scope

    asked = one.scope_arguments(settings.topk_period, settings.errors_per)
    if asked is None:
        return contextlib.nullcontext()
    sparsity = asked.pop("sparsity", one.sparsity)
    return swat_scope(
        sparsity, exempt=tuple(settings.exempt), total_steps=total_steps, **asked
    )


def train(
    one: Run,
    settings: flags.FlagValues,
    images: data.ImageData,
    show: Callable[[int, int], None] = lambda step, steps: None,
) -> dict[str, Any]:
    """Trains one run from its beginning to its end.

    Args:
      one: the run.
      settings: the resolved flags.
      images: the training and test images.
      show: called after each step with the number of steps taken and of all steps.

    Returns:
      A row of the results. The accuracy and the losses of a run that has diverged are
      NaN.
    """
    import keras

    from launch.callbacks import LearningRate, StopOnNaN
    from launch.run import building, failures
    from launch.run.schedules import schedule_of
    from launch.run.stretches import Stretch
    from launch.run.trainers import trainer_of
    from launch.tasks.image import ImageTask
    from swat_tf.report import densities

    start = time.monotonic()
    keras.utils.clear_session()
    task = ImageTask(settings, one.seed, images)
    steps = task.total_steps
    model = building.compiled(task, scope_of(one, settings, steps))
    building.add_weight_decay(model, settings.weight_decay, settings.decay)
    progress = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: show(batch + 1, steps)
    )
    rate = LearningRate(schedule_of(settings, steps))
    trainer = trainer_of(model, task, [rate, StopOnNaN(), progress])
    logs: dict[str, float] = {}
    weight_density = activation_density = math.nan
    with contextlib.suppress(failures.Diverged), failures.divergence_named():
        logs = trainer.fit(Stretch(0, steps, 1), first_round=0)
    has_diverged = not math.isfinite(logs.get("cross_entropy", math.nan))
    if has_diverged:
        logs = {}
    else:
        weight_density, activation_density = densities(model)
    return {
        **vars(one),
        "steps": steps,
        "test_accuracy": logs.get("val_accuracy", math.nan),
        "test_loss": logs.get("val_cross_entropy", math.nan),
        "train_loss": logs.get("cross_entropy", math.nan),
        "weight_density": weight_density,
        "activation_density": activation_density,
        "diverged": int(has_diverged),
        "seconds": round(time.monotonic() - start, 1),
        **arguments(one, settings),
    }
