"""SWAT: sparse weights and activations in training, for TensorFlow and Keras 3.

>>> import keras
>>> from swat_tf import swat_scope
>>> with swat_scope(0.9, exempt="first"):
...     model = keras.Sequential(
...         [keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10)]
...     )
>>> model.compile("sgd", "mse")  # and `fit`: nothing else to call
"""

from swat_tf import ops
from swat_tf.double_mask import double_mask
from swat_tf.dsg import dsg_scope
from swat_tf.meprop import meprop_scope
from swat_tf.relu import masked_relu
from swat_tf.scope import swat_scope

__all__ = [
    "double_mask",
    "dsg_scope",
    "masked_relu",
    "meprop_scope",
    "ops",
    "swat_scope",
]
