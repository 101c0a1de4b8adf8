"""The command line of the sensitivity study: the accuracy cost of sparsity per pass."""

import pathlib
import sys
import time
from collections.abc import Sequence

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
from launch.studies.results import RESULTS_FILE, append, key_of, read
from launch.studies.training import check_scopes, train
from launch.support import terminal
from launch.support.errors import BAD_INPUT, UserError
from launch.support.quiet import quiet_start

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
        print("interrupted: the same command resumes after the last run.")
        return _INTERRUPTED
    return 0


def resolved(settings: flags.FlagValues) -> flags.FlagValues:
    """Fills in the defaults that depend on other flags and checks the flags together."""
    source = data.find(settings.dataset, "image")
    resolve.of_images(settings, source)
    settings.run_dir = (
        settings.run_dir or f"runs/sensitivity-{source.name}-{settings.model}"
    )
    return settings


def planned(settings: flags.FlagValues) -> list[studies.Run]:
    """All runs of the study that the flags describe."""
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
    """Trains the missing runs, then plots all results."""
    folder = pathlib.Path(settings.run_dir)
    run_folder.check(folder, settings, study_flags.GROUPS)
    source = data.find(settings.dataset, "image")
    source.check(settings.data_dir)
    with quiet_start(settings.verbose):
        import tensorflow as tf

        from launch.plots import sensitivity as figures
        from launch.studies.table import table

        if settings.deterministic:
            tf.config.experimental.enable_op_determinism()
        tf.config.list_logical_devices()  # so that its log messages are hidden, too
    results = folder / RESULTS_FILE
    if not results.is_file():
        check_scopes(planned(settings), settings)  # before the folder keeps the flags
    with run_folder.claim(folder, settings, study_flags.GROUPS):
        done = {key_of(row) for row in read(results)}
        missing = [one for one in planned(settings) if key_of(vars(one)) not in done]
        if missing:
            images = source.open(settings.data_dir).subset(settings.train_examples)
            _make(missing, settings, images, results)
        rows = read(results)
        print(table(rows))
        for path in figures.draw(rows, folder):
            print(f"plotted: {path}")


def _make(
    missing: Sequence[studies.Run],
    settings: flags.FlagValues,
    images: data.ImageData,
    results: pathlib.Path,
) -> None:
    """Trains the runs one after another, and prints a line for each."""
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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
