"""The command line that simulates the cycles of a training step on an accelerator."""

import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from launch.config import simulate_flags
from launch.config.flag_help import asked_for_help
from launch.support import files, terminal
from launch.support.errors import BAD_INPUT, UserError
from launch.support.quiet import quiet_start

if TYPE_CHECKING:
    from launch.cycles.subject import Subject


def main(argv: Sequence[str]) -> int:
    """Runs the command line.

    Args:
      argv: the program's name, then its arguments.

    Returns:
      The exit code: 0; 2 for a mistake that one sentence on stderr explains.
    """
    help_text = asked_for_help(argv, simulate_flags.HEAD, simulate_flags.GROUPS)
    if help_text:
        terminal.show(help_text)
        return 0
    try:
        run_dir, values = simulate_flags.parse(argv)
        terminal.show(run(run_dir, values))
    except (UserError, OSError) as error:
        terminal.error(error)
        return BAD_INPUT
    return 0


def run(run_dir: pathlib.Path | None, values: flags.FlagValues) -> str:
    """Simulates what the flags describe.

    Args:
      run_dir: the folder of a run; None: a network with random masks.
      values: from `simulate_flags.parse`.

    Returns:
      Tables, or JSON. The CSV of --csv is written.

    Raises:
      UserError: for a run, a network or a machine that cannot be simulated.
    """
    csv = pathlib.Path(values.csv) if values.csv else None
    if csv is not None and (csv.is_dir() or not csv.parent.is_dir()):
        raise UserError(
            f"Expected --csv, a file in an existing folder. Received: {csv}"
        )
    with quiet_start(values.verbose):
        import tensorflow as tf

        from launch.cycles import machine, tables

        tf.config.list_logical_devices()  # so that its log messages are hidden, too
    own = None if values.compare else machine.machine_of(values)
    found = [
        (subject, dict(_reports(subject, own, values)))
        for subject in _subjects(run_dir, values)
    ]
    if csv is not None:
        files.write_text(csv, files.csv_text(tables.rows(found, values.compare)))
    if values.json:
        return json.dumps(tables.as_json(found))
    if own is None:
        return "\n\n".join(tables.compared(*each) for each in found)
    of_one = [(subject, reports[values.preset]) for subject, reports in found]
    return tables.simulated(machine.described(own), of_one, values.layers or None)


def _subjects(
    run_dir: pathlib.Path | None, values: flags.FlagValues
) -> Iterator["Subject"]:
    if run_dir is None:
        from launch.cycles.of_model import of_model

        yield of_model(values)
    else:
        from launch.cycles.of_run import of_run

        yield from of_run(run_dir, values)


def _reports(
    subject: "Subject", machine: Any, values: flags.FlagValues
) -> Iterator[tuple[str, Any]]:
    """(name of a machine, report) of the machine, or of all that are compared."""
    from swat_tf.simulator import SETTINGS

    if machine is not None:
        machines = {values.preset: machine}
    else:
        machines = {name: each for name, (_, each) in SETTINGS.items()}
    status = terminal.Status(sys.stderr)
    for name, each in machines.items():

        def show(done: int, every: int, name: str = name) -> None:
            if status.is_due:
                status.draw(subject.name, terminal.bar(done / every, sys.stderr), name)

        try:
            yield name, subject.simulated(each, values, show)
        finally:
            status.clear()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
