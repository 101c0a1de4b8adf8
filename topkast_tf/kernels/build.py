"""Builds the native kernels from their sources, once for each machine and TensorFlow.

The library is kept in the user's cache folder (`cache_folder`), under a name that is a
digest of all it depends on: the sources, the commands, the compiler, TensorFlow and the
kind of machine, but not where they are installed. Several processes may build at once:
one does, the others wait.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import NamedTuple

from absl import logging

SOURCES = pathlib.Path(__file__).resolve().parent / "src"
FOLDER_VARIABLE = "TOPKAST_CACHE"
"""Environment variable: the folder in which the built library is kept."""
COMPILERS = ("g++", "clang++", "c++")
"""The compilers that are looked for, in this order, unless ``CXX`` names one."""

_FLAGS = ("-O3", "-fPIC", "-w", "-std=c++17", "-ffp-contract=fast", "-pthread")
_FLAGS_OF = {
    "_avx512.cc": (
        *("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
        "-mprefer-vector-width=512",
    ),
    "_avx512bf16.cc": (
        *("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mavx512bf16"),
        *("-mavx2", "-mfma", "-mprefer-vector-width=512"),
    ),
    "_avx2.cc": ("-mavx2", "-mfma"),
}
"""The end of a file's name -> the instruction set that it is compiled for."""
_X86 = ("x86_64", "amd64")
_PATIENCE = 300
"""Seconds after which a compiler counts as stuck."""
_LONGEST_BUILD = 4 * _PATIENCE
"""Seconds after which a process that builds counts as stuck."""
_MOST_COMPILERS = 16
_KILLED = "Killed signal"
"""What g++ says of a compiler that the system killed, as for want of memory."""


class Unavailable(Exception):
    """The native kernels cannot be had here; the message says why, and the remedy."""


class Command(NamedTuple):
    """One step of the build.

    Attributes:
      source: the file that it compiles; None for the step that links.
      arguments: the command line, in which ``{out}`` is the folder of the build.
    """

    source: str | None
    arguments: tuple[str, ...]


def cache_folder() -> pathlib.Path:
    """The folder of built libraries.

    ``$TOPKAST_CACHE``, or ``topkast_tf`` in the user's cache folder (``$XDG_CACHE_HOME``
    or ``~/.cache``).
    """
    named = os.environ.get(FOLDER_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    try:
        return pathlib.Path(named or f"{base}/topkast_tf").expanduser()
    except RuntimeError as error:
        raise Unavailable(
            f"this user has no home folder: name a folder in {FOLDER_VARIABLE}"
        ) from error


def built() -> pathlib.Path:
    """The library of the native kernels, built now unless it is there.

    Raises:
      Unavailable: without a compiler, if the build fails, or if the cache folder cannot
        be trusted.
    """
    compiler = find_compiler()
    commands = commands_for(compiler)
    path = _own_folder() / f"kernels-{_digest(compiler, commands)}.so"
    if not path.exists():
        with _alone(path.with_suffix(".lock")):
            if _log_of(path).exists():
                raise Unavailable(
                    f"the build failed before: {_log_of(path)} has the compiler's "
                    "messages; delete it to try again"
                )
            if not path.exists():  # another process may have been faster
                _build(commands, path)
    _verify(path)
    return path


def find_compiler() -> str:
    """The path of a C++ compiler: that of ``$CXX``, or the first of `COMPILERS`.

    Raises:
      Unavailable: if there is none.
    """
    if sys.platform == "win32":
        raise Unavailable("native kernels are not built on Windows")
    named = os.environ.get("CXX")
    for name in (named,) if named else COMPILERS:
        found = shutil.which(name)
        if found:
            return found
    raise Unavailable(
        f"there is no C++ compiler ({named or ', '.join(COMPILERS)}): install one, such "
        "as the package g++, or name it in the environment variable CXX"
    )


def commands_for(compiler: str) -> list[Command]:
    """The steps of the build, of which the last one links.

    Args:
      compiler: path of a C++ compiler.
    """
    import tensorflow as tf

    is_x86 = platform.machine().lower() in _X86
    sources = [
        path.name
        for path in sorted(SOURCES.glob("*.cc"))
        if is_x86 or not _flags_of(path.name)
    ]
    includes = [f"-I{SOURCES}", *tf.sysconfig.get_compile_flags()]
    commands = [
        Command(
            source,
            (
                *(compiler, *includes, *_FLAGS, *_flags_of(source)),
                *("-c", str(SOURCES / source), "-o", f"{{out}}/{source}.o"),
            ),
        )
        for source in sources
    ]
    objects = [f"{{out}}/{source}.o" for source in sources]
    links = tf.sysconfig.get_link_flags()
    commands.append(
        Command(
            None,
            (compiler, "-shared", *objects, "-o", "{out}/kernels.so", "-pthread")
            + tuple(links),
        )
    )
    return commands


def _flags_of(source: str) -> tuple[str, ...]:
    """The flags of the instruction set that a file is for; none if it is for any."""
    ends = [end for end in _FLAGS_OF if source.endswith(end)]
    return _FLAGS_OF[ends[0]] if ends else ()


def _digest(compiler: str, commands: Sequence[Command]) -> str:
    import tensorflow as tf

    version = _run([compiler, "--version"], "--version").stdout
    found = hashlib.sha256()
    for part in (
        tf.version.VERSION,
        tf.version.GIT_VERSION,
        platform.platform(),
        version,
    ):
        found.update(f"{part}\n".encode())
    for command in commands:
        found.update(_without_folders("\n".join(command.arguments)).encode())
    for path in sorted(SOURCES.iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:32]


def _without_folders(text: str) -> str:
    """A command without where things are installed, so that environments share a build."""
    import tensorflow as tf

    for folder in (str(SOURCES), tf.sysconfig.get_include(), tf.sysconfig.get_lib()):
        text = text.replace(folder, "")
    return text


def _build(commands: Sequence[Command], path: pathlib.Path) -> None:
    logging.warning("Building the native kernels, once for this machine (%s).", path)
    start = time.monotonic()
    prefix = f"build-{path.stem}-"
    for left in path.parent.glob(f"{prefix}*"):  # by a build that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as out:

        def run(command: Command) -> None:
            arguments = [part.replace("{out}", out) for part in command.arguments]
            made = _run(arguments, command.source or "the objects")
            if made.returncode:
                if made.returncode < 0 or _KILLED in made.stderr:  # as without memory
                    raise Unavailable(
                        f"the compiler was killed on {command.source or 'the objects'}, "
                        "maybe for want of memory: the next start tries again"
                    )
                log = _log_of(path)
                log.write_text(" ".join(arguments) + "\n" + made.stderr, "utf-8")
                raise Unavailable(
                    f"the compiler failed on {command.source or 'the objects'} "
                    f"(exit code {made.returncode}): {log} has its messages"
                )

        with futures.ThreadPoolExecutor(_compilers()) as threads:
            list(threads.map(run, commands[:-1]))
        run(commands[-1])
        library = pathlib.Path(out) / "kernels.so"
        library.chmod(0o700)
        digest = pathlib.Path(out) / "digest"
        digest.write_text(_sha256(library))
        # The digest first: a library without one is not loaded.
        os.replace(digest, _digest_file(path))
        os.replace(library, path)
    logging.warning("Built the native kernels in %.0f s.", time.monotonic() - start)


def _compilers() -> int:
    """How many compilers run at once, of about 1 GB each."""
    allowed = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return min(len(allowed), _MOST_COMPILERS)


def _run(arguments: Sequence[str], what: str) -> subprocess.CompletedProcess:
    """Runs the compiler, whose messages may be in any encoding."""
    try:
        return subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=_PATIENCE,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        raise Unavailable(f"the compiler did not run on {what} ({error})") from error


def _log_of(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".log")


def _own_folder() -> pathlib.Path:
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.environ.get(FOLDER_VARIABLE) is None and not folder.is_symlink():
            folder.chmod(0o700)
    except OSError as error:
        raise Unavailable(
            f"the cache folder {folder} cannot be used ({error.strerror}): name another "
            f"one in the environment variable {FOLDER_VARIABLE}"
        ) from error
    _check_owner(folder)
    return folder


def _check_owner(path: pathlib.Path) -> None:
    """Raises unless only this user may write to a file or folder."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        what = "a link"
    elif found.st_uid != os.getuid():
        what = f"owned by user {found.st_uid}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        what = f"writable by others (mode {stat.S_IMODE(found.st_mode):o})"
    else:
        return
    # A folder may hold what is somebody else's.
    remedy = "" if stat.S_ISDIR(found.st_mode) else "delete it, or "
    raise Unavailable(
        f"expected {path} to be this user's alone, as code is loaded from it. It is "
        f"{what}: {remedy}name another folder in {FOLDER_VARIABLE}"
    )


def _verify(path: pathlib.Path) -> None:
    """Raises unless a library is this user's, and as it was when it was built."""
    _check_owner(path)
    recorded = _digest_file(path)
    # As bytes: what was damaged need not be text.
    if not recorded.exists() or recorded.read_bytes() != _sha256(path).encode():
        raise Unavailable(
            f"expected {path} to be as it was built; its digest differs from "
            f"{recorded.name}: delete both files, and it is built again"
        )


def _digest_file(path: pathlib.Path) -> pathlib.Path:
    return path.with_suffix(".sha256")


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def _alone(path: pathlib.Path) -> Iterator[None]:
    """Within it, this process alone holds a lock; the system releases those of the dead."""
    import fcntl

    end = time.monotonic() + _LONGEST_BUILD
    with open(path, "w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise Unavailable(
                        f"another process has built the kernels for {_LONGEST_BUILD} s"
                    ) from None
                time.sleep(0.1)
        yield
