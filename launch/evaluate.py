"""The command line that evaluates the models of a run."""

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from launch.config import flags as launch_flags
from launch.config.flag import Flag, Groups
from launch.config.flag_help import asked_for_help
from launch.storage import report, run_folder
from launch.support import terminal
from launch.support.errors import BAD_INPUT, UserError
from launch.support.quiet import quiet_start

GROUPS: Groups = (
    (
        "Evaluation",
        (
            Flag("string", "part", "test", "of a text: test or valid; images: test"),
            Flag(
                "list",
                "memory",
                [],
                "of text: lengths of the memory in states, one evaluation for each; "
                "default as in training",
            ),
            Flag(
                "string",
                "checkpoint",
                "last",
                "last, or best: that of the best evaluation during training",
                choices=("last", "best"),
            ),
            Flag("boolean", "stripped", False, "the stripped model.keras of the run"),
            Flag(
                "string",
                "data_dir",
                None,
                "the present folder of the data; default as in training",
            ),
            Flag("boolean", "verbose", False, "do not silence TensorFlow"),
        ),
    ),
)

HEAD = """\
Evaluates the models of a run of launch/train.py, every method in its folder.

  # on test data
  python launch/evaluate.py runs/quickstart

  # the weights of the best evaluation during training, not the last ones
  python launch/evaluate.py runs/quickstart --checkpoint=best

  # the stripped model, which needs no scope
  python launch/evaluate.py runs/quickstart --stripped

  # a language model with a longer memory than in training
  python launch/evaluate.py runs/quickstart_text --memory=0,64,128,256

Nothing is written. The metrics of an image model are accuracy and
cross-entropy, those of a language model are bits per byte (for bytes),
perplexity and loss in nats (nll): means over all tokens, without penalties.
Each token is predicted once. With --memory=N each token sees the N before it;
with --memory=0, only itself.
"""


def main(argv: Sequence[str]) -> int:
    """Runs the command line.

    Args:
      argv: the program's name, then its arguments.

    Returns:
      The exit code: 0; 2 for a mistake that one sentence on stderr explains.
    """
    help_text = asked_for_help(argv, HEAD, GROUPS)
    if help_text:
        terminal.show(help_text)
        return 0
    try:
        run_dir, asked = _parse(argv)
        terminal.show(run(run_dir, asked))
    except (UserError, OSError) as error:
        terminal.error(error)
        return BAD_INPUT
    return 0


def run(run_dir: pathlib.Path, asked: flags.FlagValues) -> str:
    """Evaluates the methods of a run.

    Args:
      run_dir: the folder of the run.
      asked: the flags of this program.

    Returns:
      A table, with a line for each method and memory.

    Raises:
      UserError: for a folder without a run or without a trained model, and for data
        other than that of the run.
    """
    settings = run_folder.settings_of(run_dir)
    settings.data_dir = asked.data_dir or settings.data_dir
    is_text = _check(settings, asked)
    with quiet_start(asked.verbose):
        import tensorflow as tf

        from launch.callbacks import EvaluationBar
        from launch.tasks import metrics_of, task_of

        task = task_of(settings)
        tf.config.list_logical_devices()  # so that its log messages are hidden, too
    batches = _batches(task, asked.part, is_text)
    run_folder.check_data(run_dir, task.data_digest, first=False)
    metrics = [f for f in metrics_of(settings).metrics if f.log.startswith("val_")]
    rows = [("", *(metric.log.removeprefix("val_") for metric in metrics))]
    for method, model in _models(run_dir, asked):
        task.compile(model, "sgd")
        for memory in asked.memory or [None]:
            name = method
            if memory is not None:
                model.evaluation_memory_length = int(memory)
                name = f"{method}, memory {memory}"
            found = model.evaluate(
                batches,
                verbose=0,
                return_dict=True,
                callbacks=[*task.callbacks(), EvaluationBar(name, sys.stderr)],
            )
            shown = (f.shown(found[f.log.removeprefix("val_")]) for f in metrics)
            rows.append((name, *shown))
    if len(rows) == 1:
        raise UserError(
            f"Expected a run with a {'finished' if asked.stripped else 'saved'} model. "
            f"Received: {run_dir}, which has none yet"
        )
    return report.aligned(rows)


def _parse(argv: Sequence[str]) -> tuple[pathlib.Path, flags.FlagValues]:
    values, folders = launch_flags.known(argv, GROUPS)
    if len(folders) != 1:
        raise UserError(
            f"Expected the folder of one run, and flags. Received: {folders or 'none'}"
        )
    return pathlib.Path(folders[0]), values


def _check(settings: flags.FlagValues, asked: flags.FlagValues) -> bool:
    """Checks the flags of this program; returns whether the run is trained on text."""
    from launch import data

    source = data.find(settings.dataset)
    is_text = source.kind == "text"
    parts = ("test", "valid") if is_text else ("test",)
    if asked.part not in parts:
        raise UserError(
            f"Expected --part to be one of {', '.join(parts)}. Received: {asked.part!r}"
        )
    if asked.memory and not is_text:
        raise UserError(
            f"Expected no --memory for images. Received: {','.join(asked.memory)}"
        )
    if not all(memory.isdigit() for memory in asked.memory):
        raise UserError(
            "Expected --memory to be whole numbers with commas between them. "
            f"Received: {','.join(asked.memory)}"
        )
    if asked.checkpoint == "best" and asked.stripped:
        raise UserError(
            "Expected --stripped without --checkpoint, as it has the last weights. "
            "Received: --checkpoint=best"
        )
    source.check(settings.data_dir)
    return is_text


def _batches(task: Any, part: str, is_text: bool) -> Any:
    task.load()
    return task.evaluation_batches(part=part) if is_text else task.evaluation_batches()


def _models(
    run_dir: pathlib.Path, asked: flags.FlagValues
) -> Iterator[tuple[str, Any]]:
    """(method, model) of each trained model."""
    from launch.run.trained import stripped_models, trained_models

    if asked.stripped:
        return stripped_models(run_dir)
    return trained_models(run_dir, asked.checkpoint)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
