"""The methods of a run, one file each, on a small base and a registry."""

from launch.config.methods.registry import (
    COMMON,
    DISTRIBUTIONS,
    GROUPS,
    METHODS,
    methods_with,
    without_effect,
)

__all__ = [
    "COMMON",
    "DISTRIBUTIONS",
    "GROUPS",
    "METHODS",
    "methods_with",
    "without_effect",
]
