"""The kernels under the address, undefined-behaviour and thread sanitizers."""

import pathlib
import subprocess

import pytest

from topkast_tf.kernels import build
from topkast_tf.kernels.build import Unavailable

HERE = pathlib.Path(__file__).resolve().parent
STAND_IN = f"-I{HERE / 'stand_in'}"
"""Before TensorFlow's own headers: the tensor that plans.cc is compiled with."""


def built(out, sanitize, sources, *, with_plans=False):
    """A program of some sources and the kernels, which needs no TensorFlow."""
    try:
        compiler = build.find_compiler()
    except Unavailable as error:
        pytest.skip(str(error))
    flags = (f"-fsanitize={sanitize}", "-fno-sanitize-recover", "-g", "-O1")
    objects = []
    for command in build.commands_for(compiler)[:-1]:
        if command.source.endswith(("op.cc", "ops.cc", "mapped.cc")):
            continue
        if command.source == "plans.cc" and not with_plans:
            continue
        first, *rest = (part.replace("{out}", str(out)) for part in command.arguments)
        subprocess.run([first, STAND_IN, *rest, *flags], check=True)
        objects.append(rest[-1])
    made = [compiler, STAND_IN, *flags, "-std=c++17", f"-I{build.SOURCES}", *objects]
    named = [str(HERE / source) for source in sources]
    subprocess.run([*made, *named, "-pthread", "-o", str(out / "program")], check=True)
    return out / "program"


def assert_agrees(*command):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    assert done.stdout.endswith("products agree\n")


@pytest.mark.slow
def test_random_products_under_sanitizers(tmp_path):
    sources = sorted(path.name for path in HERE.glob("fuzz*.cc"))
    assert_agrees(built(tmp_path, "address,undefined", sources), 300)


@pytest.mark.slow
def test_threads_that_share_plans_under_the_thread_sanitizer(tmp_path):
    program = built(tmp_path, "thread", ["races.cc"], with_plans=True)
    assert_agrees(program, 4, 150)
