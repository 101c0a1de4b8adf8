"""The command line that trains a model on images or text, dense or sparse."""

import gc
import pathlib
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from launch import data
from launch.config import flag_help
from launch.config import flags as launch_flags
from launch.config.resolve import resolved, without_effect
from launch.distribute import devices
from launch.storage import environment, report, run_folder
from launch.support import interrupts, terminal
from launch.support.errors import (
    BAD_INPUT,
    DIVERGED,
    LOST_WORKER,
    RunDiverged,
    UserError,
    WorkerLost,
)
from launch.support.quiet import quiet_start
from launch.tasks import metrics_of, task_of


def main(argv: Sequence[str]) -> int:
    """Runs the command line.

    Args:
      argv: the program's name, then its arguments.

    Returns:
      The exit code: 0; 2 for a mistake that one sentence on stderr explains; 3 if another
      worker of the job is lost; 4 for a run whose loss is no longer finite; 130 after
      Ctrl-C and 143 after SIGTERM, both with a checkpoint of the last step.
    """
    help_text = flag_help.asked_for_help(argv)
    if help_text:
        terminal.show(help_text)
        return 0
    try:
        with interrupts.handled():
            settings = resolved(launch_flags.parse(argv))
            run_folder.check_flagfiles(argv, settings)
            if devices.worker_of(settings).is_chief:
                for sentence in launch_flags.overruled(argv):
                    terminal.note(sentence)
            run(settings)
    except RunDiverged as error:
        terminal.error(error)
        return DIVERGED
    except UserError as error:
        terminal.error(error)
        return BAD_INPUT
    except WorkerLost as error:
        terminal.error(error)
        return LOST_WORKER
    except BrokenPipeError:
        terminal.stop_writing()
        terminal.error(
            "the reader of the output is gone: the same command resumes from the last "
            "checkpoint."
        )
        return BAD_INPUT
    except OSError as error:
        # A full disk, a missing permission, a deleted file: the user must fix it. Every
        # file was either replaced completely or left unchanged.
        terminal.error(
            f"{error}: fix that, and the same command resumes from the last checkpoint."
        )
        return BAD_INPUT
    except interrupts.Interrupted as asked:
        terminal.note(str(asked))
        return asked.exit_code
    return 0


def run(settings: flags.FlagValues) -> None:
    """Trains the methods that the flags name, or resumes them, and prints the table.

    Mistakes are reported, if possible, before TensorFlow is imported and before anything
    is written.

    Args:
      settings: the resolved flags.

    Raises:
      UserError: see `main`.
    """
    worker = devices.worker_of(settings)
    if worker.is_chief:
        for choice, ignored in without_effect(settings).items():
            names = ", ".join(f"--{name}" for name in ignored)
            terminal.warning(f"without effect with --{choice}: {names}.")
    run_dir = pathlib.Path(settings.run_dir)
    methods = [settings.method]
    if settings.compare_dense:
        methods.insert(0, "dense")
    run_folder.check(run_dir, settings)
    metrics = metrics_of(settings).metrics
    results = [run_folder.finished(run_dir, method, metrics) for method in methods]
    if not all(results):
        results = _train(settings, run_dir, methods)
    if worker.is_chief:
        terminal.show(report.text(run_dir, results, metrics_of(settings)))


def _train(
    settings: flags.FlagValues, run_dir: pathlib.Path, methods: Sequence[str]
) -> list[dict]:
    source = data.find(settings.dataset)
    source.check(settings.data_dir)
    with quiet_start(settings.verbose):
        import tensorflow as tf

        from launch.distribute import strategies
        from launch.run import building, failures, training

        if settings.deterministic:
            tf.config.experimental.enable_op_determinism()
        strategies.start(settings)
        # Before the folder is created: the scope may refuse its arguments.
        task = task_of(settings)
        with failures.memory_named():
            building.build(task, settings.method)
        gc.collect()  # its weights, and their files
    worker = devices.worker_of(settings)
    with (
        failures.memory_named(),
        failures.missing_kernels_named(),
        strategies.losses_named(settings),
        strategies.claimed(run_dir, settings),
    ):
        task.load()
        run_folder.check_data(run_dir, task.data_digest, first=worker.is_chief)
        if worker.is_chief:
            environment.record(run_dir)
        results = []
        for method in methods:
            result = run_folder.finished(run_dir, method, metrics_of(settings).metrics)
            results.append(result or training.train(task, method))
        if worker.is_chief:
            report.write_results(run_dir, results, settings)
    return results


if __name__ == "__main__":
    sys.exit(main(sys.argv))
