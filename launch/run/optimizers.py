"""The optimizers of the papers, from the flags."""

import keras
from absl import flags


def optimizer_of(settings: flags.FlagValues) -> keras.Optimizer:
    """The optimizer of a run; the schedule sets its learning rate at each step.

    `sgd`: SGD with momentum (v = momentum * v - lr * g, optionally Nesterov's form).
    `adam`: Adam with its usual constants (0.9, 0.999, 1e-8), as in Transformer-XL.
    `--clip_norm` limits the global norm of the gradient.

    Source: He et al. 2016, section 4.2; Dai et al. 2019 (their published settings).
    """
    common = {
        "learning_rate": settings.learning_rate,
        "global_clipnorm": settings.clip_norm or None,
    }
    if settings.optimizer == "adam":
        return keras.optimizers.Adam(epsilon=1e-8, **common)
    return keras.optimizers.SGD(
        momentum=settings.momentum, nesterov=settings.nesterov, **common
    )
