"""Prunes a trained network and fine-tunes it, beside the same network trained sparse.

    python examples/from_dense.py                       # digits: no download, a minute
    python examples/from_dense.py --dataset=cifar10 --data_dir=DIR --model=resnet20 \\
        --train_examples=10000 --steps=400 --out=from_dense.csv

For each sparsity: half of the steps are dense, `sparsify` prunes the network at once,
and the other half is `fit` as before, under Top-KAST. Beside it the same network is sparse
from the first step on, for as many steps in all, and one is dense throughout. Each run is a
row of the CSV file; a run that is in it already is not made again.
"""

import argparse
import csv
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import keras

from launch import data, models
from launch.data import pipeline
from launch.run.schedules import learning_rate
from topkast_tf import sparsify, summary, topkast_scope

COLUMNS = (
    "run",
    "fwd",
    "bwd",
    "seed",
    "steps",
    "accuracy_before",
    "accuracy_at_once",
    "accuracy",
    "forward_sparsity",
    "kept_parameters",
    "parameters",
    "seconds",
)
EXEMPT = ("first", "last")


class Trial:
    """One network, its data, and how it is trained."""

    def __init__(self, settings: argparse.Namespace, seed: int):
        self.settings, self.seed = settings, seed
        source = data.find(settings.dataset, "image")
        source.check(settings.data_dir)
        count = settings.train_examples or source.train_examples
        self.images = source.open(settings.data_dir).subset(count)
        self.build = lambda: models.find(settings.model)(
            source.image_shape, source.classes
        )

    def network(self) -> keras.Model:
        """An untrained network; the same one for the same seed."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(self.seed)
        return self.build()

    def fit(self, model: keras.Model, steps: int, first_step: int = 0) -> None:
        """Trains it for a number of steps, with a schedule of their own."""
        schedule = learning_rate("cosine", self.settings.learning_rate, steps)
        model.compile(
            keras.optimizers.SGD(momentum=0.9),
            keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )

        class Rate(keras.callbacks.Callback):
            def on_train_batch_begin(self, batch, logs=None):
                self.model.optimizer.learning_rate = schedule(batch)

        batches = pipeline.training_batches(
            self.images,
            batch_size=self.settings.batch_size,
            seed=self.seed,
            first_step=first_step,
            steps=steps,
        )
        model.fit(
            batches,
            steps_per_epoch=steps,
            callbacks=[Rate()],
            shuffle=False,
            verbose=0,
        )

    def accuracy(self, model: keras.Model) -> float:
        """On the test images."""
        model.compile(metrics=["accuracy"], loss="categorical_crossentropy")
        found = model.evaluate(
            pipeline.evaluation_batches(self.images), return_dict=True, verbose=0
        )
        return found["accuracy"]


def runs(trial: Trial, half: int, pairs: list[tuple[float, float]], done: set):
    """Gives the rows of the runs that are missing, one by one."""
    seed = trial.seed
    missing = [pair for pair in pairs if ("fine-tuned", *pair, seed) not in done]
    dense = trial.network()
    if missing or ("dense", 0.0, 0.0, seed) not in done:
        trial.fit(dense, half)
    before = trial.accuracy(dense)
    for fwd, bwd in missing:
        start = time.monotonic()
        model = sparsify(dense, fwd, bwd, exempt=EXEMPT, refresh_every=10)
        at_once = trial.accuracy(model)
        trial.fit(model, half, half)
        yield row("fine-tuned", fwd, bwd, trial, model, start, half, before, at_once)
    if ("dense", 0.0, 0.0, seed) not in done:
        start = time.monotonic()
        trial.fit(dense, half, half)
        yield row("dense", 0.0, 0.0, trial, dense, start, half, before, before)
    for fwd, bwd in pairs:
        if ("from scratch", fwd, bwd, seed) in done:
            continue
        start = time.monotonic()
        with topkast_scope(fwd, bwd, exempt=EXEMPT, refresh_every=10):
            model = trial.network()
        trial.fit(model, 2 * half)
        yield row("from scratch", fwd, bwd, trial, model, start, half, "", "")


def row(run, fwd, bwd, trial, model, start, half, before, at_once) -> dict:
    """What is known of a run that has ended."""
    found = summary(model)
    values = (
        *(run, fwd, bwd, trial.seed, 2 * half, before, at_once),
        *(trial.accuracy(model), found.forward_sparsity),
        *(found.kept_parameters, found.dense_parameters),
        round(time.monotonic() - start, 1),
    )
    return dict(zip(COLUMNS, values, strict=True))


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="digits", help="digits or cifar10")
    parser.add_argument("--data_dir", help="where tensorflow-datasets has prepared it")
    parser.add_argument("--train_examples", type=int, help="all, if not given")
    parser.add_argument("--model", default="resnet8", help="as for launch/train.py")
    parser.add_argument("--steps", type=int, default=200, help="of each half")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--learning_rate", type=float, default=0.1)
    parser.add_argument("--sparsities", default="0.8,0.9,0.95", help="forward ones")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--out", default="from_dense.csv", help="rows are added to it")
    return parser.parse_args()


def main() -> None:
    """Makes the runs that are missing and prints them."""
    settings = parsed()
    out = pathlib.Path(settings.out)
    # As Top-KAST chose them: B keeps twice as many as A.
    pairs = [
        (float(fwd), round(1 - 2 * (1 - float(fwd)), 4))
        for fwd in settings.sparsities.split(",")
    ]
    done = set()
    if out.is_file():
        with open(out, newline="") as file:
            for one in csv.DictReader(file):
                key = one["run"], float(one["fwd"]), float(one["bwd"]), int(one["seed"])
                done.add(key)
    print(",".join(COLUMNS))
    for seed in map(int, settings.seeds.split(",")):
        for made in runs(Trial(settings, seed), settings.steps, pairs, done):
            with open(out, "a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS)
                if not file.tell():
                    writer.writeheader()
                writer.writerow(made)
            print(",".join(str(value) for value in made.values()), flush=True)


if __name__ == "__main__":
    main()
