"""Where a run stands."""

import keras


def steps_taken(model: keras.Model) -> int:
    """Optimizer steps since the beginning of the run; survives a resume."""
    return int(model.optimizer.iterations.numpy())
