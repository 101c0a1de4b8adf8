"""Loss over training time: a dense network, the same at 90/80, and a wider one at 90/80.

Studies (--studies):

  txl_small    Transformer-XL, 4 blocks of width 128, Adam, 16 x 64 tokens a step and as
               many states of memory; on bytes
  txl_medium   the same with 6 blocks of width 512, 8 x 64 tokens a step
  resnet20     ResNet-20 on CIFAR-10, batch 128, SGD with momentum; first and last layer
               dense

in networks:

  dense        without a scope, as Keras runs it on a CPU
  sparse       in topkast_scope(0.9, 0.8, refresh_every=20), kernels="auto"
  wider        the same with wider layers, so that a step takes no longer than a dense one

Each has the best of some learning rates (`Study.rates`); sparse layers start with the gain
of dense ones (`scale_to_dense`).

The networks of a study and a seed train in turns of --turn seconds in one process, so that
what else runs on the machine hits all alike, until each has trained for --minutes. The
learning rate follows a cosine over this time, after a warm-up: each network has as much
time, and lowers its rate by the end of it, whatever its steps take. Time is that of the
processor in `fit`, with its input pipeline: with one thread it is that of the clock, if
nothing else runs (which the CSV has, too). The first step of each network, which compiles,
is a column of its own and does not count, nor do evaluations. The loss is that of a fixed
part of the validation data: bits a byte, or cross-entropy.

The CSV only grows. A curve (of a network, a seed and a learning rate) is whole or missing:
what was interrupted begins anew, and the same command goes on with what is missing. With
--learning_rate it holds the rates that were tried; table and plot show those of the study.

  python benchmarks/loss_over_time.py --text_dir=DIR --image_dir=DIR
  python benchmarks/loss_over_time.py --text_dir=DIR --image_dir=DIR --plot=loss.png
"""

import contextlib
import math
import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

if __name__ == "__main__":
    # Run as a file, Python looks for modules in benchmarks/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from benchmarks import common
from launch.plots import curves as plots
from launch.plots.colours import NEUTRAL, SERIES, Style
from launch.plots.panels import png
from launch.support.quiet import quiet_start

with quiet_start():
    import keras
    import numpy as np
    import tensorflow as tf
    from tqdm import tqdm

    from launch import callbacks
    from launch.config import flags as launch_flags
    from launch.config import resolve
    from launch.run.building import add_weight_decay, build
    from launch.run.schedules import learning_rate
    from launch.tasks import task_of
    from topkast_tf import sparse_weights
    from topkast_tf.kernels.library import library

COLUMNS = (
    *("study", "minutes", "threads", "cpu", "tensorflow", "seed", "network", "width"),
    *("learning_rate", "step", "seconds", "cpu_seconds", "first_step_seconds"),
    *("loss", "accuracy"),
)


class Study(NamedTuple):
    """A network, its data and how long a part of them is evaluated.

    Attributes:
      arguments: flags of launch/train.py that all its networks share.
      minutes: training time of each network.
      rates: the largest learning rate of each network.
      wider: the factor on the widths of the wider network.
      evaluated: batches of the validation data that are evaluated.
      metric: the metric that is the loss.
      unit: its unit, for the axis of the plot.
    """

    arguments: tuple[str, ...]
    minutes: float
    rates: dict[str, float]
    wider: float
    evaluated: int
    metric: str
    unit: str


_TEXT = (
    *("--dataset=bytes", "--optimizer=adam", "--warmup_steps=50", "--clip_norm=0.25"),
    *("--weight_decay=0", "--exploration=1e-5", "--dropout=0"),
)
STUDIES = {
    "txl_small": Study(
        (*_TEXT, "--model=txl_small", "--batch_size=16"),
        8,
        {"dense": 2e-3, "sparse": 4e-3, "wider": 4e-3},
        1.5,
        30,
        "bpc",
        "bits a byte",
    ),
    "txl_medium": Study(
        (
            *(*_TEXT, "--model=txl_medium", "--batch_size=8", "--warmup_steps=200"),
            *("--segment_length=64", "--memory_length=64", "--evaluation_segment=64"),
        ),
        10,
        {"dense": 1e-3, "sparse": 1.4e-3, "wider": 5e-4},
        1.625,
        12,
        "bpc",
        "bits a byte",
    ),
    "resnet20": Study(
        (
            *("--dataset=cifar10", "--model=resnet20"),
            *("--warmup_steps=50", "--exempt=first,last"),
        ),
        6,
        {"dense": 0.2, "sparse": 0.2, "wider": 0.2},
        1.25,
        4,
        "cross_entropy",
        "cross-entropy (nats)",
    ),
}
NETWORKS = ("dense", "sparse", "wider")
_SPARSE = ("--method=topkast", "--fwd=0.9", "--bwd=0.8", "--refresh_every=20")


def define_flags(values: flags.FlagValues) -> None:
    """Adds the flags of this benchmark."""
    for kind, name, default, text in (
        ("list", "studies", list(STUDIES), "which studies"),
        ("list", "networks", list(NETWORKS), "which networks"),
        ("string", "text_dir", None, "a folder of text files"),
        ("string", "image_dir", None, "a folder of prepared tensorflow-datasets"),
        ("string", "csv", "loss_over_time.csv", "where the curves are kept"),
        ("string", "plot", None, "draw the studies of the CSV into this file"),
        ("float", "minutes", 0.0, "training time of each network; 0: the study's own"),
        ("float", "learning_rate", 0.0, "the largest rate; 0: each network's own"),
        ("float", "turn", 15.0, "seconds that a network trains before the next does"),
    ):
        define = getattr(flags, f"DEFINE_{kind}")
        define(name, default, text, flag_values=values)
    for name, default, text in (
        ("seeds", 3, "seeds of each study: 0, 1, ..."),
        ("points", 16, "evaluations of each network, at equal times"),
        ("threads", 1, "threads within an operation"),
    ):
        flags.DEFINE_integer(name, default, text, 1, flag_values=values)


def scale_to_dense(model: keras.Model) -> None:
    """Scales sparse weights so that what A holds has the mean square of all of theta.

    The largest 10 % of normally distributed weights hold 44 % of their squares: each layer
    would start with two thirds of the gain of a dense one, and a deep network with a
    signal that is hard to train on.
    """
    for weight in sparse_weights(model):
        theta = weight.dense()
        in_a = np.where(weight.forward_mask(), theta, 0)
        weight.variable.assign(theta * np.sqrt((theta**2).sum() / (in_a**2).sum()))


class Training:
    """A network in training, with the time that this has taken.

    Args:
      study: what it is of.
      network: one of `NETWORKS`.
      seed: of weights and batches.
      data_dir: where the data are.
      seconds: how long it is to train, by the clock of the processor.
      largest_rate: the learning rate after the warm-up.

    Attributes:
      width: the factor on its widths.
      largest_rate: the learning rate after the warm-up.
      step: steps taken.
      seconds: time of all but the first step, by the clock.
      cpu_seconds: the same, of the processor.
      first_step_seconds: time of the first.
    """

    def __init__(
        self,
        study: Study,
        network: str,
        seed: int,
        data_dir: str,
        seconds: float,
        largest_rate: float,
    ):
        self.width = study.wider if network == "wider" else 1.0
        self.largest_rate = largest_rate
        how = ("--method=dense",) if network == "dense" else _SPARSE
        arguments = (
            f"--data_dir={data_dir}",
            f"--seed={seed}",
            f"--width={self.width}",
            f"--learning_rate={self.largest_rate}",
        )
        given = ["", *study.arguments, *arguments, *how, "--nodeterministic"]
        settings = resolve.resolved(launch_flags.parse(given))
        self._study, self._task = study, task_of(settings)
        self._task.load()
        self._model = build(self._task, settings.method)
        scale_to_dense(self._model)
        add_weight_decay(self._model, settings.weight_decay, settings.decay)
        warm_up = learning_rate(
            *("constant", settings.learning_rate, self._task.total_steps),
            warmup_steps=settings.warmup_steps,
        )

        def rate(step: int) -> float:
            taken = self.cpu_seconds + time.process_time() - self._turn_began
            return warm_up(step) * (1 + math.cos(math.pi * min(taken / seconds, 1))) / 2

        self._callbacks = [*self._task.callbacks(), callbacks.LearningRate(rate)]
        self._held_out = self._task.evaluation_batches().take(study.evaluated).cache()
        self.step = 0
        self.seconds = self.cpu_seconds = self.first_step_seconds = 0.0
        self.first_step_seconds = self._fit(1).wall / 1e3

    def train(self, seconds: float) -> None:
        """Trains for about so long, at least a step."""
        a_step = self.cpu_seconds / (self.step - 1) if self.step > 1 else 0.0
        taken = self._fit(max(1, round(seconds / a_step)) if a_step else 2)
        self.seconds += taken.wall / 1e3
        self.cpu_seconds += taken.cpu / 1e3

    def evaluate(self) -> dict[str, float]:
        """Loss in the unit of the study, and accuracy, on held-out data."""
        found = self._model.evaluate(
            self._held_out,
            verbose=0,
            return_dict=True,
            callbacks=self._task.callbacks(),
        )
        return {
            "loss": found[self._study.metric],
            "accuracy": found.get("accuracy", math.nan),
        }

    def _fit(self, steps: int) -> common.Times:
        batches = self._task.training_batches(self.step, steps)
        self.step += steps
        self._turn_began = time.process_time()
        return common.timed(
            lambda: self._model.fit(
                batches,
                steps_per_epoch=steps,
                shuffle=False,
                verbose=0,
                callbacks=self._callbacks,
            )
        )


def run_seed(
    name: str,
    seed: int,
    rates: Mapping[str, float],
    data_dir: str,
    minutes: float,
    values: flags.FlagValues,
) -> list[dict[str, object]]:
    """Trains networks of a study in turns; returns the rows of their curves.

    Args:
      rates: network -> its largest learning rate.
    """
    study = STUDIES[name]
    networks = {
        network: Training(study, network, seed, data_dir, 60 * minutes, rate)
        for network, rate in tqdm(
            rates.items(), f"{name}, seed {seed}: compiling", disable=None
        )
    }
    total = 60 * minutes
    rows = []
    marks = [total * (k + 1) / values.points for k in range(values.points)]
    with tqdm(total=round(total * len(networks)), unit="s", disable=None) as bar:
        bar.set_description(f"{name}, seed {seed}")
        for mark in marks:
            while behind := [n for n in networks if networks[n].cpu_seconds < mark]:
                for network in behind:
                    training = networks[network]
                    before = training.cpu_seconds
                    training.train(min(values.turn, mark - before))
                    bar.update(round(training.cpu_seconds) - round(before))
            for network, training in networks.items():
                found = training.evaluate()
                rows.append(
                    {
                        "seed": seed,
                        "network": network,
                        "width": training.width,
                        "learning_rate": training.largest_rate,
                        "step": training.step,
                        "seconds": f"{training.seconds:.2f}",
                        "cpu_seconds": f"{training.cpu_seconds:.2f}",
                        "first_step_seconds": f"{training.first_step_seconds:.2f}",
                        **{key: f"{value:.5f}" for key, value in found.items()},
                    }
                )
            losses = [row["loss"] for row in rows[-len(networks) :]]
            bar.set_postfix(dict(zip(networks, losses, strict=True)))
    return rows


def curves(rows: Sequence[dict[str, str]], network: str) -> list[list[dict[str, str]]]:
    """The rows of a network, one list a seed, in the order of time."""
    seeds = sorted({row["seed"] for row in rows})
    found = [
        [row for row in rows if row["seed"] == seed and row["network"] == network]
        for seed in seeds
    ]
    return [sorted(each, key=lambda row: float(row["cpu_seconds"])) for each in found]


def time_to(curve: Sequence[dict[str, str]], loss: float) -> float:
    """The time at which a curve reaches a loss, linear between its points; or infinity.

    >>> rows = [{"cpu_seconds": "10", "loss": "4"}, {"cpu_seconds": "20", "loss": "2"}]
    >>> time_to(rows, 2.5)
    17.5
    """
    points = [(float(row["cpu_seconds"]), float(row["loss"])) for row in curve]
    for (t, above), (u, below) in zip(points, points[1:], strict=False):
        if below <= loss:
            return (
                t if above <= loss else t + (u - t) * (above - loss) / (above - below)
            )
    return math.inf


def table_rows(name: str, rows: Sequence[dict[str, str]]) -> list[Sequence[str]]:
    """The rows of the table for a study, without the header."""
    of = {network: curves(rows, network) for network in NETWORKS}
    found: list[Sequence[str]] = []
    for network, each in of.items():
        if not all(each):
            continue  # not among --networks
        last = [curve[-1] for curve in each]
        steps = [
            1e3 * float(row["cpu_seconds"]) / (int(row["step"]) - 1) for row in last
        ]
        ends = [dense[-1] for dense in of["dense"] if dense]
        sooner = [
            float(end["cpu_seconds"]) / time_to(curve, float(end["loss"]))
            for end, curve in zip(ends, each, strict=False)
        ]
        found.append(
            (
                f"{name}: {network}",
                f"{statistics.median(steps):.0f}",
                str(common.spread([float(row["loss"]) for row in last])),
                str(common.spread(sooner)) if sooner else "",
                str(len(each)),
            )
        )
    return found


def draw(studies: dict[str, Sequence[dict[str, str]]], path: str) -> None:
    """Draws loss over time, one picture a study, one line a seed."""
    colours = dict(zip(NETWORKS, (NEUTRAL, *SERIES), strict=False))
    lines = {
        name: [
            plots.single(
                network,
                Style(colours[network]),
                [float(row["cpu_seconds"]) / 60 for row in curve],
                [float(row["loss"]) for row in curve],
            )
            for network in NETWORKS
            for curve in curves(rows, network)
        ]
        for name, rows in studies.items()
    }
    units = [f"validation, {STUDIES[name].unit}" for name in studies]
    figure = plots.beside(lines, "minutes of training, one thread", units)
    pathlib.Path(path).write_bytes(png(figure))


def main(argv: Sequence[str]) -> None:
    """Runs the command line."""
    values = common.parse(argv, __doc__ or "", define_flags)
    for name in values.studies:
        if name not in STUDIES:
            common.fail(f"Expected --studies of {', '.join(STUDIES)}. Received: {name}")
    with contextlib.suppress(RuntimeError):  # in a process where TensorFlow runs
        tf.config.threading.set_intra_op_parallelism_threads(values.threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    found = {}
    for name in values.studies:
        minutes = float(values.minutes or STUDIES[name].minutes)
        folder = values.image_dir if name == "resnet20" else values.text_dir
        results = common.Results(
            values.csv,
            COLUMNS,
            {
                "study": name,
                "minutes": minutes,
                "threads": values.threads,
                "cpu": library().cpu,
                "tensorflow": tf.__version__,
            },
        )
        rates = {
            network: values.learning_rate or STUDIES[name].rates[network]
            for network in values.networks
        }
        for seed in range(values.seeds):
            missing = {
                network: rate
                for network, rate in rates.items()
                if not results.where(seed=seed, network=network, learning_rate=rate)
            }
            if not missing:
                continue
            if not folder:
                flag = "image_dir" if name == "resnet20" else "text_dir"
                common.fail(f"Expected --{flag} for {name}. Received: none")
            for row in run_seed(name, seed, missing, folder, minutes, values):
                results.add(**row)
            keras.backend.clear_session()
        found[name] = [
            row
            for network, rate in rates.items()
            for row in results.where(network=network, learning_rate=rate)
        ]
    if values.plot:
        draw(found, values.plot)
    rows: list[Sequence[str]] = [
        ("", "ms a step", "loss at the end", "sooner at dense's last loss", "seeds")
    ]
    for name, of_study in found.items():
        rows += table_rows(name, of_study)
    print(common.table(rows))
    print("median (quartiles) over the seeds; medians of the time of a step")


if __name__ == "__main__":
    main(sys.argv)
