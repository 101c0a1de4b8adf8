"""What separates a mistake of the user's, or a job's loss, from a fault of ours."""

# Exit codes of the programs.
BAD_INPUT = 2
LOST_WORKER = 3


class UserError(Exception):
    """A mistake that one sentence explains, with what to do about it.

    `train.py` prints it as `error: <sentence>` and ends with exit code 2, without a
    traceback. Anything else that is raised is a fault of the program and keeps its
    traceback.
    """


class WorkerLost(Exception):
    """Another worker of the job cannot be reached any more; it says itself why.

    `train.py` prints it as one sentence and ends with exit code 3.
    """
