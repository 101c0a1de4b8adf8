"""The script of a job: its workers, their output, its exit code."""

import signal
import subprocess
import sys
import time

import pytest

from launch import multiworker
from launch.distribute import job as jobs


def run(code, count=2, restarts=0):
    return multiworker.run([sys.executable, "-c", code], count, restarts)


INDEX = (
    "import json, os, sys, time\n"
    "i = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
)


def test_workers_get_their_index_and_stdout_is_the_chiefs(capfd):
    code = INDEX + "print('out', i); print('err', i, file=sys.stderr)"
    assert run(code, 3) == 0
    said = capfd.readouterr()
    assert said.out == "out 0\n"
    chief, job, *others = sorted(said.err.splitlines())
    assert job.startswith("job: 3 workers, processes ")
    assert [chief, *others] == ["err 0", "worker 1: err 1", "worker 2: err 2"]


def test_the_exit_code_is_the_chiefs(capfd):
    assert run(INDEX + "sys.exit(7 * (i == 0)) if i == 0 else time.sleep(60)") == 7
    assert "worker 0 was ended with code 7; giving up." in capfd.readouterr().err


def test_bad_input_does_not_restart_the_job(capfd):
    assert run(INDEX + "sys.exit(2)", restarts=3) == 2
    assert "starting again" not in capfd.readouterr().err


def test_dead_worker_stops_all_and_the_job_restarts(capfd, tmp_path):
    code = INDEX + (
        f"first = {str(tmp_path)!r} + f'/{{i}}'\n"
        "if not os.path.exists(first):\n"
        "    open(first, 'w').close()\n"
        "    if i == 1: os.kill(os.getpid(), 9)\n"
        "    time.sleep(60)\n"
    )
    start = time.monotonic()
    assert run(code, restarts=2) == 0
    assert time.monotonic() - start < 30
    said = capfd.readouterr().err
    assert said.count("starting again from the last checkpoint") == 1
    assert said.count("job: 2 workers") == 2


def test_restarts_are_counted(capfd):
    assert run("import os; os.kill(os.getpid(), 9)", restarts=2) == 128 + 9
    said = capfd.readouterr().err
    assert said.count("starting again") == 2 and said.count("giving up") == 1


def test_a_host_runs_its_own_worker_and_restarts_it(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_BETWEEN", 0.1)
    code = INDEX + (
        f"first = {str(tmp_path / 'first')!r}\n"
        "if not os.path.exists(first):\n"
        "    open(first, 'w').close()\n"
        "    sys.exit(3)\n"  # it has lost a worker
        "print('worker', i, os.environ['TF_CONFIG'])\n"
    )
    command = [sys.executable, "-c", code]
    assert jobs.run_on(command, ["a:1", "b:1", "[::1]:1"], 1, restarts=1) == 0
    said = capfd.readouterr()
    assert said.out.startswith("worker 1 ") and '["a:1", "b:1", "[::1]:1"]' in said.out
    assert said.err.count("job: worker 1 of 3, process ") == 2
    assert "worker 1 was ended with code 3; starting again" in said.err


def test_a_host_does_not_restart_a_worker_with_bad_input(capfd):
    command = [sys.executable, "-c", "import sys; sys.exit(2)"]
    assert jobs.run_on(command, ["a:1", "b:1"], 1, restarts=5) == 2
    assert "starting again" not in capfd.readouterr().err


def job_of(root, worker):
    """A process that runs a job of two workers, each with the same code."""
    script = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        "from launch import multiworker\n"
        f"sys.exit(multiworker.run([sys.executable, '-c', {worker!r}], 2, 3))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_workers_and_the_chief_sets_the_exit_code(root, number):
    worker = INDEX + (
        "import signal\n"
        "def stop(*_): print('stopping', i, flush=True); sys.exit(40 + i)\n"
        "for n in (signal.SIGTERM, signal.SIGINT): signal.signal(n, stop)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with job_of(root, worker) as job:
        assert job.stdout.readline() == "ready\n"
        time.sleep(0.5)  # for the other worker to be ready
        job.send_signal(number)
        assert job.stdout.read() == "stopping 0\n"
    assert job.returncode == 40


@pytest.mark.parametrize(("first", "after"), [("3", "2"), ("-6", "-9"), ("3", "1")])
def test_cause_of_a_failure_sets_the_exit_code(capfd, first, after):
    """Not the worker that failed because of it, though it was seen to fail first."""
    code = INDEX + (
        "import signal\n"
        "def end(code):\n"
        "    os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)\n"
        f"end({first}) if i == 0 else (time.sleep(0.5), end({after}))"
    )
    expected = int(after) if int(after) > 0 else 128 - int(after)
    assert run(code) == expected
    said = capfd.readouterr().err
    assert ("worker 1 was" in said) == (after != "2")


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")
def test_workers_end_when_the_script_is_killed(root):
    worker = INDEX + (
        "import signal\n"
        "def stop(*_): print('stopping', i, flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with job_of(root, worker) as job:
        assert job.stdout.readline() == "ready\n"
        job.kill()
        assert job.stdout.readline() == "stopping 0\n"


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["--workers=2"], ["--steps=3", "--", "--x"], ["--workers=0", "--", "-"]),
        ["--hosts=a:1,b:1", "--", "--steps=3"],
        ["--index=0", "--", "--steps=3"],
        ["--hosts=a:1,b:1", "--index=0", "--workers=2", "--", "--steps=3"],
        ["--hosts=a:1,b:1", "--index=2", "--", "--steps=3"],
        ["--hosts=a:1,a:1", "--index=0", "--", "--steps=3"],
        ["--hosts=a,b", "--index=0", "--", "--steps=3"],
    ],
)
def test_invalid_arguments_are_refused(capsys, arguments):
    assert multiworker.main(["multiworker.py", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1


def test_help_has_an_example(capsys):
    assert multiworker.main(["multiworker.py", "--help"]) == 0
    assert "--workers=2 -- --flagfile=" in capsys.readouterr().out
