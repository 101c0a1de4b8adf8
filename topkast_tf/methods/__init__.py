"""The sparse-training methods, one file each, on a small base and a registry."""

from topkast_tf.methods.base import METHODS, Method, Selection, Sets, register
from topkast_tf.methods.topkast import TopKAST

__all__ = ["METHODS", "Method", "Selection", "Sets", "TopKAST", "register"]
