"""Helpers for tests of plans."""

import functools
import pathlib

from launch.config import plan_flags
from launch.cost_model.plan import plan_of
from launch.run import sparsity

ROOT = pathlib.Path(__file__).resolve().parents[2]


def settings_of(*arguments):
    return plan_flags.parse(["plan.py", *arguments])


def planned(*arguments):
    settings = settings_of(*arguments)
    scope = functools.partial(sparsity.scope, settings.method, settings)
    return plan_of(settings, settings.method, scope)


def bytes_of(found, place="accelerator"):
    return {i.name: (i.dense, i.here, i.sparse) for i in getattr(found, place)}
