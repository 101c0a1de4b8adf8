"""The build of the native kernels: its cache, its checks, its failures."""

import concurrent.futures
import shutil
import subprocess
import sys
import time

import pytest

from topkast_tf.kernels import __main__ as command
from topkast_tf.kernels import build, library
from topkast_tf.kernels.build import Unavailable

try:
    build.find_compiler()
except Unavailable as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder of its own, with the library that is built already."""
    path = build.built()
    made = tmp_path / "cache"
    made.mkdir(mode=0o700)
    for file in (path, path.with_suffix(".sha256")):
        shutil.copy2(file, made / file.name)
    monkeypatch.setenv(build.FOLDER_VARIABLE, str(made))
    return made


@pytest.fixture
def use_compiler(tmp_path, monkeypatch):
    """Makes a shell script the compiler, with an empty cache folder; returns its path."""

    def use(script):
        path = tmp_path / "compiler"
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o700)
        monkeypatch.setenv("CXX", str(path))
        monkeypatch.setenv(build.FOLDER_VARIABLE, str(tmp_path / "cache"))
        return str(path)

    return use


def test_built_library_is_found_again(folder):
    found = build.built()
    assert found.parent == folder
    assert build.built() == found


def test_an_environment_with_the_same_sources_shares_the_library(
    folder, tmp_path, monkeypatch
):
    first = build.built()
    monkeypatch.setattr(
        build, "SOURCES", shutil.copytree(build.SOURCES, tmp_path / "other" / "src")
    )
    monkeypatch.setattr(build, "_build", lambda *_: pytest.fail("built once more"))
    assert build.built() == first


def test_changed_library_is_not_loaded(folder):
    path = build.built()
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(Unavailable, match="as it was built; its digest differs"):
        build.built()


def test_library_without_a_digest_is_not_loaded(folder):
    build.built().with_suffix(".sha256").unlink()
    with pytest.raises(Unavailable, match="digest"):
        build.built()


def test_damaged_digest_is_not_loaded(folder):
    build.built().with_suffix(".sha256").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Unavailable, match="its digest differs"):
        build.built()


def test_compiler_that_was_killed_may_be_tried_again(use_compiler, tmp_path):
    use_compiler('case "$*" in *-c*) kill -9 $$;; esac')
    for _ in range(2):
        with pytest.raises(Unavailable, match="was killed.*the next start tries again"):
            build.built()
    assert not list(tmp_path.rglob("*.log"))
    assert not list(tmp_path.rglob("build-*"))


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_folder_that_others_may_write_to_is_refused(folder, mode):
    folder.chmod(mode)
    with pytest.raises(
        Unavailable, match="this user's alone.*writable by others"
    ) as raised:
        build.built()
    assert "delete" not in str(raised.value)  # it may be any folder, such as /tmp


def test_library_that_others_may_write_to_is_refused(folder):
    build.built().chmod(0o722)
    with pytest.raises(Unavailable, match="writable by others"):
        build.built()


def test_link_is_refused(folder):
    path = build.built()
    elsewhere = folder.parent / "elsewhere.so"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(Unavailable, match="a link"):
        build.built()


def test_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(build.FOLDER_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(Unavailable, match="cannot be used.*TOPKAST_CACHE"):
        build.built()


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(Unavailable, match=r"no C\+\+ compiler \(no-such-compiler\)"):
        build.built()


def test_failed_build_names_its_log(use_compiler, tmp_path):
    use_compiler("echo no space left >&2\nexit 4\n")
    with pytest.raises(Unavailable, match=r"exit code 4.*\.log has its messages"):
        build.built()
    [log] = (tmp_path / "cache").glob("*.log")
    assert "no space left" in log.read_text()
    assert not list((tmp_path / "cache").glob("*.so"))


def test_messages_of_the_compiler_may_have_any_encoding(use_compiler):
    use_compiler("printf '\\377'\nprintf '\\377' >&2\nexit 1\n")
    with pytest.raises(Unavailable, match="exit code 1"):
        build.built()
    with pytest.raises(Unavailable, match="failed before.*delete it to try again"):
        build.built()


def test_compiler_that_hangs_is_given_up(use_compiler, monkeypatch):
    use_compiler("exec sleep 60\n")
    monkeypatch.setattr(build, "_PATIENCE", 0.5)
    with pytest.raises(Unavailable, match="did not run on --version.*timed out"):
        build.built()


def test_user_without_a_home_folder(monkeypatch):
    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(build.FOLDER_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(build.pathlib.Path, "expanduser", no_home)
    with pytest.raises(Unavailable, match="no home folder.*TOPKAST_CACHE"):
        build.built()


def test_default_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv(build.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / "topkast_tf"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(build.cache_folder()) == "/home/someone/.cache/topkast_tf"


def test_processes_that_start_at_once_build_once(use_compiler, tmp_path):
    """With a compiler that records its calls and writes empty objects."""
    record = tmp_path / "calls"
    compiler = use_compiler(
        'if [ "$1" = --version ]; then echo 1; exit; fi\n'
        f"echo call >> {record}\nsleep 0.2\n"
        'while [ "$1" != -o ]; do shift; done; echo object > "$2"\n'
    )
    program = [
        *(sys.executable, "-c"),
        "from topkast_tf.kernels import build; print(build.built())",
    ]

    def run(_):
        return subprocess.run(
            program, capture_output=True, text=True, check=True
        ).stdout

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        first, second = threads.map(run, range(2))
    assert first == second
    steps = len(build.commands_for(compiler))
    assert len(record.read_text().split()) == steps


def test_threads_that_start_at_once_load_once(monkeypatch):
    made = []

    def load(path, forced):
        time.sleep(0.1)
        made.append(forced)
        return "the library"

    monkeypatch.setattr(library, "Library", load)
    monkeypatch.setattr(build, "built", lambda: "a path")
    library._loaded.cache_clear()
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            found = [threads.submit(library.library) for _ in range(4)]
        assert {each.result() for each in found} == {"the library"}
        assert len(made) == 1
    finally:
        library._loaded.cache_clear()


def test_command_reports_what_the_machine_runs(monkeypatch, capsys):
    assert command.main() == 0
    found = capsys.readouterr().out
    assert "this machine runs: " in found
    assert "portable" in found
    generates = library.library().cpu == "avx512"
    assert ("code generated for products: yes" in found) <= generates
    assert "bfloat16 in weight gradients: by " in found
    monkeypatch.setenv("CXX", "no-such-compiler")
    library._loaded.cache_clear()
    try:
        assert command.main() == 1
    finally:
        library._loaded.cache_clear()
    found = capsys.readouterr().out
    assert found.startswith("No native kernels: there is no C++ compiler")
