"""The sections on what runs cost, and on what they were: flags, versions, machine."""

from collections.abc import Iterable, Sequence
from typing import Any

from launch.cycles.of_run import EXAMPLES
from launch.reports import markup
from launch.reports.costs import Costed, CostRow, cost_rows
from launch.reports.cycles import MACHINE
from launch.reports.groups import Group, dense_of, differing
from launch.reports.records import Record
from launch.reports.weights import Weights
from launch.storage.environment import Environment

_COUNTED = (
    "Counted: a multiply and an add are two FLOPs, only products count, at the achieved "
    "sparsities; selecting the sets takes integer operations beside that, over all steps. "
    "Memory is that of topkast_tf.count_memory, with the whole batch on one device: as "
    "this library runs it, and on a device that stores no zeros (docs/memory.md)."
)
_SIMULATED = (
    f"Simulated: cycles of the {MACHINE} preset of swat_tf.simulator, with the masks of "
    f"the last checkpoint and activations of at most {EXAMPLES} training examples; dense: "
    "zeros are multiplied, too (docs/simulator.md)."
)
_MEASURED = (
    "Measured: means over the seeds of the runs given here, on the machines below; the "
    "time of a run has evaluation and compilation in it, and the build of the native "
    "kernels where they are new. Only layers with native kernels are faster for being "
    "sparse; others multiply by the zeros of their masks."
)
_NO_DENSE = (
    "No dense run with the same flags is given, so its times are not known: train one "
    "with --compare_dense or --method=dense."
)
_NAMES = {
    "topkast_tf": "topkast_tf",
    "memory_gib": "memory (GiB)",
    "cores": "cores of the process",
    "threads": "threads of an operation",
}


def costs(groups: Sequence[Group], weights: dict[str, Weights | str], unit: str) -> str:
    """The table of costs of each group, beside those of its dense network.

    Args:
      groups: the groups.
      weights: label -> those of its longest run, or why there are none.
      unit: what FLOPs are counted for.
    """
    blocks, any_simulated = [], False
    sparse = [group for group in groups if not group.is_dense]
    for group in sparse or groups:
        dense = dense_of(group, groups)
        found = weights[group.label]
        read = None if isinstance(found, str) else found
        rows = cost_rows(Costed(group, dense, read, unit))
        table = _table if sparse else _dense_table
        notes = [] if dense else [_NO_DENSE]
        if read is not None and read.memory is not None:
            notes += [f"Memory: {note}" for note in read.memory.notes]
        if read is not None and read.cycles is not None:
            notes += [f"Simulation: {note}" for note in read.cycles.notes]
            any_simulated = True
        noted = "".join(markup.paragraph(note, "note") for note in notes)
        blocks.append(table(group.label, rows) + noted)
    words = [_COUNTED, *([_SIMULATED] if any_simulated else []), _MEASURED]
    said = [markup.paragraph(sentences, "note") for sentences in words]
    parts = [*said, markup.tables(blocks)]
    return markup.section("costs", "Costs", parts)


def _table(label: str, rows: Sequence[CostRow]) -> str:
    cells = [("cost", "source", "dense", "sparse", "ratio")]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        dense, sparse = (
            "" if number is None else row.shown(number)
            for number in (row.dense, row.sparse)
        )
        cells.append((row.name, row.kind, dense, sparse, ratio))
    return markup.table(cells, f"{label} beside the dense network", left=(0, 1))


def _dense_table(label: str, rows: Sequence[CostRow]) -> str:
    cells = [("cost", "source", "dense")]
    for row in rows:
        shown = "" if row.dense is None else row.shown(row.dense)
        cells.append((row.name, row.kind, shown))
    return markup.table(cells, label, left=(0, 1))


def flags(groups: Sequence[Group]) -> str:
    """The flags of all groups: those that differ, then those in common.

    Args:
      groups: the groups.
    """
    names = differing(groups)
    parts = []
    if len(groups) > 1:
        rows = [("flag", *(group.label for group in groups))]
        rows += [
            (f"--{name}", *(group.flags.get(name) or "–" for group in groups))
            for name in names
        ]
        rows.append(("--seed", *(group.seeds for group in groups)))
        left = tuple(range(len(groups) + 1))
        parts.append(markup.table(rows, "Flags in which the runs differ", left=left))
    same: dict[str, str] = {}
    for group in groups:
        for name, value in group.flags.items():
            if value and name not in names:
                same[f"--{name}"] = value
    if len(groups) == 1:
        same["--seed"] = groups[0].seeds
    caption = "Flags that are the same wherever they have an effect"
    table = markup.table([("flag", "value"), *same.items()], caption, left=(0, 1))
    parts.append(markup.folded(f"{len(same)} flags that are the same", table))
    return markup.section("flags", "Flags", parts)


def environments(found: Iterable[tuple[str, Sequence[Environment]]]) -> str:
    """The versions and machines that runs were trained with.

    Args:
      found: (name of a run, what it has recorded).
    """
    columns: list[tuple[Environment, list[str]]] = []
    without = []
    for name, recorded in found:
        for one in recorded:
            known = [names for other, names in columns if other == one]
            if not known:
                columns.append((one, [name]))
            elif name not in known[0]:
                known[0].append(name)
        if not recorded and name not in without:
            without.append(name)
    parts = []
    if columns:
        heads = [
            "all runs" if len(columns) == 1 and not without else _listed(names)
            for _, names in columns
        ]
        rows: list[Sequence[str]] = [("", *heads)]
        for part in ("versions", "machine"):
            names = dict.fromkeys(name for one, _ in columns for name in one[part])
            for name in names:
                cells = (_shown(name, one[part].get(name)) for one, _ in columns)
                rows.append((_NAMES.get(name, name), *cells))
        left = tuple(range(len(columns) + 1))
        caption = "Recorded at the start of each run"
        parts.append(markup.table(rows, caption, left=left))
    if without:
        of = _listed(without) if columns else "these runs"
        parts.append(
            markup.paragraph(
                f"No versions and no machine are recorded for {of}: their folders are not "
                "here, are of an earlier version, or have no step yet."
            )
        )
    return markup.section("environment", "Versions and machine", parts)


def environments_of(records: Iterable[Record]) -> str:
    """As `environments`, of runs."""
    return environments((record.name, record.environments) for record in records)


def _listed(names: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def _shown(name: str, value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if name == "threads" and value == 0:
        return "TensorFlow's choice"
    return "unknown" if value is None else str(value)
