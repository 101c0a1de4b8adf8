"""Worker processes on loopback: the same run as one process, also after a kill."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import keras
import pytest

import topkast_tf as tk
from launch.models import transformer_xl  # noqa: F401, registers the class
from launch.run import training
from launch.tasks import task_of
from tests.launch import plain_model
from tests.launch.runs import assert_close, rows, settings, write_text

SHORT = (
    *("--dataset=digits", "--model=plain", "--steps=12", "--batch_size=128"),
    *("--evaluate_every=5", "--checkpoint_steps=2", "--clip_norm=0.5"),
    *("--dynamics_every=3", "--learning_rate=0.05"),
)
METHODS = {
    "topkast": ("--method=topkast", "--fwd=0.8", "--bwd=0.6", "--refresh_every=2"),
    # Thresholds per example do not depend on how the batch is divided.
    "packed": (
        *("--method=topkast", "--fwd=0.8", "--bwd=0.6", "--refresh_every=2"),
        "--storage=packed",
    ),
    "swat": ("--method=swat", "--sparsity=0.8", "--activations_per=sample"),
    "rigl": ("--method=rigl", "--sparsity=0.8", "--update_every=3", "--drop_noise=0"),
}
LAST = "step-00000012.keras"


@pytest.fixture(scope="module")
def start(root, python):
    """Starts a job of workers, two by default, as a process.

    Workers that are not killed may be forks, which do not import TensorFlow.
    """

    def started(*arguments, restarts=0, workers=2, forked=False):
        begin = python if forked else [sys.executable]
        script = (
            f"import sys; sys.path.insert(0, {str(root)!r})\n"
            "from launch import multiworker\n"
            f"command = [*{begin!r}, {plain_model.__file__!r}, *sys.argv[1:]]\n"
            f"sys.exit(multiworker.run(command, {workers}, {restarts}))"
        )
        command = [sys.executable, "-c", script, "--strategy=multiworker", *arguments]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return started


def ended(job):
    try:
        out, err = job.communicate(timeout=400)
    finally:
        job.kill()
    assert job.returncode == 0, err
    return out


def variables(path):
    model = keras.models.load_model(path)
    # Not by path: Keras numbers the random states of all models in a process.
    return [v.numpy() for v in model.variables + model.optimizer.variables]


@pytest.fixture(
    scope="module",
    params=[
        "topkast",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in METHODS
            if name != "topkast"
        ),
    ],
)
def undisturbed(request, start, tmp_path_factory):
    """Flags, folder and output of an uninterrupted job of a method."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    arguments = (*SHORT, *METHODS[request.param])
    said = ended(start(*arguments, f"--run_dir={folder}", forked=True))
    method = arguments[len(SHORT)].removeprefix("--method=")
    return arguments, folder / method, said


def alone(arguments, method, run_dir):
    """The result and the folder of the same run in this process."""
    plain_model.register()
    task = task_of(settings(*arguments, f"--run_dir={run_dir}"))
    task.load()
    return training.train(task, method), run_dir / method


def assert_same_but_rounding(folder, other):
    """Compares the ends of two runs; returns the sparse weights of the first."""
    ours, theirs = (
        (keras.models.load_model(f / "checkpoints" / LAST), rows(f))
        for f in (folder, other)
    )
    assert_close(ours, theirs)
    weights = tk.sparse_weights(ours[0])
    assert len(weights) == 3
    return weights


@pytest.mark.slow
def test_three_workers_train_as_one_process(start, tmp_path):
    arguments = (*SHORT, *METHODS["topkast"], "--batch_size=126")
    said = ended(start(*arguments, f"--run_dir={tmp_path}/run", workers=3))
    assert "topkast: 3 replicas" in said
    _, other = alone(arguments, "topkast", tmp_path)
    assert_same_but_rounding(tmp_path / "run" / "topkast", other)


def test_two_workers_train_as_one_process(undisturbed, tmp_path):
    arguments, folder, said = undisturbed
    one, other = alone(arguments, folder.name, tmp_path)
    ours = assert_same_but_rounding(folder, other)
    result = json.loads((folder / "result.json").read_text())
    assert result["replicas"] == 2 and "replicas" not in one
    sent, dense = result["gradient_bytes_packed"], result["gradient_bytes_dense"]
    # Kernels of 72, 1152 and 160 entries, and 34 biases; SWAT updates every entry.
    assert dense == 4 * (72 + 1152 + 160 + 34)
    kept = sum(int(w.backward_mask().sum()) for w in ours)
    assert sent == 4 * (kept + 34)
    assert (
        f"2 replicas, gradients of {sent:,} bytes a step packed, {dense:,} dense"
        in said
    )


def killed(start, arguments, folder):
    """Runs a job whose second worker is killed once there is a checkpoint."""
    job = start(*arguments, f"--run_dir={folder.parent}", restarts=1)
    lines = []

    def kill_worker():
        for line in job.stderr:
            is_first_start = not any("job: 2 workers" in before for before in lines)
            lines.append(line)
            if line.startswith("job: 2 workers") and is_first_start:
                worker = int(line.split()[-1])
                while not list(folder.glob("checkpoints/step-*.keras")):
                    time.sleep(0.02)
                os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill_worker)
    killer.start()
    with job:
        out = job.stdout.read()
        killer.join()
    assert job.returncode == 0, "".join(lines)
    assert "job: worker 1 was killed by signal 9; starting again" in "".join(lines)
    assert "resumed after step" in out


def assert_same_run(ours, theirs):
    assert rows(ours) == rows(theirs)
    here, there = (variables(run / "checkpoints" / LAST) for run in (ours, theirs))
    for ours, theirs in zip(here, there, strict=True):
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.slow  # half a minute
def test_job_with_a_killed_worker_equals_uninterrupted_job(
    undisturbed, start, tmp_path
):
    arguments, whole, _ = undisturbed
    folder = tmp_path / "run" / whole.name
    killed(start, arguments, folder)
    assert_same_run(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["text", "norms"])
def test_killed_job_restores_the_state_of_each_worker(start, tmp_path, what):
    """Memories of both workers' rows, dropout, statistics of batch normalisation."""
    text = tmp_path / "text.txt"
    write_text(text, draws=600, size=1300)
    arguments = {
        "norms": (*SHORT, "--model=resnet8", "--width=0.25", "--accumulate=2"),
        "text": (
            *("--dataset=bytes", f"--data_dir={text}", "--model=txl_tiny"),
            *(f"--text_cache={tmp_path}/cache", "--batch_size=4", "--dropout=0.2"),
            *("--segment_length=16", "--memory_length=8", "--evaluate_every=5"),
            *("--evaluation_batch=2", "--learning_rate=0.01", "--steps=12"),
            *("--fwd=0.5", "--bwd=0.3", "--checkpoint_steps=2"),
        ),
    }[what]
    whole, folder = tmp_path / "whole" / "topkast", tmp_path / "run" / "topkast"
    ended(start(*arguments, f"--run_dir={whole.parent}"))
    killed(start, arguments, folder)
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_terminated_job_saves_its_step_and_resumes(undisturbed, start, tmp_path):
    arguments, whole, _ = undisturbed
    folder = tmp_path / "run" / whole.name
    job = start(*arguments, f"--run_dir={folder.parent}")
    while not list(folder.glob("events/*")):
        time.sleep(0.02)
    time.sleep(1)  # into the first step, whose compilation takes seconds
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=400)
    assert job.returncode == 143, said
    assert "\ninterrupted at step" in said
    ended(start(*arguments, f"--run_dir={folder.parent}"))
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_non_finite_loss_stops_all_workers_at_its_step(start, tmp_path):
    job = start(
        *(*SHORT, *METHODS["topkast"], f"--run_dir={tmp_path}/run"),
        *("--learning_rate=1e30", "--clip_norm=0"),
        restarts=3,
    )
    _, said = job.communicate(timeout=400)
    assert job.returncode == 4, said
    ends = [
        line.removeprefix("worker 1: ")
        for line in said.splitlines()
        if "error: topkast training stopped at step " in line
    ]
    assert ends[0].split(":")[1] == " topkast training stopped at step 2"
    assert set(ends) == {ends[0]}
    assert "There is no checkpoint from before it." in said
    assert "starting again" not in said


def test_only_the_chief_writes(undisturbed):
    _, folder, said = undisturbed
    assert {p.name for p in folder.iterdir()} >= {"metrics.csv", "result.json"}
    events = (folder / "events").rglob("events.out*")
    writers = {path.name.split(".")[5] for path in events}
    assert len(writers) == 1  # process ids
    assert said.count("step 12/12") == 1


@pytest.mark.slow
def test_folder_in_use_is_reported_by_each_worker(start, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = start(*SHORT, f"--run_dir={folder}", restarts=3)
        _, said = job.communicate(timeout=400)
    assert job.returncode == 2, said
    assert "Traceback" not in said and "starting again" not in said
    errors = [line for line in said.splitlines() if "error: " in line]
    assert errors[0].startswith(f"error: --run_dir={folder} is in use")
    assert all("another worker of the job" in line for line in errors[1:])
