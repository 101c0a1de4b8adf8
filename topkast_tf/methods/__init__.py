"""The sparse-training methods, one file each, with a small base class and a registry."""

from topkast_tf.methods.acdc import ACDC
from topkast_tf.methods.base import (
    GRADIENT,
    MOMENTUM,
    Method,
    Network,
    Products,
    Reset,
    Selection,
    Sets,
    TrainedVariable,
)
from topkast_tf.methods.cs import ContinuousSparsification
from topkast_tf.methods.dnw import dnw
from topkast_tf.methods.dsr import DSR
from topkast_tf.methods.dst import DST
from topkast_tf.methods.filters import FilterPruning
from topkast_tf.methods.granet import GraNet
from topkast_tf.methods.grasp import GraSP
from topkast_tf.methods.itop import rigl_itop, set_itop
from topkast_tf.methods.mest import MEST
from topkast_tf.methods.nm import NM
from topkast_tf.methods.pruning import GradualPruning
from topkast_tf.methods.registry import METHODS, SETTINGS, register
from topkast_tf.methods.rigl import RigL
from topkast_tf.methods.set import SET
from topkast_tf.methods.snfs import SNFS
from topkast_tf.methods.snip import SNIP
from topkast_tf.methods.spartan import Spartan
from topkast_tf.methods.srigl import SRigL
from topkast_tf.methods.static import Static
from topkast_tf.methods.str import STR
from topkast_tf.methods.synflow import SynFlow
from topkast_tf.methods.topkast import TopKAST

__all__ = [
    "ACDC",
    "ContinuousSparsification",
    "DSR",
    "DST",
    "FilterPruning",
    "GRADIENT",
    "GradualPruning",
    "GraNet",
    "GraSP",
    "MEST",
    "METHODS",
    "MOMENTUM",
    "Method",
    "NM",
    "Network",
    "Products",
    "Reset",
    "RigL",
    "SET",
    "SNFS",
    "SNIP",
    "SETTINGS",
    "SRigL",
    "STR",
    "Selection",
    "Sets",
    "Spartan",
    "Static",
    "SynFlow",
    "TopKAST",
    "TrainedVariable",
    "dnw",
    "register",
    "rigl_itop",
    "set_itop",
]
