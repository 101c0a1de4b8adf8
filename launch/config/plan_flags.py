"""The flags of `launch/plan.py`: training, the sizes of the network, the devices."""

from collections.abc import Sequence

from absl import flags

from launch.config import flag_table, resolve, sensitivity_flags
from launch.config import flags as launch_flags
from launch.config.flag import ABOVE_0, AT_LEAST_1, Flag, Groups, flags_in
from launch.support.errors import UserError


def _size(name: str, text: str, kind: str) -> Flag:
    return Flag("integer", name, None, text, AT_LEAST_1, data=kind)


PLAN: Groups = (
    (
        "Sizes other than those of the named model",
        (
            _size("layers", "blocks of a Transformer-XL", "text"),
            _size("d_model", "width of its hidden states; even", "text"),
            _size("heads", "its attention heads", "text"),
            _size("d_head", "width of a head", "text"),
            _size("d_inner", "width of its feed-forward layer", "text"),
            _size("vocabulary", "distinct tokens; default those of the text", "text"),
            _size(
                "image_size",
                "height and width of images; default by data set",
                "image",
            ),
            _size("classes", "default by data set", "image"),
        ),
    ),
    (
        "The devices",
        (
            Flag(
                "integer",
                "replicas",
                None,
                "devices that share the batch; default those of --strategy and "
                "--devices, else 1",
                AT_LEAST_1,
            ),
            Flag(
                "float",
                "device_memory",
                None,
                "memory of one device, in GB (10^9 bytes)",
                range=ABOVE_0,
            ),
            Flag(
                "float",
                "device_flops",
                None,
                "FLOP per second of one device",
                range=ABOVE_0,
            ),
            Flag(
                "float",
                "device_bandwidth",
                None,
                "bytes per second between a device and its memory",
                range=ABOVE_0,
            ),
            Flag(
                "float",
                "network_bandwidth",
                None,
                "bytes per second that a device sends to others",
                range=ABOVE_0,
            ),
        ),
    ),
    ("The output", (Flag("boolean", "json", False, "print the plan as JSON"),)),
)
GROUPS: Groups = (*PLAN, *flag_table.GROUPS)
STUDY_GROUPS: Groups = (*PLAN, *sensitivity_flags.GROUPS)
_STUDY_ONLY = {flag.name for flag in flags_in(sensitivity_flags.GROUPS)} - {
    flag.name for flag in flags_in(flag_table.GROUPS)
}

HEAD = """\
Computes the cost of a run of launch/train.py before it starts: parameters,
FLOPs, memory, bytes between workers, time. No weight is allocated, and no data
is needed.

  # any flagfile
  python launch/plan.py \\
      --flagfile=launch/flagfiles/topkast_imagenet/resnet50_90_80.cfg

  # time and memory on eight devices of 16 GB, 100 TFLOP/s and 900 GB/s that
  # send 12.5 GB/s
  python launch/plan.py \\
      --flagfile=launch/flagfiles/topkast_imagenet/resnet50_90_80.cfg \\
      --replicas=8 --device_memory=16 --device_flops=100e12 \\
      --device_bandwidth=900e9 --network_bandwidth=12.5e9

  # a language model of twenty billion parameters
  python launch/plan.py --dataset=bytes --vocabulary=50000 --layers=44 \\
      --d_model=6144 --heads=64 --d_head=96 --d_inner=24576 \\
      --segment_length=1024 --memory_length=1024 --batch_size=64 \\
      --steps=100000 --fwd=0.9 --bwd=0.8 --device_memory=80

Memory and time have three columns: the dense twin; this implementation (time:
with dense tensors and masks); and truly sparse storage on an accelerator,
which is not implemented here. FLOPs are counted, not measured: a multiply and
an add are two, only products count. Sparsities are fractions of zeros. The
flags of launch/sensitivity.py are accepted too.
"""


def is_study(argv: Sequence[str]) -> bool:
    """Whether a command line, flagfiles included, is for `launch/sensitivity.py`."""
    try:
        words = flags.FlagValues().read_flags_from_files(list(argv))
    except flags.Error:
        return False  # parsing reports the mistake
    names = {word.lstrip("-").partition("=")[0] for word in words if word[:1] == "-"}
    return not names.isdisjoint(_STUDY_ONLY)


def overruled(argv: Sequence[str]) -> list[str]:
    """As `launch.config.flags.overruled`, for a command line that `parse` accepted."""
    groups = STUDY_GROUPS if is_study(argv) else GROUPS
    return launch_flags.overruled(argv, groups)


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """Parses and checks a command line and fills in what depends on other flags.

    Raises:
      UserError: as `launch.config.flags.parse` and `launch.config.resolve.resolved`, and
        for a flag of the plan that is out of range or applies to other data.
    """
    if is_study(argv):
        from launch import sensitivity

        # Both checks of a study: its own flags, and all flags together.
        values = sensitivity_flags.checked(launch_flags.parse(argv, STUDY_GROUPS))
        settings = sensitivity.resolved(values)
    else:
        settings = resolve.resolved(launch_flags.parse(argv, GROUPS))
    devices = settings.devices if "devices" in settings else None
    if devices is not None and settings.replicas not in (None, devices):
        raise UserError(
            "Expected --replicas, the number of devices of the plan, without --devices. "
            f"Received: --replicas={settings.replicas}, --devices={devices}"
        )
    resolve.check_data(settings, PLAN)
    return settings
