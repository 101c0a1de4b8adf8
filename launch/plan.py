"""The command line that computes the cost of a run before it starts."""

import functools
import json
import pathlib
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from launch.config import flag_help, plan_flags
from launch.support import terminal
from launch.support.errors import BAD_INPUT, UserError
from launch.support.quiet import quiet_start


def main(argv: Sequence[str]) -> int:
    """Runs the command line.

    Args:
      argv: the program's name, then its arguments.

    Returns:
      The exit code: 0; 2 for a mistake that one sentence on stderr explains.
    """
    help_text = flag_help.asked_for_help(argv, plan_flags.HEAD, plan_flags.GROUPS)
    if help_text:
        terminal.show(help_text)
        return 0
    try:
        settings = plan_flags.parse(argv)
        for sentence in plan_flags.overruled(argv):
            terminal.note(sentence)
        terminal.show(run(settings))
    except (UserError, OSError) as error:
        terminal.error(error)
        return BAD_INPUT
    return 0


def run(settings: flags.FlagValues) -> str:
    """Plans the run or the study that the flags describe.

    Args:
      settings: from `plan_flags.parse`.

    Returns:
      Tables, or JSON.

    Raises:
      UserError: if a necessary size cannot be determined, or the scope refuses its
        arguments.
    """
    with quiet_start(settings.verbose):
        from launch.cost_model import report, study
        from launch.cost_model.plan import plan_of
        from launch.run import sparsity

        if "studies" in settings:
            planned = study.study_of(settings)
            return json.dumps(planned.as_json()) if settings.json else planned.text()
        plan = plan_of(
            settings,
            settings.method,
            functools.partial(sparsity.scope, settings.method, settings),
        )
        return json.dumps(report.as_json(plan)) if settings.json else report.text(plan)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
