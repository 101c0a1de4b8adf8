"""Sparse training for TensorFlow: Top-KAST as a variable custom getter.

>>> import keras
>>> from topkast_tf import summary, topkast_scope
>>> with topkast_scope(fwd=0.9, bwd=0.8):
...     model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
>>> model.compile("sgd", "mse")  # and `fit`: nothing else to call
>>> print(summary(model).rows[0].kept)
64
"""

import keras as _keras

from topkast_tf.analysis.flops import count_flops
from topkast_tf.analysis.mask_dynamics import MaskDynamics
from topkast_tf.analysis.memory import count_memory
from topkast_tf.analysis.summary import summary
from topkast_tf.compacting import compact
from topkast_tf.explaining import explain
from topkast_tf.export import export_litert, strip
from topkast_tf.getter import topkast_getter
from topkast_tf.kernels.library import load_kernels
from topkast_tf.layers.sparse_layer import register_for_loading as _register_for_loading
from topkast_tf.model_sets import freeze, refresh
from topkast_tf.pruning import prune
from topkast_tf.scope import sparse_scope, topkast_scope
from topkast_tf.sparsify import sparsify
from topkast_tf.variables.hooks import dense_reads
from topkast_tf.variables.lookup import sparse_weights
from topkast_tf.variables.scope_state import SparsityScope
from topkast_tf.variables.weight import SparseWeight

__version__ = "0.2.0"
__all__ = [
    "MaskDynamics",
    "SparseWeight",
    "SparsityScope",
    "compact",
    "count_flops",
    "count_memory",
    "dense_reads",
    "explain",
    "export_litert",
    "freeze",
    "load_kernels",
    "prune",
    "refresh",
    "sparse_scope",
    "sparse_weights",
    "sparsify",
    "strip",
    "summary",
    "topkast_getter",
    "topkast_scope",
]

_register_for_loading(_keras)
