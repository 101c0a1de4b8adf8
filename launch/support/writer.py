"""Work that is done beside training, in a thread of its own."""

from collections.abc import Callable
from concurrent import futures


class BackgroundWriter:
    """Runs one job at a time in one thread, so that whoever asks for it goes on.

    What a job raises is raised again in the thread that asked for it, when that next
    asks for anything, once.

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
        """Begins a job; waits for the one before it, if that is not done yet.

        So no more than two of them hold memory, and they end in their order.

        Raises:
          Exception: what the job before it has raised; this one is not begun then.
        """
        self.wait()
        self._under_way = self._pool.submit(job)

    def check(self) -> None:
        """Raises what a job that is done has raised; waits for nothing."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Waits until nothing is under way, and raises what the job has raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()
