"""The sparse-training methods, one file each, with a small base class and a registry."""

from topkast_tf.methods.base import (
    GRADIENT,
    MOMENTUM,
    Method,
    Reset,
    Selection,
    Sets,
    TrainedVariable,
)
from topkast_tf.methods.registry import METHODS, register
from topkast_tf.methods.rigl import RigL
from topkast_tf.methods.set import SET
from topkast_tf.methods.static import Static
from topkast_tf.methods.topkast import TopKAST

__all__ = [
    "GRADIENT",
    "METHODS",
    "MOMENTUM",
    "Method",
    "Reset",
    "RigL",
    "SET",
    "Selection",
    "Sets",
    "Static",
    "TopKAST",
    "TrainedVariable",
    "register",
]
