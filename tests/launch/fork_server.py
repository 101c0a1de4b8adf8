"""A process with TensorFlow imported that forks for each program a test runs.

Importing TensorFlow, Keras and scikit-learn takes more CPU time than most tests of a
run; a fork has them imported already. The forked process has only imported them: it has
executed no operation and listed no device, as the threads that this starts would be
missing after the fork. Each program imports the project's own modules after the fork.

`fork_server.py SOCKET` listens; `fork_server.py SOCKET PROGRAM ARGUMENTS...` runs a
Python file in a fork of the listener. It behaves like the process of that program: same
files, folder, environment, exit code and signals. Two things differ: forks share the
seed of Python's hashes, and killing one process does not kill the other.
"""

import json
import os
import random
import select
import signal
import socket
import struct
import sys

FORWARDED = (signal.SIGINT, signal.SIGTERM)
LENGTH = struct.Struct("!q")


def _receive(connection, size):
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


# --- The process that stands for the program -----------------------------------------


def ask(path, program):
    """Runs a program in a fork of the listener, and exits as it does."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        asked = {"argv": program, "cwd": os.getcwd(), "env": dict(os.environ)}
        asked = json.dumps(asked).encode()
        socket.send_fds(connection, [LENGTH.pack(len(asked))], [0, 1, 2])
        connection.sendall(asked)
        (pid,) = LENGTH.unpack(_receive(connection, LENGTH.size))
        for number in FORWARDED:
            signal.signal(number, lambda number, _: os.kill(pid, number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        (code,) = LENGTH.unpack(_receive(connection, LENGTH.size))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


# --- The process that forks ----------------------------------------------------------


def serve(path):
    """Forks for each program; returns in the fork, with its arguments."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        # Standard input is closed when the tests end, for any reason.
        while listener in select.select([listener, 0], [], [])[0]:
            connection, _ = listener.accept()
            if not os.fork():
                break
            connection.close()
            _reap(os.WNOHANG)
        else:
            _reap(0)
            os._exit(0)
    start, files, _, _ = socket.recv_fds(connection, LENGTH.size, 3)
    asked = json.loads(_receive(connection, *LENGTH.unpack(start)))
    pid = os.fork()
    if pid:
        for file in files:
            os.close(file)
        connection.sendall(LENGTH.pack(pid))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        connection.sendall(LENGTH.pack(code))
        os._exit(0)
    connection.close()
    signal.signal(signal.SIGINT, before)
    _become(asked, files)
    return asked["argv"]


def _reap(how):
    try:
        while os.waitpid(-1, how)[0]:
            pass
    except ChildProcessError:
        pass


def _become(asked, files):
    """Sets the files, folder, environment and arguments of the program."""
    import numpy as np

    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)
    random.seed()
    np.random.seed()  # or all programs would have the same random numbers
    sys.argv = asked["argv"]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        ask(sys.argv[1], sys.argv[2:])
    import gc
    import runpy

    import keras  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import tensorflow as tf  # noqa: F401
    from tensorflow.python.eager import context

    gc.freeze()  # no collection writes to the pages that the forks share
    program = serve(sys.argv[1])
    # A later fork would lack the threads of the runtime.
    assert context._context is None
    sys.path[0] = os.path.dirname(program[0])
    runpy.run_path(program[0], run_name="__main__")
