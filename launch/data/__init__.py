"""The data sets that the launcher can train on, by name.

Nothing here imports TensorFlow: a missing data set is reported before the seconds
that its import costs.
"""

from launch.data import cifar10, digits
from launch.data.source import ImageData, Source
from launch.errors import UserError

DATASETS: dict[str, Source] = {
    source.name: source for source in (digits.SOURCE, cifar10.SOURCE)
}

__all__ = ["DATASETS", "ImageData", "Source", "find"]


def find(name: str) -> Source:
    """The source of a name.

    Raises:
      UserError: for a name that is not registered.
    """
    if name not in DATASETS:
        raise UserError(
            f"Expected --dataset to be one of {', '.join(DATASETS)}. Received: {name!r}"
        )
    return DATASETS[name]
