"""Shared by the tests of the launcher: its import path and its commands."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.launch.runs import write_text  # noqa: E402  # needs the path


@pytest.fixture(scope="session")
def root():
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def command():
    """The start of a command line that runs the launcher in a process."""
    return [sys.executable, str(ROOT / "launch" / "train.py")]


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """The start of a command line that runs a Python file in a fork.

    A fork saves the import of TensorFlow, see `fork_server`. Where forks are unsafe
    (macOS) or unavailable (Windows), it is an ordinary process.
    """
    if sys.platform != "linux":
        yield [sys.executable]
        return
    program = [sys.executable, str(ROOT / "tests" / "launch" / "fork_server.py")]
    path = str(tmp_path_factory.mktemp("fork_server") / "socket")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([*program, path], stderr=subprocess.DEVNULL, **pipes) as one:
        assert one.stdout.readline() == b"ready\n"
        yield [program[0], "-I", "-S", program[1], path]
        one.stdin.close()


@pytest.fixture(scope="session")
def forked_command(python):
    """As `command`, in a fork of a process that has imported TensorFlow."""
    return [*python, str(ROOT / "launch" / "train.py")]


@pytest.fixture(scope="session")
def launch_forked(forked_command):
    """As `launch`, in a fork of a process that has imported TensorFlow."""
    return launcher(forked_command)


@pytest.fixture(scope="session")
def launch(command):
    """Runs the launcher as a user does and returns the finished process."""
    return launcher(command)


def launcher(command):
    """Runs a command with more arguments and returns the finished process."""

    def run(*arguments, cwd=None):
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture
def screen():
    """A pseudo-terminal of 240 columns."""
    from tests.launch.screens import Terminal

    made = Terminal()
    yield made
    made.close()


@pytest.fixture
def plain_terminal(monkeypatch):
    """The environment of a colour terminal; the bar is removed afterwards."""
    from launch.support import terminal

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield
    terminal.before_messages(None)


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A text of few letters with some structure; an epoch is ten steps."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    return write_text(path, draws=410, size=900)
