"""The rows of a global batch that belong to a worker."""

from launch.support.errors import UserError


def rows(batch_size: int, shard: tuple[int, int]) -> slice:
    """The contiguous rows of one worker; all workers together have the whole batch.

    Args:
      batch_size: rows of the global batch.
      shard: (index of the worker, number of workers).

    Raises:
      UserError: if the batch cannot be divided evenly.
      ValueError: if there is no such worker.

    >>> rows(8, (1, 4))
    slice(2, 4, None)
    """
    index, count = shard
    if not 0 <= index < count:
        raise ValueError(
            "Expected shard to be (index, count) with 0 <= index < count. "
            f"Received: shard={shard}"
        )
    if batch_size % count:
        raise UserError(
            f"Expected --batch_size to be a multiple of the number of workers, {count}. "
            f"Received: {batch_size}"
        )
    share = batch_size // count
    return slice(index * share, (index + 1) * share)
