"""Exceptions for mistakes of the user and for lost workers, and their exit codes."""

# Exit codes of the programs.
BAD_INPUT = 2
LOST_WORKER = 3
DIVERGED = 4
FINAL = (BAD_INPUT, DIVERGED)
"""Of programs that would end in the same way once more."""


class UserError(Exception):
    """A mistake of the user; the message is one sentence that says what to do.

    `train.py` prints it as `error: <sentence>` and exits with code 2, without a
    traceback. Any other exception is a fault of the program and keeps its traceback.
    """


class RunDiverged(UserError):
    """A run whose loss, gradient or weights are no longer finite.

    `train.py` prints it as it does a `UserError`, and exits with code 4.
    """


class WorkerLost(Exception):
    """Another worker of the job cannot be reached; its own output says why.

    `train.py` prints it as one sentence and exits with code 3.
    """
