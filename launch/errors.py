"""What separates a mistake of the user's from a fault of ours."""


class UserError(Exception):
    """A mistake that one sentence explains, with what to do about it.

    `train.py` prints it as `error: <sentence>` and ends with exit code 2, without a
    traceback. Anything else that is raised is a fault of the program and keeps its
    traceback.
    """
