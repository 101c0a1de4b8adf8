"""What a checkpoint costs training: written beside it, or at once, over none.

What is measured: bursts of compiled training steps (`model.train_on_batch`, SGD with
momentum) of the CIFAR ResNet-20 of `launch` in `topkast_scope`, on random data in memory,
with one checkpoint in each burst. The same model takes all bursts. Variants:

  none        the baseline: no checkpoint
  none_again  the same once more: its ratio shows the noise, and would be 1
  beside      the checkpoint is written in a thread of its own, as the launcher does it;
              a burst ends when it is written
  at_once     training waits until it is written

How: in each round every variant takes a burst, in random order. A ratio compares bursts of
one round, so what else runs on the machine hits all alike; the table gives the median of
the ratios over the rounds, and the range between their quartiles.

Target: `beside` at most 1.02 with a checkpoint every 50 steps.

Three clocks: `wall`; `cpu`, of all threads, which counts the writing too, as work that a
machine with a core to spare does not wait for; `thread`, of the thread that trains
alone: what it does itself for a checkpoint, without what TensorFlow computes for it.

What the figures do not say: what it costs where the accelerator is another device, which
the writing leaves alone; here both want the same cores. Larger models take longer to
write, and their steps too. The disk is that of the temporary folder.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/checkpoint_time.py --rounds=20 --seconds=600
"""

import functools
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags
from tqdm import tqdm

from benchmarks import common
from launch.support.quiet import quiet_start

with quiet_start():
    import keras
    import tensorflow as tf

    from launch.models import resnet
    from launch.storage import checkpoints
    from launch.storage.snapshots import snapshot
    from launch.support.writer import BackgroundWriter
    from topkast_tf import topkast_scope

COLUMNS = (
    "model",
    "batch",
    "steps",
    "tensorflow",
    "round",
    "variant",
    "wall_ms",
    "cpu_ms",
    "thread_ms",
)
VARIANTS = ("none", "none_again", "beside", "at_once")
TARGET = 1.02


class Clocks(NamedTuple):
    """Milliseconds of a burst, by three clocks."""

    wall: float
    cpu: float
    thread: float


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    flags.DEFINE_string(
        "csv", "checkpoint_time.csv", "where the rounds are kept", flag_values=values
    )
    flags.DEFINE_float(
        "seconds", 0.0, "begin no round after so long; 0: no limit", flag_values=values
    )
    for name, default, text in (
        ("rounds", 20, "rounds"),
        ("steps", 50, "steps of a burst, in which there is one checkpoint"),
        ("batch", 32, "images a step"),
        ("depth", 20, "layers of the network"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)


def build(values: flags.FlagValues) -> tuple[keras.Model, Callable[[], object]]:
    """The model and a training step of it, compiled and warm."""
    keras.utils.set_random_seed(0)
    with topkast_scope(0.9, 0.8, refresh_every=100):
        model = resnet.resnet(values.depth, (32, 32, 3), 10)
    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = tf.random.normal([values.batch, 32, 32, 3])
    y = tf.random.uniform([values.batch], 0, 10, tf.int32)

    def step():
        return model.train_on_batch(x, y)

    for _ in range(3):
        step()
    return model, step


def burst(
    variant: str,
    model: keras.Model,
    step: Callable[[], object],
    steps: int,
    folder: pathlib.Path,
    writer: BackgroundWriter,
) -> Clocks:
    """Takes the steps of a burst, and the checkpoint of the variant after the first."""
    begin = time.perf_counter(), time.process_time(), time.thread_time()
    for number in range(steps):
        step()
        if number == 0 and variant == "beside":
            writer.start(
                functools.partial(checkpoints.write, folder, snapshot(model), 1, {})
            )
        if number == 0 and variant == "at_once":
            checkpoints.save(folder, model, 1, {})
    writer.wait()
    end = time.perf_counter(), time.process_time(), time.thread_time()
    return Clocks(*(1e3 * (b - a) for a, b in zip(begin, end, strict=True)))


def clocks_of(row: Mapping[str, str]) -> Clocks:
    """What a row of the CSV says."""
    return Clocks(*(float(row[f"{clock}_ms"]) for clock in Clocks._fields))


def table_rows(rounds: Sequence[dict[str, Clocks]]) -> list[Sequence[str]]:
    """The rows of the table, without the header.

    >>> rounds = [{name: Clocks(2.0, 4.0, 1.0) for name in VARIANTS}]
    >>> table_rows(rounds)[1][:2]
    ('beside', '1.000 (1.000 to 1.000)')
    """
    rows = []
    for variant in VARIANTS[1:]:
        ratios = [
            common.spread(
                [getattr(t[variant], clock) / getattr(t["none"], clock) for t in rounds]
            )
            for clock in Clocks._fields
        ]
        target = f"<= {TARGET:.2f}" if variant == "beside" else ""
        rows.append((variant, *map(str, ratios), target, str(len(rounds))))
    return rows


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    deadline = time.monotonic() + (values.seconds or float("inf"))
    results = common.Results(
        values.csv,
        COLUMNS,
        {
            "model": f"resnet{values.depth}",
            "batch": values.batch,
            "steps": values.steps,
            "tensorflow": tf.__version__,
        },
    )
    done = len(results.complete_rounds(VARIANTS, clocks_of))
    made, writer = None, BackgroundWriter()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for number in tqdm(range(done, values.rounds), unit="round", disable=None):
            if time.monotonic() > deadline:
                break
            if made is None:
                made = build(values)
                for variant in VARIANTS:  # a first time, which is slower
                    burst(variant, *made, 2, folder, writer)
            for variant in random.sample(VARIANTS, len(VARIANTS)):
                clocks = burst(variant, *made, values.steps, folder, writer)
                shown = {f"{n}_ms": f"{ms:.3f}" for n, ms in clocks._asdict().items()}
                results.add(round=number, variant=variant, **shown)
    rounds = results.complete_rounds(VARIANTS, clocks_of)
    if not rounds:
        print("no round yet")
        return
    steps = [times["none"].wall / values.steps for times in rounds]
    header = (f"over none, one every {values.steps} steps", *Clocks._fields)
    print(common.table([(*header, "target", "rounds"), *table_rows(rounds)]))
    print(
        f"median (quartiles) over the rounds; a step without: {common.spread(steps)} ms"
    )


if __name__ == "__main__":
    main(sys.argv)
