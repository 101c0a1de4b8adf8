"""The kernels under the address and undefined-behaviour sanitizers of the compiler."""

import pathlib
import subprocess

import pytest

from topkast_tf.kernels import build
from topkast_tf.kernels.build import Unavailable

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The fuzzing program, which needs no TensorFlow."""
    try:
        compiler = build.find_compiler()
    except Unavailable as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("sanitized")
    sanitize = ("-fsanitize=address,undefined", "-fno-sanitize-recover", "-g")
    objects = []
    for command in build.commands_for(compiler)[:-1]:
        if command.source.endswith("ops.cc") or command.source == "plans.cc":
            continue
        arguments = [part.replace("{out}", str(out)) for part in command.arguments]
        subprocess.run([*arguments, *sanitize, "-O1"], check=True)
        objects.append(arguments[-1])
    made = [compiler, *sanitize, "-O1", "-std=c++17", f"-I{build.SOURCES}", *objects]
    sources = map(str, sorted(HERE.glob("fuzz*.cc")))
    subprocess.run([*made, *sources, "-o", str(out / "fuzz")], check=True)
    return out / "fuzz"


def run(program, count):
    done = subprocess.run(
        [program, str(count)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.endswith("products agree\n")


@pytest.mark.slow
def test_random_products_under_sanitizers(program):
    run(program, 300)
