"""Tables of simulated cycles, and of machines beside the published speed-ups."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from launch.cycles.subject import Subject
from swat_tf.simulator import PUBLISHED, SETTINGS, SimulationReport
from swat_tf.simulator.published import NOT_THE_AUTHORS, REASONS, band
from swat_tf.simulator.report import LEGEND, PARTS
from topkast_tf.analysis.columns import aligned

_COLUMNS = 96


def simulated(
    machine: str, found: Sequence[tuple[Subject, SimulationReport]], most: int | None
) -> str:
    """The cycles of networks on one machine.

    Args:
      machine: its parameters in words.
      found: each network with its cycles.
      most: layers that are shown; None: all.
    """
    parts, notes = [f"Machine: {machine}."], [LEGEND]
    for subject, report in found:
        parts += ["", subject.title, report.table(most), *report.notes()]
        notes += subject.notes
        if subject.resnet50_at in PUBLISHED:
            forward, backward = PUBLISHED[subject.resnet50_at]
            ours = [f"{report.speed_up(part):.2f}x" for part in PARTS]
            notes.append(
                f"SWAT has published {forward}x forward and {backward}x backward for "
                f"ResNet-50 at {subject.resnet50_at:g}; here {ours[0]} and {ours[1]}. "
                f"{NOT_THE_AUTHORS} --compare shows nine machines beside them, and says "
                "what would explain the difference."
            )
    return _paragraphs(*parts, "", *dict.fromkeys(notes))


def compared(subject: Subject, reports: Mapping[str, SimulationReport]) -> str:
    """The speed-ups of several machines, as a band beside the published ones.

    Args:
      subject: what was simulated.
      reports: name of `swat_tf.simulator.SETTINGS` -> its cycles.
    """
    rows = [("", "", *PARTS, "with memory")]
    for name, report in reports.items():
        figures = (f"{report.speed_up(part):.2f}x" for part in PARTS)
        with_memory = f"{report.speed_up(memory=True):.2f}x"
        rows.append((name, SETTINGS[name][0], *figures, with_memory))
    bands = {
        part: {name: report.speed_up(part) for name, report in reports.items()}
        for part in PARTS
    }
    first = next(iter(reports.values()))
    counted = (f"{first.counted(part):.2f}x" for part in PARTS)
    rows.append(("counted", "every zero saves its time", *counted, ""))
    notes = [f"Ours: {', '.join(f'{part} {band(bands[part])}' for part in PARTS)}."]
    if subject.resnet50_at in PUBLISHED:
        forward, backward = PUBLISHED[subject.resnet50_at]
        published = (f"{forward:.2f}x", f"{backward:.2f}x", "", "")
        rows.append(("published", "SWAT, ResNet-50 on ImageNet", *published))
    if not subject.resnet50_at:
        notes.append(
            "SWAT has published speed-ups of ResNet-50 at 0.8 and 0.9, uniformly, alone."
        )
    lines = aligned(rows, left=(0, 1))
    lines.insert(1, "-" * max(map(len, lines)))
    return _paragraphs(
        subject.title,
        "\n".join(lines),
        "Simulated, not measured: dense over compute cycles; with memory: over the larger "
        "of compute and memory cycles of each pass.",
        *notes,
        *subject.notes,
        NOT_THE_AUTHORS,
        "What would explain the difference:",
        *(f"- {reason}" for reason in REASONS),
    )


def rows(
    found: Sequence[tuple[Subject, Mapping[str, SimulationReport]]], compare: bool
) -> list[dict[str, Any]]:
    """The rows of the CSV: for each layer and pass, or for each machine and part.

    Args:
      found: each network with its cycles on machines, by their names.
      compare: whether it is a row for each machine.
    """
    made = []
    for subject, reports in found:
        for name, report in reports.items():
            title = {"network": subject.name, "machine": name}
            if compare:
                title["description"] = SETTINGS[name][0]
                parts = report.as_dict()["parts"].items()
                made += [{**title, "part": part, **_rounded(of)} for part, of in parts]
            else:
                made += [{**title, **_rounded(row.as_dict())} for row in report.rows]
    return made


def as_json(
    found: Sequence[tuple[Subject, Mapping[str, SimulationReport]]],
) -> list[dict[str, Any]]:
    """All figures of each network, by the names of the machines."""
    return [
        {
            "network": subject.name,
            "machines": {name: report.as_dict() for name, report in reports.items()},
        }
        for subject, reports in found
    ]


def _rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in figures.items()
    }


def _paragraphs(*parts: str) -> str:
    """Text: sentences are wrapped, tables are not."""
    return "\n".join(part if "\n" in part else _wrapped(part) for part in parts)


def _wrapped(text: str) -> str:
    indent = "  " * text.startswith("- ")
    return textwrap.fill(
        text, _COLUMNS, subsequent_indent=indent, break_on_hyphens=False
    )
