"""What the tests of native operations have in common."""

import functools
import pathlib
import re
import resource
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from topkast_tf.kernels import library as kernels


class Owner:
    """An object that plans may belong to."""


def cpus():
    """The instruction sets that this machine runs."""
    if kernels.why_unavailable() is not None:
        return []
    return [cpu for cpu in kernels.CPUS if kernels.library().runs(cpu)]


@functools.cache
def tensorflow_rounds_bfloat16_once() -> bool:
    """Whether TensorFlow's bfloat16 product, a reference of tests, is float32 rounded once.

    It is where the machine multiplies bfloat16 numbers, such as with AVX-512. With AVX2
    half of the outputs are rounded otherwise.
    """
    x, y = (np.random.default_rng(i).normal(size=(90, 30)) for i in range(2))
    x, y = (tf.cast(value, tf.bfloat16) for value in (x, y))
    exact = tf.matmul(*(tf.cast(v, tf.float64) for v in (x, y)), transpose_a=True)
    differs = tf.matmul(x, y, transpose_a=True) != tf.cast(exact, tf.bfloat16)
    return float(tf.reduce_mean(tf.cast(differs, tf.float32))) < 0.01  # a tie


def random_codes(rng, shape, fwd_density, bwd_density):
    """Codes with the given fractions of entries in A and in B."""
    uniform = rng.uniform(size=shape)
    codes = np.where(uniform < bwd_density, 1, 0)
    return np.where(uniform < fwd_density, 2, codes).astype(np.uint8)


def rounded(values):
    """Values rounded to bfloat16, to nearest even, as float32."""
    return np.asarray(values).astype(tf.bfloat16.as_numpy_dtype).astype(np.float32)


def assert_rounded_once(found, exact, magnitude, terms, result="bfloat16"):
    """Sums in float32, in any order, that are rounded once.

    Args:
      found: the sums.
      exact: in float64.
      magnitude: the sums of the absolute values of their terms.
      terms: the number of terms of a sum, at most.
      result: the dtype that the sums are rounded to.
    """
    assert found.dtype == result
    unit = {"bfloat16": 2.0**-8, "float32": 2.0**-24}[result]
    of_sum = terms * 2.0**-23 * magnitude
    error = np.abs(found.astype(np.float64) - exact)
    np.testing.assert_array_less(
        error, unit * (np.abs(exact) + of_sum) + of_sum + 1e-30
    )


def gradient_of_penalty(product, x, theta):
    """Second gradients: those of a penalty of both gradients of a product."""
    with tf.GradientTape() as outer:
        outer.watch((x, theta))
        with tf.GradientTape() as inner:
            inner.watch((x, theta))
            y = tf.reduce_sum(tf.tanh(product(x, theta)))
        dx, dtheta = inner.gradient(y, (x, theta))
        penalty = tf.reduce_sum(dx**2) + tf.reduce_sum(dtheta**2)
    return outer.gradient(penalty, (x, theta))


def assert_same_bits_for_any_number_of_threads(source):
    """Runs a program with 1 and with 5 threads, its argument; it prints a SHA-256."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", source, threads], stdout=subprocess.PIPE, text=True
        )
        for threads in ("1", "5")
    ]
    first, second = (process.communicate()[0] for process in processes)
    assert len(first.strip()) == 64
    assert first == second


class MappedBytes(NamedTuple):
    """Bytes of this process's mappings of files in a folder, in whole pages."""

    size: int
    resident: int


def mapped_bytes(folder: pathlib.Path) -> MappedBytes:
    """What is mapped from a folder, and what of it is in memory."""
    kilobytes = {"Size": 0, "Rss": 0}
    inside = False
    for line in pathlib.Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            inside = f" {folder.resolve()}/" in line
        elif inside and name in kilobytes:
            kilobytes[name] += int(value.split()[0])
    return MappedBytes(1024 * kilobytes["Size"], 1024 * kilobytes["Rss"])


def in_pages(*sizes: int) -> int:
    """The bytes of the pages that buffers of these sizes take."""
    page = resource.getpagesize()
    return sum(-(-size // page) * page for size in sizes)
