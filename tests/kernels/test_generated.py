"""Generated code: the same bits as the compiled loops, and where there is none."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.kernels.common import Owner, random_codes
from tests.kernels.test_sparse_matmul import computed
from topkast_tf.kernels import build
from topkast_tf.kernels import library as kernels
from topkast_tf.kernels.products import new_key, sparse_matmul

if kernels.why_unavailable() is not None:
    pytest.skip(str(kernels.why_unavailable()), allow_module_level=True)

needs_avx512 = pytest.mark.skipif(
    not kernels.library().runs("avx512"), reason="code is generated for AVX-512"
)


def both(shape, positions, codes, cpu="avx512"):
    """Output and gradients by generated code, and by the plan."""
    rng = np.random.default_rng(0)
    x, theta, dy = (
        rng.normal(size=size).astype(np.float32)
        for size in ((positions, shape[0]), shape, (positions, shape[1]))
    )
    owner = Owner()
    return [
        computed(x, theta, codes, dy, new_key(owner), cpu, code=code)
        for code in ("generated", "static")
    ]


@needs_avx512
@pytest.mark.parametrize("density", [0.0, 0.01, 0.05, 0.1, 0.5, 1.0])
@pytest.mark.parametrize(
    ("positions", "shape"),
    [
        (1, (1, 1)),
        (17, (30, 31)),
        (64, (513, 480)),  # a tile and a column; the groups that are done at once
        (70, (1100, 1000)),
    ],
)
def test_the_same_bits_as_the_plan(positions, shape, density):
    codes = random_codes(np.random.default_rng(1), shape, density, density)
    generated, static = both(shape, positions, codes)
    for ours, theirs in zip(generated, static, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@needs_avx512
@pytest.mark.parametrize("place", [(0, 0), (1023, 0), (0, 700), (1023, 700), (600, 31)])
def test_one_entry(place):
    codes = np.zeros((1024, 701), np.uint8)
    codes[place] = 2
    generated, static = both(codes.shape, 20, codes)
    assert np.count_nonzero(generated[0]) == 20
    for ours, theirs in zip(generated, static, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@needs_avx512
def test_much_code_is_used_for_more_panels_at_once():
    """More than 6 MiB: 16 panels in place of 4."""
    codes = np.full((1200, 1000), 2, np.uint8)
    generated, static = both(codes.shape, 270, codes)
    for ours, theirs in zip(generated, static, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@needs_avx512
def test_entries_that_are_not_there_do_not_spread():
    """An Inf reaches only the outputs that it is connected to."""
    codes = np.zeros((3, 40), np.uint8)
    codes[0, 5] = codes[1, 6] = 2
    x = np.array([[np.inf, 1.0, np.nan]], np.float32)
    owner = Owner()
    how = {"cpu": "avx512", "code": "generated"}
    y = sparse_matmul(x, tf.ones([3, 40]), codes, key=new_key(owner), **how)
    assert np.isinf(y[0, 5])
    np.testing.assert_array_equal(np.delete(y[0], 5), np.eye(39)[5])


@needs_avx512
def test_more_code_than_allowed_is_left_to_the_plan():
    codes = tf.fill([4096, 2400], tf.cast(2, tf.uint8))
    theta, x = tf.ones([4096, 2400]), tf.ones([1, 4096])
    owner = Owner()
    key = new_key(owner)
    how = {"key": key, "cpu": "avx512"}
    np.testing.assert_array_equal(sparse_matmul(x, theta, codes, **how), 4096)
    assert kernels.library().plan_bytes(key) < 9 * 4096 * 2400
    with pytest.raises(tf.errors.InvalidArgumentError, match="code takes at most"):
        sparse_matmul(x, theta, codes, code="generated", **how)


@needs_avx512
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_code_is_freed_with_its_weight():
    owner = Owner()
    key = new_key(owner)
    codes = tf.fill([100, 100], tf.cast(2, tf.uint8))
    mapped = _mapped()
    how = {"key": key, "cpu": "avx512", "code": "generated"}
    sparse_matmul(tf.ones([1, 100]), tf.ones([100, 100]), codes, **how)
    assert kernels.library().plan_bytes(key) > 100 * 100 * 7
    assert _mapped() > mapped + 100 * 100 * 7
    del owner
    assert _mapped() == mapped


def _mapped():
    """Bytes of mappings without a file that can be run, and not be written.

    Not their number: the system makes neighbours one.
    """
    with open("/proc/self/maps") as file:
        lines = [line.split() for line in file]
    ranges = [line[0].split("-") for line in lines if line[1:2] + line[5:] == ["r-xp"]]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)


@pytest.mark.parametrize("cpu", ["avx2", "portable"])
def test_code_cannot_be_asked_of_other_instruction_sets(cpu):
    if not kernels.library().runs(cpu):
        pytest.skip(f"this machine does not run {cpu}")
    codes = np.full((3, 4), 2, np.uint8)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"cpu={cpu}"):
        sparse_matmul(
            *(tf.ones([2, 3]), tf.ones([3, 4]), codes),
            key=1,
            cpu=cpu,
            code="generated",
        )


def test_unknown_code_is_refused():
    codes = np.full((3, 4), 2, np.uint8)
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="fast"):
        sparse_matmul(tf.ones([2, 3]), tf.ones([3, 4]), codes, key=1, code="fast")


_REFUSING = """
#include <cerrno>
#include <cstddef>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
extern "C" int mprotect(void* data, size_t bytes, int how) {
  if (how == (PROT_READ | PROT_EXEC)) return errno = EACCES, -1;
  return syscall(SYS_mprotect, data, bytes, how);
}
"""
_PROGRAM = """
import numpy as np, tensorflow as tf
from topkast_tf.kernels.products import new_key, sparse_matmul
class Owner: pass
owner = Owner()
codes = np.full((3, 4), 2, np.uint8)
arguments = tf.ones([2, 3]), tf.ones([3, 4]), codes
print(sparse_matmul(*arguments, key=new_key(owner)).numpy().sum())
try:
    sparse_matmul(*arguments, key=new_key(owner), code="generated")
except tf.errors.InvalidArgumentError as error:
    print(error.message)
"""


@needs_avx512
@pytest.mark.slow
def test_system_that_forbids_generated_code_takes_the_plan(tmp_path):
    """With an `mprotect` that refuses, as under SELinux without `execmem`."""
    (tmp_path / "refusing.cc").write_text(_REFUSING)
    refusing = str(tmp_path / "refusing.so")
    subprocess.run(
        [build.find_compiler(), "-shared", "-fPIC", "-o", refusing]
        + [str(tmp_path / "refusing.cc")],
        check=True,
    )
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env={**os.environ, "LD_PRELOAD": refusing},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.startswith("24.0\n")
    assert "a system that runs generated code" in found
