"""The command line of the sensitivity study: what sparsity harms in which pass."""

import contextlib
import csv
import math
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from launch import data
from launch.config import flag_help, resolve
from launch.config import flags as launch_flags
from launch.config import sensitivity_flags as study_flags
from launch.storage import run_folder
from launch.studies import runs as studies
from launch.support import terminal
from launch.support.errors import BAD_INPUT, UserError
from launch.support.quiet import quiet_start
from launch.tasks import task_of

RESULTS_FILE = "results.csv"
MEASURED = (
    *("study", "sparsity", "value", "seed", "steps", "test_accuracy", "test_loss"),
    *("train_loss", "weight_density", "activation_density", "diverged", "seconds"),
)
ARGUMENTS = (
    *("dataset", "train_examples", "model", "width", "batch_size", "learning_rate"),
    *("lr_schedule", "weight_decay", "exempt", "topk_period", "forward", "backward"),
    *("errors", "errors_per", "updates", "freeze_at"),
)
"""What sets the runs of several studies apart; older files do not have it."""
COLUMNS = (*MEASURED, *ARGUMENTS)


def _whole(number: str) -> int:
    return int(float(number))  # older files have "0.0"


_KINDS: dict[str, Callable[[str], Any]] = {
    "study": str,
    **dict.fromkeys(("value", "seed", "steps", "diverged"), _whole),
    **dict.fromkeys(ARGUMENTS, str),
}
_OF_SCOPE = (
    *("exempt", "topk_period", "forward", "backward", "errors", "errors_per"),
    *("updates", "freeze_at"),
)
_INTERRUPTED = 130


def main(argv: Sequence[str]) -> int:
    """Runs the command line.

    Args:
      argv: the program's name, then its arguments.

    Returns:
      The exit code: 0; 2 for a mistake that one sentence on stderr explains; 130 after
      an interrupt.
    """
    help_text = flag_help.asked_for_help(argv, study_flags.HEAD, study_flags.GROUPS)
    if help_text:
        terminal.show(help_text)
        return 0
    try:
        settings = resolved(study_flags.parse(list(argv)))
        for sentence in launch_flags.overruled(argv, study_flags.GROUPS):
            terminal.note(sentence)
        run(settings)
    except (UserError, OSError) as error:
        terminal.error(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: the same command goes on after the last run.")
        return _INTERRUPTED
    return 0


def resolved(settings: flags.FlagValues) -> flags.FlagValues:
    """Fills in the defaults that depend on other flags and checks them together."""
    source = data.find(settings.dataset, "image")
    resolve.of_images(settings, source)
    settings.run_dir = (
        settings.run_dir or f"runs/sensitivity-{source.name}-{settings.model}"
    )
    return settings


def planned(settings: flags.FlagValues) -> list[studies.Run]:
    """All runs that the flags ask for."""
    return list(
        studies.runs(
            settings.studies,
            sparsities=study_flags.numbers(settings, "sparsities", float),
            ablation_sparsities=study_flags.numbers(
                settings, "ablation_sparsities", float
            ),
            freeze_at=study_flags.numbers(settings, "freeze_at", int),
            periods=study_flags.numbers(settings, "periods", int),
            seeds=study_flags.numbers(settings, "seeds", int),
        )
    )


def run(settings: flags.FlagValues) -> None:
    """Makes the runs that are missing, then draws what there is."""
    folder = pathlib.Path(settings.run_dir)
    run_folder.check(folder, settings, study_flags.GROUPS)
    source = data.find(settings.dataset, "image")
    source.check(settings.data_dir)
    with quiet_start(settings.verbose):
        import tensorflow as tf

        from launch.studies import plot as sensitivity_plot

        if settings.deterministic:
            tf.config.experimental.enable_op_determinism()
        tf.config.list_logical_devices()  # what it logs of them, too, is not shown
    results = folder / RESULTS_FILE
    if not results.is_file():
        check_scopes(planned(settings), settings)  # before the folder keeps the flags
    with run_folder.claim(folder, settings, study_flags.GROUPS):
        done = {_key(row) for row in read(results)}
        missing = [one for one in planned(settings) if _key(vars(one)) not in done]
        if missing:
            images = source.open(settings.data_dir).subset(settings.train_examples)
            _make(missing, settings, images, results)
        rows = read(results)
        print(sensitivity_plot.table(rows))
        for path in sensitivity_plot.draw(rows, folder):
            print(f"drawn: {path}")


def _make(
    missing: Sequence[studies.Run],
    settings: flags.FlagValues,
    images: data.ImageData,
    results: pathlib.Path,
) -> None:
    """Makes runs, one after the other, and prints a line for each."""
    status = terminal.Status(sys.stdout)
    begin = time.monotonic()
    for number, one in enumerate(missing, start=1):
        value = f" {one.value}" if one.value else ""
        name = (
            f"{number}/{len(missing)}  {one.study}{value} {one.sparsity:g} #{one.seed}"
        )

        def show(step: int, steps: int, name: str = name) -> None:
            if status.is_due:
                status.draw(name, f"step {step}/{steps}")

        try:
            row = train(one, settings, images, show)
        finally:
            status.clear()
        append(results, row)
        accuracy = f"test accuracy {row['test_accuracy']:.2%}"
        left = (time.monotonic() - begin) / number * (len(missing) - number)
        parts = (
            name,
            "diverged" if row["diverged"] else accuracy,
            f"{terminal.duration(left)} left",
            f"{terminal.duration(row['seconds'])} taken",
        )
        most = terminal.columns(sys.stdout)
        print(terminal.fitted(list(enumerate(parts)), most), flush=True)


def check_scopes(runs: Sequence[studies.Run], settings: flags.FlagValues) -> None:
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
    one: studies.Run, settings: flags.FlagValues, total_steps: int | None = None
) -> Any:
    """The scope in which the network of one run is built, however long that is."""
    del total_steps
    from swat_tf import swat_scope

    arguments = one.scope_arguments(settings.topk_period, settings.errors_per)
    if arguments is None:
        return contextlib.nullcontext()
    sparsity = arguments.pop("sparsity", one.sparsity)
    return swat_scope(sparsity, exempt=tuple(settings.exempt), **arguments)


def train(
    one: studies.Run,
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
        **_arguments(one, settings),
    }


def _arguments(one: studies.Run, settings: flags.FlagValues) -> dict[str, str]:
    """`ARGUMENTS` of a run, as text; what the scope takes by default is empty."""
    scope = one.scope_arguments(settings.topk_period, settings.errors_per) or {}
    asked = {**scope, "exempt": settings.exempt} if scope else {}
    given = {name: settings[name].value for name in ARGUMENTS if name not in _OF_SCOPE}
    given |= {name: asked.get(name) for name in _OF_SCOPE}
    return {name: _cell(given[name]) for name in ARGUMENTS}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ",".join(value) or "none"
    return str(value)


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of a results file; a line that a kill cut short is left out."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        last = (reader.fieldnames or ["seconds"])[-1]
        # An argument may be empty; a line that was cut short has no such cell.
        rows = [row for row in reader if row[last] is not None and row["seconds"]]
    return [
        {name: _KINDS.get(name, float)(row.get(name, "")) for name in COLUMNS}
        for row in rows
    ]


def append(path: pathlib.Path, row: dict[str, Any]) -> None:
    """Adds a row to a results file, which is replaced as a whole."""
    from launch.support import files

    files.write_text(path, files.csv_text([*read(path), row]))


def _key(row: dict[str, Any]) -> tuple:
    return row["study"], float(row["sparsity"]), int(row["value"]), int(row["seed"])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
