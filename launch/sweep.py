"""The command line of a sweep: methods x sparsities x seeds, compared."""

import json
import pathlib
import sys
from collections.abc import Sequence

if __name__ == "__main__":
    # Run as a file, Python looks for modules in launch/ and not in the project.
    sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from absl import flags

from launch.config import flag_help, sweep_flags
from launch.storage.report import aligned
from launch.support import terminal
from launch.support.errors import BAD_INPUT, UserError
from launch.sweeps import report, results
from launch.sweeps.running import Place, Sweep, duration, seconds_left
from launch.sweeps.runs import Run, runs_of

_FAILED, _INTERRUPTED = 1, 130


def main(argv: Sequence[str]) -> int:
    """Runs the command line.

    Args:
      argv: the program's name, then its arguments.

    Returns:
      The exit code: 0; 1 if runs have failed; 2 for a mistake that one sentence on stderr
      explains; 130 after an interrupt.
    """
    help_text = flag_help.asked_for_help(argv, sweep_flags.HEAD, sweep_flags.GROUPS)
    if help_text:
        terminal.show(help_text)
        return 0
    try:
        return sweep(sweep_flags.parse(list(argv)))
    except (UserError, OSError) as error:
        terminal.error(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoints.")
        return _INTERRUPTED


def sweep(values: flags.FlagValues) -> int:
    """Runs what is missing, and reports on what there is.

    Args:
      values: from `sweep_flags.parse`.

    Raises:
      UserError: for flags that contradict each other, or a CSV of another sweep.
    """
    folder = pathlib.Path(values.sweep_dir)
    csv = pathlib.Path(values.csv) if values.csv else folder / "sweep.csv"
    rows = results.read(csv)
    if values.report_only:
        given = values.methods or values.variant
        return _report(values, folder, rows, runs_of(values) if given else [])
    runs = runs_of(values)
    left = results.missing(runs, rows)
    if values.dry_run:
        print(_costs(runs, left))
        seconds = seconds_left(left, rows, values.parallel)
        about = "" if seconds is None else f", about {duration(seconds)}"
        print(f"{len(left)} of {len(runs)} runs are left{about}")
        return 0
    print(f"{len(left)} of {len(runs)} runs are left; {csv} gets a row for each")
    place = Place(folder, csv, threads=values.threads)
    found = Sweep(left, place, values.parallel, values.retries)
    found.run()
    values.baseline = values.baseline or runs[0].variant
    rows = results.read(csv)
    code = _report(values, folder, rows, runs) if rows else 0
    if found.failed:
        names = ", ".join(run.name for run in found.failed)
        terminal.warning(f"{len(found.failed)} runs failed: {names}")
        return _FAILED
    return code


def _report(
    values: flags.FlagValues,
    folder: pathlib.Path,
    rows: Sequence[results.Row],
    runs: Sequence[Run],
) -> int:
    rows = results.ordered(rows, runs)
    print(report.write(rows, folder, values.metric, values.baseline))
    print(f"{folder}/pareto.png, variants.png, table.md, table.tex")
    return 0


def _costs(runs: Sequence[Run], left: Sequence[Run]) -> str:
    """A table of what is to be run, with the counted cost of each."""
    found = [
        ("variant", "sparsity", "runs", "left", "training FLOPs a run", "of dense")
    ]
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.variant, run.sparsity), []).append(run)
    for (variant, sparsity), own in groups.items():
        found.append(
            (
                *(variant, sparsity, str(len(own))),
                str(sum(run in left for run in own)),
                *_cost_of(own[0]),
            )
        )
    return aligned(found)


def _cost_of(run: Run) -> tuple[str, str]:
    """Counted FLOPs of a run, and over those of the dense network; as a plan has them."""
    from launch import plan
    from launch.config import plan_flags

    known = {flag.name for _, group in plan_flags.GROUPS for flag in group}
    arguments = [
        text
        for text in run.arguments
        if _name(text) in known or _name(text).removeprefix("no") in known
    ]
    try:
        settings = plan_flags.parse(["launch/plan.py", *arguments, "--json"])
        flops = json.loads(plan.run(settings))["flops"]
    except UserError:
        return "not planned", ""
    return f"{flops['all_sparse']:.3g}", f"{flops['training_ratio']:.3f}"


def _name(argument: str) -> str:
    return argument.lstrip("-").partition("=")[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
