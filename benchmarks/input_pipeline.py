"""How long a training step waits for its batch, beside how long it takes.

What is measured: training steps of `launch`'s dense models that are fed by its own input
pipelines, from stand-ins of the data that have its sizes and are made here. Three cases:

  cifar     ResNet-20; 10,000 images of 32 x 32 in memory, cropped and flipped
  imagenet  ResNet-50; JPEG files of 500 x 400, decoded, cropped, resized, flipped
  text      txl_small; 10 MB of bytes, mapped from a file

How: in each round every variant takes a burst of steps, in random order; the first step of
a burst does not count. A ratio compares times of one round, so what else runs on the
machine hits both sides alike; the table gives the median of the ratios over the rounds,
and the range between their quartiles. Variants:

  fixed  steps on one batch, already in memory: the model's own speed
  fed    steps on the batches of the pipeline; the time in which the loop waits for a
         batch is measured apart
  alone  the batches of the pipeline, as fast as it makes them, without a model

Target: a fed step waits at most 0.01 of its time for its batch.

What the figures do not say: pipeline and model share the processor, so a fed step takes
longer than a fixed one even when it never waits. Files are in the page cache; a slow disk
would be seen under `alone` first. The photographs are noise, which takes longer to decode
than real ones of that size.

The CSV holds each round, and only grows: the same command goes on where it stopped, and
--rounds is the total.

Example: python benchmarks/input_pipeline.py --cases=cifar,text --rounds=5
"""

import itertools
import pathlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import numpy as np
from absl import flags
from tqdm import tqdm

from benchmarks import common
from launch.support.quiet import quiet_start

with quiet_start():
    import keras
    import tensorflow as tf

    from launch import models
    from launch.data import pipeline, segments
    from launch.data.source import ImageData, ImageStream
    from launch.models import resnet
    from launch.models.transformer_xl import TransformerXL
    from launch.models.transformer_xl_config import CONFIGS

COLUMNS = (
    "case",
    "size",
    "burst",
    "tensorflow",
    "round",
    "variant",
    "wall_ms",
    "wait_ms",
)
VARIANTS = ("fixed", "fed", "alone")
TARGET = 0.01
CASES = ("cifar", "imagenet", "text")
# Batches of `alone` for each one of the others: some are made before they are asked for.
_ALONE = 10
_NORMAL = {"scale": 255.0, "mean": (0.5,) * 3, "std": (0.25,) * 3}


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    for kind, name, default, text in (
        ("list", "cases", list(CASES), "which of cifar, imagenet, text"),
        ("string", "csv", "input_pipeline.csv", "where the rounds are kept"),
        ("float", "seconds", 0.0, "begin no round after so long; 0: no limit"),
    ):
        define = getattr(flags, f"DEFINE_{kind}")
        define(name, default, text, flag_values=values)
    for name, default, text in (
        ("rounds", 5, "rounds of each case"),
        ("burst", 5, "steps that count of each variant in a round"),
        ("cifar_batch", 128, "images a step of cifar"),
        ("cifar_depth", 20, "layers of cifar's ResNet"),
        ("imagenet_batch", 16, "images a step of imagenet"),
        ("imagenet_size", 224, "pixels of a side of imagenet's crops"),
        ("text_batch", 16, "segments a step of text"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)


def size_of(case: str, values: flags.FlagValues) -> str:
    """The settings of a case that make its figures another case's."""
    return {
        "cifar": f"resnet{values.cifar_depth}, batch {values.cifar_batch}",
        "imagenet": f"{values.imagenet_size} pixels, batch {values.imagenet_batch}",
        "text": f"batch {values.text_batch}",
    }[case]


def prepared(
    case: str, values: flags.FlagValues, folder: pathlib.Path
) -> tuple[keras.Model, Callable[[int], tf.data.Dataset]]:
    """A compiled model, and the batches of a number of next steps."""
    generator = np.random.default_rng(0)
    if case == "text":
        path = folder / "text"
        path.write_bytes(generator.bytes(10_000_000))
        text = np.memmap(path, "uint8", "r")
        config = CONFIGS["txl_small"]
        model = TransformerXL(config)
        model.compile("adam", jit_compile=False)
        return model, lambda steps: segments.segment_batches(
            text, values.text_batch, config.segment_length, 0, steps
        )
    if case == "cifar":
        images = generator.integers(0, 256, (10_000, 32, 32, 3), "uint8")
        labels = generator.integers(0, 10, 10_000)
        data = ImageData(
            images, labels, images, labels, 10, padding=4, flip=True, **_NORMAL
        )
        model = resnet.resnet(values.cifar_depth, (32, 32, 3), 10)
        batch = values.cifar_batch
    else:
        data = photographs(folder, values.imagenet_size)
        model = models.find("resnet50")(data.image_shape, data.classes, 1.0)
        batch = values.imagenet_batch
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1e-3, 0.9), loss, jit_compile=False)
    return model, lambda steps: pipeline.training_batches(
        data, batch_size=batch, seed=0, first_step=0, steps=steps
    )


def photographs(folder: pathlib.Path, size: int) -> ImageStream:
    """1,024 records in 16 files: JPEG files of the size that ImageNet's have on average."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (16, 25, 20, 3), "uint8")
    smooth = tf.image.resize(coarse, (500, 400), "bicubic")
    grain = generator.normal(0, 12, smooth.shape)
    images = tf.cast(tf.clip_by_value(smooth + grain, 0, 255), tf.uint8)
    jpegs = [tf.io.encode_jpeg(image, quality=90).numpy() for image in images]
    names = []
    for number in range(16):
        names.append(str(folder / f"train-{number}"))
        with tf.io.TFRecordWriter(names[-1]) as writer:
            for jpeg, label in itertools.product(jpegs, range(4)):
                feature = {
                    "image": tf.train.Feature(
                        bytes_list=tf.train.BytesList(value=[jpeg])
                    ),
                    "label": tf.train.Feature(
                        int64_list=tf.train.Int64List(value=[label])
                    ),
                }
                features = tf.train.Features(feature=feature)
                writer.write(tf.train.Example(features=features).SerializeToString())
    return ImageStream(
        tuple(names), (), 1024, 1000, (size, size, 3), shorter_side=256, **_NORMAL
    )


class Times(dict[str, tuple[float, float]]):
    """Variant -> (milliseconds a step, of which it waits for its batch)."""

    @property
    def waiting(self) -> float:
        """The share of a fed step in which it waits."""
        wall, wait = self["fed"]
        return wait / wall

    @property
    def slower(self) -> float:
        """A fed step over a fixed one."""
        return self["fed"][0] / self["fixed"][0]

    @property
    def faster(self) -> float:
        """How many batches the pipeline makes in a step of the model."""
        return self["fixed"][0] / self["alone"][0]


def measured(
    variant: str, model: keras.Model, batches: Iterator, fixed: tuple, burst: int
) -> tuple[float, float]:
    """Median milliseconds of a step of a burst, and of its waiting.

    Without a model the mean, over more batches than may have been made beforehand.
    """
    if variant == "alone":
        next(batches)
        start = time.perf_counter()
        for _ in range(_ALONE * burst):
            next(batches)
        wall = 1e3 * (time.perf_counter() - start) / (_ALONE * burst)
        return wall, wall
    walls, waits = [], []
    for step in range(burst + 1):
        start = time.perf_counter()
        batch = fixed if variant == "fixed" else next(batches)
        got = time.perf_counter()
        model.train_on_batch(*batch)
        end = time.perf_counter()
        if step:
            walls.append(1e3 * (end - start))
            waits.append(1e3 * (got - start))
    return statistics.median(walls), statistics.median(waits)


def run_case(
    case: str, values: flags.FlagValues, deadline: float
) -> list[Sequence[str]]:
    """Measures the rounds that are missing; returns the row of the table."""
    settings = {
        "case": case,
        "size": size_of(case, values),
        "burst": values.burst,
        "tensorflow": tf.__version__,
    }
    results = common.Results(values.csv, COLUMNS, settings)
    done = len(results.complete_rounds(VARIANTS, times_of))
    missing = tqdm(range(done, values.rounds), case, unit="round", disable=None)
    with tempfile.TemporaryDirectory() as folder:
        model = None
        for number in missing:
            if time.monotonic() > deadline:
                break
            if model is None:
                model, of_steps = prepared(case, values, pathlib.Path(folder))
                # What is prefetched before a burst is a few of its batches.
                fixed = tuple(next(iter(of_steps(1))))
                model.train_on_batch(*fixed)
            for variant in random.sample(VARIANTS, len(VARIANTS)):
                batches = iter(of_steps(_ALONE * values.burst + 1))
                wall, wait = measured(variant, model, batches, fixed, values.burst)
                results.add(
                    round=number,
                    variant=variant,
                    wall_ms=f"{wall:.3f}",
                    wait_ms=f"{wait:.3f}",
                )
    return [
        table_row(
            f"{case}, {settings['size']}",
            [Times(found) for found in results.complete_rounds(VARIANTS, times_of)],
        )
    ]


def times_of(row: Mapping[str, str]) -> tuple[float, float]:
    """(milliseconds a step, of which it waits) of a row of the CSV."""
    return float(row["wall_ms"]), float(row["wait_ms"])


def table_row(name: str, rounds: Sequence[Times]) -> Sequence[str]:
    """The row of the table for one case."""
    if not rounds:
        return (name, "no round yet", "", "", "", "", "")
    step = statistics.median(times["fixed"][0] for times in rounds)
    ratios = [
        str(common.spread([getattr(times, ratio) for times in rounds]))
        for ratio in ("waiting", "slower", "faster")
    ]
    return (name, f"{step:.1f} ms", *ratios, f"<= {TARGET}", str(len(rounds)))


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    if not values.cases or not set(values.cases) <= set(CASES):
        common.fail(f"Expected --cases of {', '.join(CASES)}. Received: {values.cases}")
    deadline = time.monotonic() + (values.seconds or float("inf"))
    rows: list[Sequence[str]] = [
        (
            "case",
            "step",
            "waiting / fed step",
            "fed / fixed step",
            "batches made a step",
            "target of waiting",
            "rounds",
        )
    ]
    for case in values.cases:
        rows += run_case(case, values, deadline)
    print(common.table(rows))
    print("median (quartiles) over the rounds")


if __name__ == "__main__":
    main(sys.argv)
