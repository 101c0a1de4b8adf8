"""The launcher's training over bare Keras `fit`: what its callbacks cost.

What is measured: steps of one model on one data set, compiled the same, in one process.

  fit       the baseline: `model.fit` without callbacks
  fit_again a second one: its ratio shows the noise, and would be 1
  launcher  `fit` with what a run listens with: the learning rate of each step, mask
            dynamics, the progress bar (on a terminal that goes nowhere) and the rest
  loop      the same callbacks around `launch/run/loop.py`, which trains many devices

ResNet-20 on synthetic images of CIFAR's size or a small Transformer-XL on bytes; Top-KAST
at 90/80, selected every 100 steps. Evaluations and checkpoints, which come once a round,
are left out: benchmarks of their own time them.

How: in each round every variant trains --burst steps, in random order. A ratio compares
the variants of one round, so what else runs on the machine hits both alike; the table
gives the median over the rounds and the range between the quartiles.

Target: at most 1.03.

What the figures do not say: a step of a smaller model, or on a faster device, is shorter,
and the same callbacks take a larger share of it.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/trainer_time.py --rounds=20 --seconds=300
"""

import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags
from tqdm import tqdm

from benchmarks import common
from launch.support.quiet import quiet_start

with quiet_start():
    import keras
    import numpy as np
    import tensorflow as tf

    from launch import callbacks
    from launch.config import flags as launch_flags
    from launch.config import resolve
    from launch.data.source import ImageData
    from launch.run import sparsity, training
    from launch.run.loop import Loop
    from launch.run.schedules import learning_rate
    from launch.tasks import metrics_of, task_of
    from launch.tasks.metrics import Items

COLUMNS = ("case", "burst", "tensorflow", "round", "variant", "wall_ms", "cpu_ms")
VARIANTS = ("fit", "fit_again", "launcher", "loop")
CASES = {
    "resnet20": ("--dataset=cifar10", "--model=resnet20", "--batch_size=128"),
    "txl": ("--dataset=python", "--model=txl_small", "--batch_size=16"),
}
TARGET = 1.03
_IMAGES = 2048


class _Terminal:
    """A terminal that nobody looks at."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("no file, and so no width: the default one serves")

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    flags.DEFINE_list("cases", list(CASES), "which models", flag_values=values)
    flags.DEFINE_string(
        "csv", "trainer_time.csv", "where the rounds are kept", flag_values=values
    )
    flags.DEFINE_float(
        "seconds", 0.0, "begin no round after so long; 0: no limit", flag_values=values
    )
    flags.DEFINE_integer("rounds", 20, "rounds of each case", 1, flag_values=values)
    flags.DEFINE_integer(
        "burst", 20, "steps of each variant in a round", 1, flag_values=values
    )


def _images() -> ImageData:
    numbers = np.random.default_rng(0)
    pixels = numbers.integers(0, 256, (_IMAGES, 32, 32, 3), np.uint8)
    labels = numbers.integers(0, 10, _IMAGES)
    normal = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "padding": 4, "flip": True}
    return ImageData(pixels, labels, pixels[:10], labels[:10], 10, 255.0, **normal)


def burst_of(
    case: str, variant: str, burst: int, folder: pathlib.Path
) -> Callable[[], None]:
    """What trains a variant for one burst, compiled and warm."""
    settings = resolve.resolved(
        launch_flags.parse(
            ["trainer_time", *CASES[case], "--refresh_every=100", "--optimizer=sgd"]
        )
    )
    task = task_of(settings)
    if case == "resnet20":
        task._images = _images()
    else:
        task.load()
    model = training.build(task, "topkast")
    called_back: list[keras.callbacks.Callback] = []
    if variant in ("launcher", "loop"):
        folder = folder / variant
        folder.mkdir()
        called_back = _callbacks(task, model, folder)
    loop = Loop(model) if variant == "loop" else None

    def train() -> None:
        step = callbacks.steps_taken(model)
        if loop is not None:
            loop.fit(
                lambda shard: task.training_batches(step, burst, shard),
                lambda shard: task.evaluation_batches(shard).take(0),
                first_round=0,
                rounds=1,
                round_steps=burst,
                callbacks=called_back,
            )
            return
        model.fit(
            task.training_batches(step, burst),
            steps_per_epoch=burst,
            shuffle=False,
            callbacks=called_back,
            verbose=0,
        )

    train()
    return train


def _callbacks(task, model, folder: pathlib.Path) -> list[keras.callbacks.Callback]:
    """What a run listens with, but for the record, which is made once a round."""
    schedule = learning_rate("cosine", 0.01, 10**6, warmup_steps=10)
    endless = {"epoch_steps": 10**6, "round_steps": 10**6, "total_steps": 10**6}
    recorder = callbacks.Recorder(
        folder, {}, metrics_of(task.settings).metrics, **endless
    )
    recorder.on_epoch_end = lambda *_: None
    items = Items("items", task.units_a_step)
    progress = callbacks.Progress("topkast", 10**6, recorder, items, _Terminal())
    progress.on_epoch_end = lambda *_: None
    return [
        *task.callbacks(),
        callbacks.LearningRate(schedule),
        callbacks.StopOnNaN(),
        *sparsity.callbacks_of(model, folder, 100),
        recorder,
        progress,
        callbacks.StopWhenAsked(recorder),
    ]


def run_case(
    case: str, values: flags.FlagValues, deadline: float
) -> list[Sequence[str]]:
    """Measures the rounds that are missing; returns the rows of the table."""
    results = common.Results(
        values.csv,
        COLUMNS,
        {"case": case, "burst": values.burst, "tensorflow": tf.__version__},
    )
    done = len(results.complete_rounds(VARIANTS, common.times_of))
    missing = tqdm(range(done, values.rounds), case, unit="round", disable=None)
    trainers: dict[str, Callable[[], None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in missing:
            if time.monotonic() > deadline:
                break
            for variant in VARIANTS if not trainers else ():
                trainers[variant] = burst_of(
                    case, variant, values.burst, pathlib.Path(folder)
                )
            for variant in random.sample(VARIANTS, len(VARIANTS)):
                times = common.timed(trainers[variant])
                results.add(
                    round=number,
                    variant=variant,
                    wall_ms=f"{times.wall / values.burst:.3f}",
                    cpu_ms=f"{times.cpu / values.burst:.3f}",
                )
    return table_rows(case, results.complete_rounds(VARIANTS, common.times_of))


def table_rows(
    case: str, rounds: Sequence[dict[str, common.Times]]
) -> list[Sequence[str]]:
    """The rows of the table for one case, without the header."""
    if not rounds:
        return [(f"{case}: no round yet", "", "", "", "")]
    step = common.spread([times["fit"].wall for times in rounds]).median
    rows: list[Sequence[str]] = []
    for variant in VARIANTS[1:]:
        ratios = [
            common.spread(
                [getattr(t[variant], clock) / getattr(t["fit"], clock) for t in rounds]
            )
            for clock in common.Times._fields
        ]
        is_noise = variant == "fit_again"
        rows.append(
            (
                f"{case}, {step:.1f} ms: fit again" if is_noise else f"  {variant}",
                *map(str, ratios),
                "1" if is_noise else f"<= {TARGET:.2f}",
                str(len(rounds)),
            )
        )
    return rows


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    if not set(values.cases) <= set(CASES):
        common.fail(f"Expected --cases of {', '.join(CASES)}. Received: {values.cases}")
    deadline = time.monotonic() + (values.seconds or float("inf"))
    rows: list[Sequence[str]] = [
        ("training step / step of bare fit", "wall", "cpu", "target", "rounds")
    ]
    for case in values.cases:
        rows += run_case(case, values, deadline)
    print(common.table(rows))
    print("median (quartiles) over the rounds; ms: a step of bare fit")


if __name__ == "__main__":
    main(sys.argv)
