"""Dense models, and sparse models that start from them, trained or not."""

import keras

import topkast_tf as tk
from swat_tf import swat_scope
from tests import zoo

SCOPES = {
    "topkast": lambda: tk.topkast_scope(0.9, 0.8, refresh_every=100),
    "topkast global": lambda: tk.topkast_scope(0.9, 0.8, distribution="global"),
    "topkast erk": lambda: tk.topkast_scope(0.5, 0.4, distribution="erk"),
    "swat": lambda: swat_scope(0.9, topk_period=5),
    "swat-m": lambda: swat_scope(0.8, distribution="momentum"),
}
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense_model(builder=zoo.functional, seed=3):
    keras.utils.set_random_seed(seed)
    model = builder()
    model(zoo.images(builder))
    return model


def sparse_model(scope="topkast", builder=zoo.functional, seed=4):
    keras.utils.set_random_seed(seed)
    with SCOPES[scope]():
        model = builder()
    model(zoo.images(builder))
    return model


def trained(model, steps=3):
    if not model.compiled:  # else each call would trace the step again
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    model.fit(
        zoo.images(zoo.functional, 8 * steps),
        zoo.labels(8 * steps),
        batch_size=8,
        verbose=0,
    )
    return model
