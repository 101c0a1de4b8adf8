"""What the tests of the launcher share: `launch` without installing it, its command."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="session")
def root():
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def command():
    """The beginning of a command line that runs the launcher in a process."""
    return [sys.executable, str(ROOT / "launch" / "train.py")]


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """The beginning of a command line that runs a Python file in a fork.

    It saves the import of TensorFlow, see `fork_server`. Where a fork is not safe (on a
    Mac) or not known (on Windows), it is a process like any other.
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
    """Runs the launcher as a user does and gives the finished process."""
    return launcher(command)


def launcher(command):
    """Runs a command with more arguments and gives the finished process."""

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
    """The variables of a terminal that wants colours, and no bar left behind."""
    from launch.support import terminal

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield
    terminal.before_messages(None)
