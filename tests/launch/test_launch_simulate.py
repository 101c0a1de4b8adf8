"""The command that simulates cycles: its tables, its CSV and its error messages."""

import csv
import json
import pathlib

import pytest

import swat_tf.simulator
from launch import simulate
from launch.config import simulate_flags
from launch.cycles.machine import machine_of
from launch.cycles.of_run import inputs_of
from launch.run.building import build
from launch.storage import checkpoints, run_folder
from launch.tasks import task_of
from swat_tf.simulator import (
    PUBLISHED,
    accelerator,
    operands_of,
    random_masks,
    search_space,
    simulate_model,
)
from swat_tf.simulator.memory import METADATA
from tests.launch import plain_model
from tests.launch.runs import IMAGES, METHODS, settings

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "results"
SMALL = ("--model=resnet8", "--image_size=8", "--batch_size=2")


def said(capsys, *arguments):
    """The output of a command line that succeeds."""
    assert simulate.main(["simulate.py", *arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys, *arguments):
    """The sentence of one that does not."""
    assert simulate.main(["simulate.py", *arguments]) == 2
    found = capsys.readouterr()
    assert found.out == "" and found.err.count("\n") == 1
    return found.err


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_model_with_random_masks(capsys, tmp_path):
    path = tmp_path / "layers.csv"
    out = said(capsys, *SMALL, "--sparsity=0.9", "--layers=2", f"--csv={path}")
    assert out.startswith(
        "Machine: 16 tiles of 16 rows x 16 columns x 16 lanes, window"
    )
    assert "\nresnet8, 8 x 8: 0.9 of weights and activations zero at random" in out
    assert "Simulated, not measured. counted" in out
    found = rows(path)
    layers = {row["layer"] for row in found}
    assert len(found) == 3 * len(layers) - 1 and len(layers) == 10
    assert sum(" input gradient " in line for line in out.splitlines()) in (1, 2)
    assert {row["zeros"] for row in found if row["layer"] == found[0]["layer"]} == {
        "0.0"
    }
    total = sum(int(row["compute_cycles"]) for row in found)
    assert f" {total:,} " in out


def test_flags_of_the_machine_are_its_parameters(capsys):
    arguments = (*SMALL, "--sparsity=0.8", "--json", "--preset=tensordash")
    given = ("--rows=2", "--nosynchronised", "--skips_padding", "--bandwidth=1e6")
    plain, changed = (
        json.loads(said(capsys, *each))[0]["machines"]["tensordash"]
        for each in (arguments, (*arguments, *given))
    )
    assert (
        changed["parts"]["total"]["dense_cycles"]
        > plain["parts"]["total"]["dense_cycles"]
    )
    assert changed["rows"][0]["memory_cycles"] > plain["rows"][0]["memory_cycles"]
    assert changed["rows"][0]["multipliers"] * 2 == plain["rows"][0]["multipliers"]
    _, values = simulate_flags.parse(["simulate.py", *arguments, *given])
    machine = machine_of(values)
    assert (machine.rows, machine.synchronised, machine.skips_padding) == (
        2,
        False,
        True,
    )
    assert machine.memory.bandwidth == 1e6 and machine.skips == "sparser"


def test_machines_beside_the_published_figures(capsys, tmp_path):
    """Of another network, the published figures are not shown."""
    path = tmp_path / "machines.csv"
    out = " ".join(
        said(capsys, *SMALL, "--sparsity=0.9", "--compare", f"--csv={path}").split()
    )
    assert "cannot exceed h + 1 times" in out
    assert "This is not the authors' simulator" in out
    assert "of ResNet-50 at 0.8 and 0.9, uniformly, alone" in out
    assert "published SWAT" not in out
    found = rows(path)
    assert len(found) == 3 * len(swat_tf.simulator.SETTINGS)
    window = [row for row in found if row["machine"] == "window2"]
    assert all(1 < float(row["speed_up"]) <= 3 for row in window)
    ups = [float(row["speed_up"]) for row in found if row["part"] == "forward"]
    assert f"forward {min(ups):.2f}x to {max(ups):.2f}x" in out


@pytest.mark.slow
@pytest.mark.parametrize("sparsity", ["0.8", "0.9"])
def test_resnet50_beside_the_published_figures(capsys, tmp_path, sparsity):
    """The CSVs of docs/results/simulator.md."""
    path = tmp_path / "machines.csv"
    arguments = ("--model=resnet50", f"--sparsity={sparsity}", "--compare")
    out = " ".join(said(capsys, *arguments, f"--csv={path}").split())
    published = " ".join(f"{n:.2f}x" for n in PUBLISHED[float(sparsity)])
    assert f"published SWAT, ResNet-50 on ImageNet {published}" in out
    percent = sparsity.replace("0.", "") + "0"
    assert rows(path) == rows(
        RESULTS / "simulator" / f"resnet50_{percent}_machines.csv"
    )


def test_the_page_of_results_has_the_figures_of_its_csvs():
    page = (RESULTS / "simulator.md").read_text(encoding="utf-8")
    resnet50, trained = page.split("## Trained masks")
    shown = cells_of(resnet50)
    expected = speed_ups("resnet50_80", "resnet50_90")
    assert len(expected) == len(swat_tf.simulator.SETTINGS)
    assert expected.items() <= shown.items()
    published = [str(n) for pair in PUBLISHED.values() for n in pair]
    assert shown["**published by SWAT**"] == [f"**{n}**" for n in published]
    counted = []
    for name in ("resnet50_80", "resnet50_90"):
        found = rows(RESULTS / "simulator" / f"{name}_machines.csv")
        counted += [f"{float(row['counted']):.2f}" for row in found[:2]]
    assert shown["counted: every zero saves its time"] == counted
    layers = rows(RESULTS / "simulator" / "resnet50_90_layers.csv")
    forward = [row for row in layers if row["of_pass"] == "forward"]
    for name in ("dense_cycles", "compute_cycles", "memory_cycles"):
        assert f" {sum(int(row[name]) for row in forward):,} " in page
        assert (
            f" {sum(int(row[name]) for row in layers if row not in forward):,} " in page
        )
        assert f" {int(forward[0][name]):,} " in page
    shown = cells_of(trained)
    expected = speed_ups("quickstart_swat", "resnet8_90")
    assert len(shown) == 2 + 6  # header, rule, machines
    assert all(expected[name] == shown[name] for name in [*shown][2:])


def cells_of(page):
    """First cell -> the others, of the lines of tables with five columns."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.split("\n")
    ]
    return {cells[0]: cells[1:] for cells in lines if len(cells) == 5}


def speed_ups(*names):
    """Machine -> forward and backward speed-up in each CSV."""
    found = {}
    for name in names:
        for row in rows(RESULTS / "simulator" / f"{name}_machines.csv"):
            if row["part"] != "total":
                shown = f"{float(row['speed_up']):.2f}"
                found.setdefault(row["description"], []).append(shown)
    return found


def run_folder_with(method, folder, *arguments):
    """The folder of a run that has just begun, its task and its model."""
    plain_model.register()
    asked = settings(f"--method={method}", f"--run_dir={folder}", *arguments)
    task = task_of(asked)
    task.load()
    model = build(task, method)
    with run_folder.claim(folder, asked):
        run_folder.check_data(folder, task.data_digest, first=True)
        (folder / method).mkdir()
        checkpoints.save(folder / method / "checkpoints", model, 1, {})
    return task, model


def test_a_run_with_its_masks_and_activations(capsys, tmp_path):
    folder, path = tmp_path / "run", tmp_path / "layers.csv"
    task, model = run_folder_with("swat", folder, *IMAGES, *METHODS["swat"])
    out = said(capsys, str(folder), f"--csv={path}", "--batch_size=512")
    assert out.count("swat in ") == 1 and "activations of 32 training" in out
    [(images, _)] = task.training_batches(0, 1)
    expected = simulate_model(
        model, swat_tf.simulator.preset("tcl"), images[:32], batch=512
    )
    assert [int(row["compute_cycles"]) for row in rows(path)] == [
        row.compute_cycles for row in expected.rows
    ]
    assert expected.counted() > 2
    assert expected.table() in out
    # All products are simulated, and SWAT updates all weights.
    assert "not simulated" not in out and "part of the weights" not in out
    compared = said(capsys, str(folder), "--compare", "--examples=2")
    assert "window2" in compared
    assert "swat, which has none" in refused(
        capsys, str(folder), "--method=rigl"
    ).replace(str(folder), "swat")
    assert "on (" in refused_with_other_data(capsys, folder)


def refused_with_other_data(capsys, folder):
    (folder / "data.digest").write_text("other\n")
    return refused(capsys, str(folder))


def test_a_language_model_with_its_memory(capsys, tmp_path, text):
    folder = tmp_path / "run"
    task, model = run_folder_with(
        "topkast",
        folder,
        *("--dataset=bytes", f"--data_dir={text.parent}", "--model=txl_tiny"),
        *("--batch_size=4", "--fwd=0.5", "--bwd=0.25", "--steps=2"),
        *("--segment_length=16", "--memory_length=24"),
    )
    out = " ".join(said(capsys, str(folder)).split())
    assert "products of activations" in out and "part of the weights" in out
    operands = operands_of(model, inputs_of(task, model, 4))
    by_name = {layer.name.split("block_0/")[-1]: layer for layer in operands.layers}
    assert by_name["attention/query/kernel"].inputs == (16,)
    assert by_name["attention/key/kernel"].inputs == (40,)
    # One table of 40 distances for all examples.
    assert by_name["attention/position/kernel"].inputs == (10,)
    # The memory, which comes first, is that of earlier segments, not of zeros.
    for name, mask in operands.activations.items():
        assert mask.mean() > 0.4, name


def test_choices_are_those_of_the_simulator():
    choices = {
        flag.name: flag.choices
        for _, group in simulate_flags.GROUPS
        for flag in group
        if flag.choices
    }
    assert choices["preset"] == tuple(swat_tf.simulator.PRESETS)
    assert choices["interconnect"] == accelerator.INTERCONNECTS
    assert choices["skips"] == accelerator.SKIPS
    assert choices["metadata"] == METADATA
    assert choices["shape"] == search_space.SHAPES
    assert choices["distribution"] == random_masks.DISTRIBUTIONS


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "the folder of one run, or --model and --sparsity. Received: neither"),
        (("runs/a", "--model=resnet8"), "Received: runs/a, --model=resnet8"),
        (("--model=resnet8",), "Expected --sparsity with --model"),
        (("--model=resnet8", "--sparsity=1"), "--sparsity to be in [0, 1)"),
        (("--sparsty=0.9",), "did you mean --sparsity?"),
        (("runs/a", "--sparsity=0.9"), "Expected no --sparsity with a run"),
        (
            (*SMALL, "--sparsity=0.9", "--method=swat"),
            "Expected no --method with --model",
        ),
        (
            (*SMALL, "--sparsity=0.9", "--compare", "--tiles=2"),
            "--tiles with --compare",
        ),
        (
            (*SMALL, "--sparsity=0.9", "--preset=systolic_input", "--lanes=4"),
            "Expected no --lanes with --preset=systolic_input",
        ),
        ((*SMALL, "--sparsity=0.9", "--lanes=65"), "Received: lanes=65"),
        ((*SMALL, "--sparsity=0.9", "--look_ahead=0"), "Received: look_ahead=0"),
        ((*SMALL, "--sparsity=0.9", "--examples=3"), "--examples of at most 2"),
        ((*SMALL, "--sparsity=0.9", "--exempt=zzz"), "Received: 'zzz'"),
        ((*SMALL, "--sparsity=0.9", "--exempt=("), "Received: '('"),
        (("--model=resnet9", "--sparsity=0.9"), "did you mean resnet"),
        (("no/such/run",), "Expected the folder of a run, which holds flags.cfg"),
        (
            (*SMALL, "--sparsity=0.9", "--csv=no/such/file"),
            "--csv, a file in an existing",
        ),
    ],
)
def test_mistakes_are_one_sentence(capsys, arguments, expected):
    assert expected in refused(capsys, *arguments)
