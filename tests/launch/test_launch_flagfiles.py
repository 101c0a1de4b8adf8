"""Every flagfile: understood, documented, and building the model that it names."""

import pathlib
import re

import pytest

from launch import data, resolve, sensitivity_flags
from launch import flags as launch_flags
from launch.tasks import task_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = ROOT / "launch" / "flagfiles"
NAMES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.cfg"))
RUNS = [name for name in NAMES if "sensitivity" not in name]
SETTINGS = [name for name in RUNS if not name.endswith("base.cfg")]


def settings(name, monkeypatch):
    monkeypatch.chdir(ROOT)  # where flagfiles look for the ones that they include
    path = f"--flagfile=launch/flagfiles/{name}"
    return resolve.resolved(launch_flags.parse(["train.py", path]))


@pytest.mark.parametrize("name", RUNS)
def test_it_is_understood(name, monkeypatch):
    assert settings(name, monkeypatch).run_dir


@pytest.mark.parametrize("name", NAMES)
def test_it_says_where_it_comes_from(name):
    text = (FOLDER / name).read_text()
    comment = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert "Source" in comment
    if not name.endswith("base.cfg"):
        assert f"--flagfile=launch/flagfiles/{name}" in comment


def test_no_two_share_a_folder(monkeypatch):
    folders = [settings(name, monkeypatch).run_dir for name in SETTINGS]
    assert len(set(folders)) == len(folders)


def test_sensitivity_flagfiles_are_understood():
    for name in set(NAMES) - set(RUNS):
        launch_flags.parse(
            ["sensitivity.py", f"--flagfile={FOLDER / name}"], sensitivity_flags.GROUPS
        )


def test_what_files_of_one_setting_differ_in(monkeypatch):
    ours = settings("topkast_imagenet/resnet50_90_80.cfg", monkeypatch)
    longer = settings("topkast_imagenet/resnet50_90_80_2x.cfg", monkeypatch)
    assert {name for name, _, _ in launch_flags.differences(ours, longer)} == {
        "steps",
        "lr_drop_steps",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_it_builds_its_model(name, monkeypatch):
    from launch import training

    asked = settings(name, monkeypatch)
    source = data.find(asked.dataset)
    if source.kind == "text" and source.name != "python":
        pytest.skip("the vocabulary is that of a text that is not here")
    model = training.build(task_of(asked), asked.method)
    if source.kind == "image":
        assert model.input_shape[1:] == source.image_shape
        assert model.output_shape[1:] == (source.classes,)
    assert re.fullmatch(r"[\w-]+", model.name)
