"""A progress bar of what is read."""


class Bytes:
    """Counts bytes to a total; the bar shows on terminals only.

    Args:
      title: what is done.
      total: bytes.
    """

    def __init__(self, title: str, total: int):
        from tqdm import tqdm

        self._bar = tqdm(
            desc=title,
            total=total,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None,
        )

    def advance(self, count: int) -> None:
        """Notes that `count` more bytes are done."""
        self._bar.update(count)
        if self._bar.n >= self._bar.total:
            self._bar.close()
