"""The systemd unit and the Kubernetes manifest: accepted, and their commands parse."""

import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

from launch import console, multiworker
from launch.config import flags as launch_flags
from launch.support.errors import FINAL

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "examples" / "cluster"
UNIT = FOLDER / "topkast.service"
MANIFEST = FOLDER / "kubernetes.yaml"


def documents():
    yaml = pytest.importorskip("yaml")
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text())}


def assert_starts_worker(command, hosts, index):
    """The command is that of a worker, and its flags are those of training."""
    name, *arguments = shlex.split(command)
    assert pathlib.PurePath(name).name == "topkast-multiworker"
    values, asked = multiworker._parse(console.with_flagfiles([name, *arguments]))
    assert (values.hosts, values.index) == (hosts, index) and values.restarts >= 100
    found = launch_flags.parse(["train.py", *asked])
    assert found.run_dir.startswith("/shared/")


def test_the_unit_starts_a_worker():
    text = UNIT.read_text().replace("\\\n", " ")
    [command] = re.findall(r"^ExecStart=(.*)$", text, re.M)
    command = command.replace("${HOSTS}", "a:1,b:1").replace("${INDEX}", "1")
    assert_starts_worker(command, ["a:1", "b:1"], 1)
    [final] = re.findall(r"^RestartPreventExitStatus=(.*)$", text, re.M)
    assert tuple(map(int, final.split())) == FINAL


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path):
    # With a program that is there, as its path is checked, too.
    program = shutil.which("true")
    unit = tmp_path / UNIT.name
    text = UNIT.read_text().replace("/opt/topkast/bin/topkast-multiworker", program)
    unit.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert not said, done.stderr


def test_the_manifest_starts_workers_that_find_each_other():
    found = documents()
    service, spec = found["Service"], found["Job"]["spec"]
    pod = spec["template"]["spec"]
    [worker] = pod["containers"]
    names = [
        f"topkast-{i}.{service['metadata']['name']}:{worker['ports'][0]['containerPort']}"
        for i in range(spec["completions"])
    ]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": found["Job"]["metadata"]["name"]}
    assert spec["completions"] == spec["parallelism"]
    [command] = worker["args"]
    command = command.removeprefix("exec ").replace("$JOB_COMPLETION_INDEX", "1")
    assert_starts_worker(command, names, 1)
    codes = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert tuple(codes["values"]) == FINAL and codes["containerName"] == worker["name"]


def test_the_schemas_of_kubernetes_accept_the_manifest():
    validate = pytest.importorskip("kubernetes_validate")
    for document in documents().values():
        validate.validate(document, "1.31", strict=True)
