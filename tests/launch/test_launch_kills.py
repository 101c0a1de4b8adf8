"""`kill -9` at any moment: the same command resumes to the uninterrupted result."""

import json
import pathlib
import random
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from launch.support import files
from tests.launch.runs import rows

DRIVER = pathlib.Path(__file__).with_name("kill_driver.py")
CASES = {
    f"{kind}, {method}": (kind, method)
    for kind in ("images", "language")
    for method in ("topkast", "swat")
}


def arguments_of(kind, method, text, steps, every, checkpoint_steps):
    arguments = [
        *(f"--method={method}", f"--steps={steps}", f"--evaluate_every={every}"),
        f"--checkpoint_steps={checkpoint_steps}",
        *(("--topk_period=2",) if method == "swat" else ()),
    ]
    if kind == "images":
        return [
            *(*arguments, "--width=0.25", "--train_examples=320", "--batch_size=64"),
            *("--nesterov", "--dynamics_every=2", "--learning_rate=0.05"),
        ]
    return [
        *(*arguments, "--dataset=bytes", f"--data_dir={text}", "--model=txl_tiny"),
        *(f"--text_cache={text.parent / 'cache'}", "--batch_size=5", "--dropout=0.1"),
        *("--segment_length=16", "--memory_length=8", "--evaluation_batch=2"),
        *("--learning_rate=0.01", "--clip_norm=0.5", "--dynamics_every=0"),
        *(("--sparsity=0.5",) if method == "swat" else ("--fwd=0.5", "--bwd=0.3")),
    ]


def state(archive):
    found = json.loads(archive.read("launch_state.json"))
    del found["seconds"], found["processor_seconds"], found["timed"]
    for row in found["rows"]:
        del row["seconds"], row["processor_seconds"], row["step_ms"]
    return found


def assert_same_end(ours, theirs):
    """Weights, sets, optimizer, memory, random state and metrics are equal bitwise."""
    assert rows(ours) == rows(theirs)
    names = [
        sorted(p.name for p in (run / "checkpoints").iterdir())
        for run in (ours, theirs)
    ]
    assert names[0] == names[1] and "best.keras" in names[0]
    for name in (names[0][0], names[0][-1]):
        with (
            zipfile.ZipFile(ours / "checkpoints" / name) as mine,
            zipfile.ZipFile(theirs / "checkpoints" / name) as yours,
        ):
            for member in ("model.weights.h5", "launch_seeds.json"):
                assert mine.read(member) == yours.read(member), (name, member)
            assert state(mine) == state(yours)
    masks = [run / "mask_dynamics.csv" for run in (ours, theirs)]
    if masks[1].exists():
        assert masks[0].read_text() == masks[1].read_text()
    assert not list(ours.rglob(f"{files.TEMPORARY}*"))


def killed_at(point, count, *arguments):
    """Runs until a point is reached for the nth time, where the process is killed."""
    ended = subprocess.run(
        [sys.executable, str(DRIVER), point, str(count), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def killed_after(seconds, command, checkpoints):
    """Kills a run some seconds after its next checkpoint; returns if it still ran."""

    def newest():
        return max((path.name for path in checkpoints.glob("step-*")), default="")

    before = newest()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and newest() == before:
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    _, said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode != 0


@pytest.mark.slow
def test_killed_while_writing_and_while_selecting_sets(launch, text, tmp_path):
    arguments = arguments_of("language", "topkast", text, 9, 5, 2)
    whole, folder = (tmp_path / name for name in ("whole", "killed"))
    ended = launch(*arguments, f"--run_dir={whole}")
    assert ended.returncode == 0, ended.stderr
    mine = [*arguments, f"--run_dir={folder}"]
    killed_at("half a file", 2, *mine)
    found = [path.name for path in (folder / "topkast" / "checkpoints").glob("*.keras")]
    assert found == ["step-00000002.keras"]
    killed_at("refresh", 40, *mine)
    ended = launch(*mine)
    assert ended.returncode == 0, ended.stderr
    assert "resumed after step" in ended.stdout and ended.stderr == ""
    assert_same_end(folder / "topkast", whole / "topkast")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_many_moments(case, command, launch, text, tmp_path):
    kind, method = CASES[case]
    arguments = arguments_of(kind, method, text, 120, 15, 2)
    whole, folder = (tmp_path / name for name in ("whole", "killed"))
    ended = launch(*arguments, f"--run_dir={whole}")
    assert ended.returncode == 0, ended.stderr
    mine = [*arguments, f"--run_dir={folder}"]
    chance = random.Random(case)
    for point, count in (
        *(("half a file", 2), ("before the name", 3), ("after the name", 2)),
        *(("before best", 1), ("refresh", 60), ("refresh", 95)),
    ):
        killed_at(point, count, *mine)
    kills = 6
    while kills < 12 and killed_after(
        chance.uniform(0, 1), [*command, *mine], folder / method / "checkpoints"
    ):
        kills += 1
    assert kills >= 10
    ended = launch(*mine)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert_same_end(folder / method, whole / method)
