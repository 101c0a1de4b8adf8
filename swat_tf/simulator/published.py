"""SWAT's published simulated speed-ups, and the settings that they are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from swat_tf.simulator.accelerator import Accelerator
from swat_tf.simulator.presets import TCL

PUBLISHED: dict[float, tuple[float, float]] = {0.8: (3.3, 3.4), 0.9: (5.6, 6.3)}
"""Sparsity -> (forward, backward) speed-up of ResNet-50 on ImageNet.

Source: the poster of SWAT (Raihan & Aamodt, NeurIPS 2020). Its simulator is an extension
of DNNsim; tiles, rows, the interconnect and what is skipped in which pass are not
published.
"""


def _changed(**parameters: object) -> Accelerator:
    return dataclasses.replace(TCL, **parameters)  # type: ignore[arg-type]


SETTINGS: dict[str, tuple[str, Accelerator]] = {
    "window2": ("h=2, d=5, rows of 16 together", TCL),
    "window2_free": ("h=2, d=5, rows free", _changed(synchronised=False)),
    "window6": ("h=6, d=5, rows of 16 together", _changed(look_ahead=6)),
    "window6_wide": (
        "h=6, d=11, rows of 4 together",
        _changed(look_ahead=6, look_aside=11, rows=4),
    ),
    "ideal16": ("ideal, rows of 16 together", _changed(interconnect="ideal")),
    "ideal4": ("ideal, rows of 4 together", _changed(interconnect="ideal", rows=4)),
    "ideal16_tile": (
        "ideal, rows of 16 together, one tile, padding skipped",
        _changed(interconnect="ideal", tiles=1, skips_padding=True),
    ),
    "ideal4_tile": (
        "ideal, rows of 4 together, one tile, padding skipped",
        _changed(interconnect="ideal", rows=4, tiles=1, skips_padding=True),
    ),
    "ideal_free": (
        "ideal, rows free, one tile, padding skipped",
        _changed(interconnect="ideal", tiles=1, synchronised=False, skips_padding=True),
    ),
}
"""Name -> (description, machine). Unless it says otherwise: 16 tiles, rows, columns and
lanes, zeros skipped as SWAT has them, and not those of padding."""

NOT_THE_AUTHORS = (
    "This is not the authors' simulator, whose parameters are not published; their figures "
    "are shown to compare with, and ours are not meant to meet them."
)
REASONS = (
    "A window of h lines ahead cannot exceed h + 1 times the dense speed, 3x at h = 2: "
    "5.6x and 6.3x need a window of 6 or more, or packing without such a bound.",
    "Rows that advance together wait for the one with the most values, and so do tiles "
    "that share a layer; fewer rows and tiles wait less.",
    "A dense first layer of 3 channels fills 3 of 16 lanes, and takes a larger part of the "
    "forward pass the sparser the others are, unless padding is skipped, too.",
    "Random masks are even; trained ones, and activations, are less so, so that rows wait "
    "more.",
)
"""What would explain a difference from the published speed-ups."""


def band(speed_ups: Mapping[str, float]) -> str:
    """The range of the speed-ups of several settings.

    >>> band({"a": 2.0, "b": 3.456})
    '2.00x to 3.46x'
    """
    return f"{min(speed_ups.values()):.2f}x to {max(speed_ups.values()):.2f}x"
