"""The command line that writes a page on runs or on a sweep."""

import pathlib
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from launch.config import flag_help, report_flags
from launch.reports.inputs import inputs_of
from launch.reports.page import earlier_files
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
    help_text = flag_help.asked_for_help(argv, report_flags.HEAD, report_flags.GROUPS)
    if help_text:
        terminal.show(help_text)
        return 0
    try:
        terminal.show(run(*report_flags.parse(argv)))
    except (UserError, OSError) as error:
        terminal.error(error)
        return BAD_INPUT
    return 0


def run(asked: flags.FlagValues, paths: Sequence[str]) -> str:
    """Writes the page.

    Args:
      asked: the flags of this program.
      paths: folders of runs, or the CSV of a sweep.

    Returns:
      What has been written, and what is worth knowing of it.

    Raises:
      UserError: for other paths, damaged files, or a folder that cannot take the page.
    """
    inputs = inputs_of(paths)
    if asked.baseline and inputs.sweep is None:
        raise UserError(
            "Expected --baseline with the CSV of a sweep, whose table compares with it. "
            f"Received: --baseline={asked.baseline} with runs"
        )
    folder = pathlib.Path(asked.out) if asked.out else inputs.folder
    earlier_files(folder)  # a mistake is reported before the work
    with quiet_start(asked.verbose):
        import tensorflow as tf

        from launch.reports import making

        tf.config.list_logical_devices()  # so that its log messages are hidden, too
    page = making.made(
        inputs,
        asked.metric,
        asked.layers,
        data_dir=asked.data_dir,
        baseline=asked.baseline,
        simulate=asked.simulate,
    )
    path = making.write(page, folder)
    size = len(page.html.encode()) / 2**20
    lines = [f"{path} ({size:.1f} MiB), with {len(page.files)} PNGs beside it"]
    if size > making.LARGE:
        lines.append(
            f"The page is large: a smaller --layers than {asked.layers} helps."
        )
    return "\n".join([*lines, *page.notices])


if __name__ == "__main__":
    sys.exit(main(sys.argv))
