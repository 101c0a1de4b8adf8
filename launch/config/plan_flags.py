"""The flags of `launch/plan.py`: those of training, the network's sizes, the devices."""

from collections.abc import Sequence

from absl import flags

from launch import data
from launch.config import flag_table, resolve, sensitivity_flags
from launch.config import flags as launch_flags
from launch.config.flag import ABOVE_0, AT_LEAST_1, Flag, Groups
from launch.support.errors import UserError

_TEXT_SIZES = ("vocabulary", "layers", "d_model", "heads", "d_head", "d_inner")
_IMAGE_SIZES = ("image_size", "classes")

PLAN: Groups = (
    (
        "Another size than the named model's",
        (
            Flag("integer", "layers", None, "blocks of a Transformer-XL", AT_LEAST_1),
            Flag("integer", "d_model", None, "width of its states; even", AT_LEAST_1),
            Flag("integer", "heads", None, "its attention heads", AT_LEAST_1),
            Flag("integer", "d_head", None, "width of a head", AT_LEAST_1),
            Flag("integer", "d_inner", None, "width of its feed-forward", AT_LEAST_1),
            Flag(
                "integer",
                "vocabulary",
                None,
                "different tokens; default those of the text",
                AT_LEAST_1,
            ),
            Flag(
                "integer",
                "image_size",
                None,
                "height and width of images; default by data set",
                AT_LEAST_1,
            ),
            Flag("integer", "classes", None, "default by data set", AT_LEAST_1),
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
                "of one device, in GB (10^9 bytes)",
                range=ABOVE_0,
            ),
            Flag(
                "float",
                "device_flops",
                None,
                "FLOP a second of one device",
                range=ABOVE_0,
            ),
            Flag(
                "float",
                "device_bandwidth",
                None,
                "bytes a second between a device and its memory",
                range=ABOVE_0,
            ),
            Flag(
                "float",
                "network_bandwidth",
                None,
                "bytes a second that a device sends to others",
                range=ABOVE_0,
            ),
        ),
    ),
    ("The output", (Flag("boolean", "json", False, "for machines"),)),
)
GROUPS: Groups = (*PLAN, *flag_table.GROUPS)
STUDY_GROUPS: Groups = (*PLAN, *sensitivity_flags.GROUPS)
_STUDY_ONLY = ("studies", "sparsities", "ablation_sparsities", "periods", "seeds")

HEAD = """\
Says what a run of launch/train.py will cost, before it is started: parameters,
FLOPs, memory, bytes between workers, time. No weight is allocated, and no data
need be there.

  # any flagfile
  python launch/plan.py \\
      --flagfile=launch/flagfiles/topkast_imagenet/resnet50_90_80.cfg

  # on eight devices of 16 GB, 100 TFLOP/s and 900 GB/s that send 12.5 GB/s:
  # how long does it take, and does it fit?
  python launch/plan.py \\
      --flagfile=launch/flagfiles/topkast_imagenet/resnet50_90_80.cfg \\
      --replicas=8 --device_memory=16 --device_flops=100e12 \\
      --device_bandwidth=900e9 --network_bandwidth=12.5e9

  # a language model of twenty billion parameters that nobody has trained yet
  python launch/plan.py --dataset=bytes --vocabulary=50000 --layers=44 \\
      --d_model=6144 --heads=64 --d_head=96 --d_inner=24576 \\
      --segment_length=1024 --memory_length=1024 --batch_size=64 \\
      --steps=100000 --fwd=0.9 --bwd=0.8 --device_memory=80

Memory and time have three columns: the dense twin; as it runs here, with dense
tensors and masks; and as truly sparse storage would need it, which no program
here has. FLOPs are counted: a multiply and an add are two, only products count.
Sparsities are fractions of zeros. The flags of launch/sensitivity.py are taken
too.
"""


def is_study(argv: Sequence[str]) -> bool:
    """Whether a command line, flagfiles included, is one of `launch/sensitivity.py`."""
    try:
        words = flags.FlagValues().read_flags_from_files(list(argv))
    except flags.Error:
        return False  # parsing says what is wrong
    names = {word.lstrip("-").partition("=")[0] for word in words if word[:1] == "-"}
    return not names.isdisjoint(_STUDY_ONLY)


def overruled(argv: Sequence[str]) -> list[str]:
    """As `launch.config.flags.overruled`, of a command line that `parse` has accepted."""
    groups = STUDY_GROUPS if is_study(argv) else GROUPS
    return launch_flags.overruled(argv, groups)


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """Parses and checks a command line and fills in what depends on other flags.

    Raises:
      UserError: as `launch.config.flags.parse` and `launch.config.resolve.resolved`, and
        for a flag of the plan that is out of range or about the other kind of data.
    """
    if is_study(argv):
        from launch import sensitivity

        # Both checks of a study: of its own flags, and of all together.
        values = sensitivity_flags.checked(launch_flags.parse(argv, STUDY_GROUPS))
        settings = sensitivity.resolved(values)
    else:
        settings = resolve.resolved(launch_flags.parse(argv, GROUPS))
    devices = settings.devices if "devices" in settings else None
    if devices is not None and settings.replicas not in (None, devices):
        raise UserError(
            "Expected --replicas, which says how many devices there would be, without "
            f"--devices. Received: --replicas={settings.replicas}, "
            f"--devices={devices}"
        )
    is_text = data.find(settings.dataset).kind == "text"
    for name in _IMAGE_SIZES if is_text else _TEXT_SIZES:
        if settings[name].value is not None:
            raise UserError(
                f"Expected no --{name} for --dataset={settings.dataset}, as it speaks of "
                f"{'images' if is_text else 'text'}. Received: {settings[name].value}"
            )
    return settings
