"""The distributions: what they hold, and that they work outside of the checkout."""

import os
import pathlib
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

pytestmark = pytest.mark.slow  # builds, and installs from a package index

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(*command, cwd, **environment):
    """What a command prints; its failure is that of the test."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "CXX")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**kept, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """An sdist of the checkout's files, and a wheel that is built from it alone."""
    folder = tmp_path_factory.mktemp("dist")
    try:
        listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).split(
            "\n"
        )
    except (AssertionError, OSError):
        pytest.skip("the checkout is no git repository, or git is not installed")
    source = folder / "source"
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith(("docs/", "tests/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    # The wheel is built from the sdist, not from the checkout.
    run(sys.executable, "-m", "build", "--outdir", folder / "out", cwd=source)
    [sdist] = (folder / "out").glob("*.tar.gz")
    [wheel] = (folder / "out").glob("*.whl")
    return sdist, wheel


def sources():
    """What a package must hold beside its modules."""
    for pattern in (
        *("topkast_tf/kernels/src/*", "launch/flagfiles/**/*.cfg"),
        *("launch/reports/*.css", "topkast_tf/py.typed", "swat_tf/py.typed"),
    ):
        found = [path for path in ROOT.glob(pattern) if path.is_file()]
        assert found, pattern
        yield from (path.relative_to(ROOT).as_posix() for path in found)


def test_the_wheel_holds_modules_kernels_and_flagfiles(distributions):
    _, wheel = distributions
    names = zipfile.ZipFile(wheel).namelist()
    modules = [
        path.relative_to(ROOT).as_posix()
        for package in ("topkast_tf", "swat_tf", "launch")
        for path in (ROOT / package).rglob("*.py")
    ]
    assert set(modules) | set(sources()) <= set(names)
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"topkast_tf", "swat_tf", "launch"}
    [scripts] = [name for name in names if name.endswith("entry_points.txt")]
    assert "topkast-train = launch.console:train" in (
        zipfile.ZipFile(wheel).read(scripts).decode()
    )


def test_the_sdist_holds_what_the_wheel_is_built_from(distributions):
    sdist, _ = distributions
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "pyproject.toml", *sources()} <= names


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_a_fresh_environment_trains_outside_of_the_checkout(
    kind, distributions, tmp_path
):
    archive = distributions[kind == "wheel"]
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run(scripts / "python", "-m", "pip", "install", f"{archive}[launch]", cwd=tmp_path)
    inside = {"TOPKAST_CACHE": str(tmp_path / "cache"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    said = run(
        *(scripts / "python", "-c"),
        "import topkast_tf, swat_tf; print(topkast_tf.__file__)",
        cwd=tmp_path,
        **inside,
    )
    assert str(tmp_path / "venv") in said
    run(scripts / "python", "-m", "topkast_tf.kernels", cwd=tmp_path, **inside)
    said = run(
        *(scripts / "topkast-train", "--flagfile=quickstart.cfg", "--steps=4"),
        "--run_dir=runs/small",
        cwd=tmp_path,
        **inside,
    )
    assert "topkast-evaluate runs/small" in said
    said = run(scripts / "topkast-evaluate", "runs/small", cwd=tmp_path, **inside)
    assert "topkast" in said
    said = run(scripts / "topkast-report", "runs/small", cwd=tmp_path, **inside)
    assert "index.html" in said
    said = run(
        scripts / "topkast-plan", "--flagfile=quickstart.cfg", cwd=tmp_path, **inside
    )
    assert "topkast" in said
