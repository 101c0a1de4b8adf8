"""The methods of a run, by name, and their flags.

A new method needs a file here and an entry in `METHODS`, in addition to the method itself
in `topkast_tf.methods`.
"""

from launch.config.flag import POWER, SHARE, Flag, Groups
from launch.config.methods import (
    acdc,
    before_training,
    cs,
    dense,
    dnw,
    dsg,
    dsr,
    dst,
    filters,
    granet,
    meprop,
    mest,
    nm,
    pruning,
    rigl,
    small_dense,
    snfs,
    spartan,
    srigl,
    static,
    swat,
    topkast,
    topkast_swat,
)
from launch.config.methods import set as set_
from launch.config.methods import str as str_
from launch.config.methods.base import RunMethod

METHODS: dict[str, RunMethod] = {
    "dense": dense.METHOD,
    "small_dense": small_dense.METHOD,
    "topkast": topkast.METHOD,
    "swat": swat.METHOD,
    "topkast_swat": topkast_swat.METHOD,
    "meprop": meprop.METHOD,
    "dsg": dsg.METHOD,
    "static": static.METHOD,
    "set": set_.METHOD,
    "set_itop": set_.ITOP,
    "rigl": rigl.METHOD,
    "rigl_itop": rigl.ITOP,
    "srigl": srigl.METHOD,
    "snfs": snfs.METHOD,
    "dsr": dsr.METHOD,
    "mest": mest.METHOD,
    "granet": granet.METHOD,
    "pruning": pruning.METHOD,
    "acdc": acdc.METHOD,
    "dnw": dnw.METHOD,
    "str": str_.METHOD,
    "dst": dst.METHOD,
    "cs": cs.METHOD,
    "spartan": spartan.METHOD,
    "nm": nm.METHOD,
    "filters": filters.METHOD,
    "snip": before_training.SNIP,
    "grasp": before_training.GRASP,
    "synflow": before_training.SYNFLOW,
}
"""Value of --method -> the method."""

DISTRIBUTIONS = tuple(
    dict.fromkeys(name for each in METHODS.values() for name in each.distributions)
)
"""The names that --distribution may have, of any method."""


def methods_with(distribution: str) -> list[str]:
    """The methods that may have a distribution of this name."""
    return [n for n, each in METHODS.items() if distribution in each.distributions]


def without_effect(method: str) -> set[str]:
    """The flags of other methods, which do not apply to this one."""
    every = {name for each in METHODS.values() for name in each.flag_names}
    return every - METHODS[method].flag_names


def _distribution_help() -> str:
    sparse = [name for name, each in METHODS.items() if each.distributions]
    shown = []
    for name in DISTRIBUTIONS:
        having = methods_with(name)
        shown.append(name if having == sparse else f"{name} ({', '.join(having)})")
    return f"{', '.join(shown)}, or a JSON mapping of regex to sparsity"


COMMON = (
    Flag(
        "string",
        "method",
        "topkast",
        "; ".join(f"{name}: {each.about}" for name, each in METHODS.items()),
        choices=tuple(METHODS),
    ),
    Flag(
        "boolean",
        "compare_dense",
        False,
        "first train the dense twin: same seed, same steps, same batches",
    ),
    Flag(
        "float",
        "sparsity",
        0.9,
        "of the weights (with SWAT also of the activations; with DSG of the outputs "
        "alone), a fraction of zeros; Top-KAST uses --fwd",
        range=SHARE,
    ),
    Flag("string", "distribution", "uniform", _distribution_help()),
    Flag(
        "list",
        "exempt",
        [],
        "weights left dense: first, last, regexes on their paths",
    ),
    Flag("list", "include", None, "only these weights are made sparse"),
    Flag(
        "string",
        "kernels",
        "auto",
        "what computes the products on a CPU: masked, native (an error for a layer "
        "without native kernels), or auto, native where they are expected to be faster",
        choices=("auto", "masked", "native"),
    ),
    Flag(
        "float",
        "power",
        1.0,
        "Powerpropagation: weights are theta |theta|^(power - 1), at least 1",
        range=POWER,
    ),
    Flag(
        "string",
        "storage",
        "dense",
        "dense or packed: of Top-KAST and static masks the trained weights (packed: the "
        "entries of the backward set alone, with gradients and slots as long); of SWAT, "
        "also with Top-KAST, the tensors kept for the backward pass (packed is slower)",
        choices=("dense", "packed"),
    ),
    Flag(
        "string",
        "theta",
        "memory",
        "memory or mmap: with --storage=packed, where theta and the sets of Top-KAST and "
        "static masks are, which only a selection reads: in memory, or mapped from files "
        "on the disk of --run_dir, which needs 6 bytes for each entry",
        choices=("memory", "mmap"),
        only_with=("storage", "packed"),
        affects_result=False,
    ),
)


def _groups() -> Groups:
    """The flags of all methods, each group once."""
    found: list = [("How it is made sparse", COMMON)]
    for method in METHODS.values():
        found += [group for group in method.groups if group not in found]
    return tuple(found)


GROUPS = _groups()
