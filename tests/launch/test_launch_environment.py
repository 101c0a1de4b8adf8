"""What a run was trained with: versions and machine, in its folder."""

import json
import os
import platform

import pytest

from launch.storage import environment


@pytest.fixture
def machine(monkeypatch):
    """Sets the number of cores that a process may use."""

    def of(cores):
        monkeypatch.setattr(environment, "_cores", lambda: cores)

    return of


def test_each_environment_of_a_run_is_recorded_once(tmp_path, machine):
    for cores in (2, 2, 4, 2):
        machine(cores)
        environment.record(tmp_path)
    found = environment.recorded(tmp_path)
    assert [one["machine"]["cores"] for one in found] == [2, 4]
    assert found[0]["versions"]["python"] == platform.python_version()
    assert json.loads((tmp_path / environment.ENVIRONMENT_FILE).read_text()) == found


def test_it_names_no_host_no_user_and_no_path(tmp_path):
    environment.record(tmp_path)
    text = (tmp_path / environment.ENVIRONMENT_FILE).read_text()
    names = [platform.node(), os.environ.get("USER"), str(tmp_path), os.getcwd()]
    assert not [name for name in names if name and len(name) > 4 and name in text]


@pytest.mark.parametrize("text", ["", "{", '{"versions": 1}', '[1, {"versions": {}}]'])
def test_a_damaged_file_is_replaced(tmp_path, text):
    path = tmp_path / environment.ENVIRONMENT_FILE
    path.write_text(text)
    assert environment.recorded(tmp_path) == []
    environment.record(tmp_path)
    assert len(environment.recorded(tmp_path)) == 1


def test_threads_of_the_environment_are_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert environment.present()["machine"]["threads"] in (3, _set_in_tensorflow())


def _set_in_tensorflow():
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() or 3
