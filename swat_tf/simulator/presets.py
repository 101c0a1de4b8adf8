"""Machines by name, with the source of each parameter.

Grades: *read* in the source named; *from memory* of the paper, whose text was not at
hand; *derived* from such values; *assumed* where nothing is known.
"""

from __future__ import annotations

from swat_tf.simulator.accelerator import Accelerator
from swat_tf.simulator.checks import check_choice
from swat_tf.simulator.memory import Memory
from swat_tf.simulator.systolic import STATIONARY, SystolicArray

_MIB = 2**20
_GIB = 2**30

DDR4_3200 = 25.6e9
"""Bytes per second of one channel: 3,200 million transfers of 8 bytes (derived)."""

_DNNSIM = Memory(activations=_GIB, weights=_GIB, outputs=4 * _MIB, bandwidth=DDR4_3200)

DADIANNAO = Accelerator(
    tiles=16,
    rows=16,
    columns=16,
    lanes=16,
    clock=1e9,
    value_bits=16,
    memory=_DNNSIM,
)
"""A dense machine in the manner of DaDianNao.

16 tiles, 16 rows, 16 columns, 16 lanes, 16 bits, 1 GHz, one channel of DDR4-3200 and
buffers of 1 GiB: DNNsim's stand-in (read). The chip itself (from memory): 1 column,
606 MHz, 32 MiB for weights and 4 MiB for activations in eDRAM, and no DRAM. The buffer
of sums is assumed.
"""

TCL = Accelerator(
    tiles=16,
    rows=16,
    columns=16,
    lanes=16,
    clock=1e9,
    value_bits=16,
    memory=_DNNSIM,
    interconnect="window",
    metadata="select",
)
"""Bit-Tactical: weights are scheduled ahead, by h = 2, d = 5.

16 rows, columns and lanes (from memory); 16 tiles and the rest are DNNsim's stand-in for
DaDianNao (read). The paper's machine skips weights in inference and multiplies activations
bit by bit; here a product takes a cycle, and training skips activations in the weight
gradient, as an extension to SWAT must.
"""

TENSORDASH = Accelerator(
    tiles=16,
    rows=4,
    columns=4,
    lanes=16,
    clock=500e6,
    value_bits=16,
    memory=Memory(
        activations=16 * _MIB,
        weights=16 * _MIB,
        outputs=16 * _MIB,
        bandwidth=25.6e9,
    ),
    interconnect="window",
    skips="sparser",
)
"""TensorDash: the sparser operand is scheduled in hardware, by h = 2, d = 5, shape T.

The 8 inputs of a multiplier are read in the abstract. 16 tiles of 4 x 4 groups of 16
multipliers, 500 MHz, bfloat16, three buffers of 4 banks of 256 KiB in each tile, and four
channels of LPDDR4-3200 are from memory; that four channels of 16 bits give 25.6 GB/s is
derived.
"""

_SYSTOLIC_MEMORY = Memory(
    activations=_MIB, weights=_MIB, outputs=_MIB, bandwidth=DDR4_3200
)

PRESETS: dict[str, Accelerator | SystolicArray] = {
    "dadiannao": DADIANNAO,
    "tcl": TCL,
    "tensordash": TENSORDASH,
    **{
        f"systolic_{stationary}": SystolicArray(
            32, 32, stationary, 1e9, 16, _SYSTOLIC_MEMORY
        )
        for stationary in STATIONARY
    },
}
"""Name -> machine. The systolic arrays are 32 x 32, the size of SCALE-Sim's golden reports
(read); their clock and memory are assumed."""


def preset(name: str) -> Accelerator | SystolicArray:
    """A machine by name; `dataclasses.replace` changes its parameters.

    Args:
      name: one of `PRESETS`.

    Raises:
      ValueError: for another name.

    >>> import dataclasses
    >>> chip = dataclasses.replace(preset("dadiannao"), columns=1, clock=606e6)
    >>> chip.multipliers
    4096
    """
    check_choice("name", name, tuple(PRESETS))
    return PRESETS[name]
