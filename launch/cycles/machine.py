"""The machine that the flags describe."""

import dataclasses

from absl import flags

from launch.config.simulate_flags import BUFFERS, MACHINE
from launch.support.errors import UserError
from swat_tf.simulator import Accelerator, SystolicArray, preset

_MIB = 2**20


def machine_of(values: flags.FlagValues) -> Accelerator | SystolicArray:
    """The machine of --preset, with the parameters that other flags give.

    Raises:
      UserError: for parameters that do not belong together.
    """
    found = preset(values.preset)
    buffers = {
        field: values[name].value
        for name, field in BUFFERS.items()
        if values[name].value is not None
    }
    given = {
        name: values[name].value for name in MACHINE if values[name].value is not None
    }
    try:
        memory = dataclasses.replace(found.memory, **buffers)
        return dataclasses.replace(found, memory=memory, **given)
    except ValueError as error:
        raise UserError(str(error)) from error


def described(machine: Accelerator | SystolicArray) -> str:
    """The parameters of a machine in a line or two.

    >>> described(preset("systolic_output")).partition(";")[0]
    'array of 32 x 32 multipliers, stationary: output'
    """
    if isinstance(machine, SystolicArray):
        own = (
            f"array of {machine.rows} x {machine.columns} multipliers, stationary: "
            f"{machine.stationary}"
        )
    else:
        own = (
            f"{machine.tiles} tiles of {machine.rows} rows x {machine.columns} columns "
            f"x {machine.lanes} lanes, {_interconnect(machine)}"
        )
    memory = machine.memory
    return (
        f"{own}; {machine.clock / 1e9:g} GHz, values of {machine.value_bits} bits, "
        f"{memory.bandwidth / 1e9:g} GB/s to memory; buffers of "
        f"{memory.activations / _MIB:g} (activations), {memory.weights / _MIB:g} (weights) "
        f"and {memory.outputs / _MIB:g} MiB (sums)"
    )


def _interconnect(machine: Accelerator) -> str:
    if machine.interconnect == "none":
        return "zeros are multiplied"
    rows = "together" if machine.synchronised else "free"
    how = "ideal packing"
    if machine.interconnect == "window":
        places = f"h={machine.look_ahead}, d={machine.look_aside}, {machine.shape}"
        how = f"window {places}"
    padding = ", padding skipped" if machine.skips_padding else ""
    return f"{how}, rows {rows}, skips: {machine.skips}{padding}"
