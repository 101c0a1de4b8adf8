"""The model of the tests of SWAT: built in a scope, compiled, always the same."""

import keras

from swat_tf import swat_scope
from tests import zoo
from tests.small_models import build_optimizer

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(builder=zoo.sequential, sparsity=0.9, **arguments):
    keras.utils.set_random_seed(0)
    with swat_scope(sparsity, **arguments):
        model = builder()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    return model


def build_to_train(*arguments, **options):
    """The same with the optimizer's slots made."""
    return build_optimizer(build(*arguments, **options))
