"""Work in a background thread, while training continues."""

from collections.abc import Callable
from concurrent import futures


class BackgroundWriter:
    """Runs one job at a time in one background thread.

    An exception of a job is raised again, once, by the next call of a method.

    >>> writer, written = BackgroundWriter(), []
    >>> writer.start(lambda: written.append(1))
    >>> writer.wait()
    >>> written
    [1]
    """

    def __init__(self):
        self._pool = futures.ThreadPoolExecutor(1, "writer")
        self._under_way: futures.Future | None = None

    def start(self, job: Callable[[], object]) -> None:
        """Starts a job, after the previous one has ended.

        So jobs end in order, and at most two of them hold memory.

        Raises:
          Exception: the exception of the previous job; the new one is not started then.
        """
        self.wait()
        self._under_way = self._pool.submit(job)

    def check(self) -> None:
        """Raises the exception of a job that has ended; does not wait."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Waits for the job to end, and raises its exception."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()
