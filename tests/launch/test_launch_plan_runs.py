"""Plans of whole runs: every flagfile, published costs, studies, large networks."""

import json
import resource
import time

import pytest

from launch import plan
from launch.models import transformer_xl_config
from launch.models.transformer_xl_counts import count_kept, count_parameters
from tests.launch.plans import ROOT, bytes_of, planned, settings_of

FOLDER = ROOT / "launch" / "flagfiles"
NAMES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.cfg"))
QUICK = (
    "quickstart.cfg",
    "quickstart_text.cfg",
    "swat_cifar/base.cfg",
    "swat_cifar/cifar100_vgg16_m90.cfg",
    "swat_imagenet/resnet50_channel70.cfg",
    "topkast_imagenet/resnet50_90_80_random.cfg",
    "topkast_language/wikitext103_large_80_60.cfg",
)
TWENTY_BILLION = (
    *("--dataset=bytes", "--vocabulary=50000", "--layers=44", "--d_model=6144"),
    *("--heads=64", "--d_head=96", "--d_inner=24576", "--segment_length=1024"),
    *("--memory_length=1024", "--batch_size=64", "--steps=100000"),
)


@pytest.mark.parametrize("name", QUICK)
def test_flagfile_is_planned(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = planned(f"--flagfile=launch/flagfiles/{name}")
    dense, forward, backward = found.in_all()
    assert 0 < forward <= backward <= dense
    assert 0 < found.flops.sparse.training <= found.flops.dense.training
    assert found.memory.total("sparse") < found.memory.total("here")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_flagfile_is_planned(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    start = time.process_time()
    said = plan.run(settings_of(f"--flagfile=launch/flagfiles/{name}", "--json"))
    assert time.process_time() - start < 10
    said = json.loads(said)
    for one in [row["plan"] for row in said.get("runs", [])] or [said]:
        assert one["flops"]["all_dense"] >= one["flops"]["all_sparse"] > 0


def test_planned_flops_of_a_published_run_match_the_paper(monkeypatch):
    # RigL and Top-KAST give 3.2e18 FLOPs for 32,000 steps of dense ResNet-50.
    monkeypatch.chdir(ROOT)
    flagfile = "launch/flagfiles/topkast_imagenet/resnet50_90_80.cfg"
    dense, sparse = planned(f"--flagfile={flagfile}").flops_in_all
    assert dense == pytest.approx(3.2e18, rel=0.01)
    assert 0.1 < sparse / dense < 0.2


def test_study_is_planned(monkeypatch):
    monkeypatch.chdir(ROOT)
    flagfile = "--flagfile=launch/flagfiles/sensitivity_digits.cfg"
    said = plan.run(settings_of(flagfile, "--studies=dense,swat,freeze"))
    # 64.5 GFLOP a run: 293 MFLOP a step, 22 steps an epoch, 10 epochs.
    assert [line.split() for line in said.splitlines()[2:5]] == [
        "dense 1 64.5 GFLOP 64.5 GFLOP 1.000".split(),
        "swat, 0.9 1 64.5 GFLOP 7.16 GFLOP 0.111".split(),
        "freeze, 0.9 2 129 GFLOP 14.3 GFLOP 0.111".split(),
    ]


def test_twenty_billion_parameters_are_planned_in_seconds():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    found = planned(*TWENTY_BILLION, "--device_memory=80")
    assert time.process_time() - start < 10
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 500_000  # kilobytes, of some 88 GB of weights
    config = transformer_xl_config.find("txl_small").replaced(
        vocabulary=50_000,
        layers=44,
        d_model=6144,
        heads=64,
        d_head=96,
        d_inner=24576,
        segment_length=1024,
        memory_length=1024,
    )
    dense, forward, _ = found.in_all()
    assert dense == count_parameters(config) == pytest.approx(21.9e9, rel=0.01)
    assert forward == count_kept(config, 0.9)
    # Six FLOPs per parameter and token, plus attention.
    usual = 6 * dense * 64 * 1024
    assert usual < found.flops.dense.training < 1.4 * usual
    assert [fit.devices for fit in found.fits.values()] == [None] * 3


def test_plan_reports_what_does_not_fit_in_memory():
    arguments = ("--dataset=cifar10", "--model=resnet20", "--batch_size=128")
    [line] = [
        line
        for line in plan.run(settings_of(*arguments, "--device_memory=0.1")).split("\n")
        if "as run here" in line and "fit" in line
    ]
    assert "does not fit; it would on 4 devices, with 32 of the batch on each" in line
    said = plan.run(settings_of(*arguments, "--device_memory=0.1", "--replicas=4"))
    assert said.count(" fits.") == 3
    said = plan.run(settings_of(*arguments, "--device_memory=0.001"))
    assert said.count("nor would it on 128 devices: with one image each needs") == 3


def test_published_texts_are_planned_without_their_files():
    found = planned("--dataset=enwik8", "--epochs=2", "--batch_size=10")
    assert found.steps == 2 * ((90_000_000 - 1) // 10 // 64)
    shapes = {p.path.split("/", 1)[1]: p.size for p in found.network.parameters}
    assert shapes["softmax/bias_0"] == 205


def test_custom_text_is_read_without_writing_files(tmp_path):
    file = tmp_path / "text"
    file.write_bytes(b"abcd" * 2500)
    arguments = ("--dataset=bytes", f"--data_dir={file}", "--segment_length=8")
    found = planned(*arguments, "--batch_size=2", "--epochs=1")
    assert found.steps == (9000 - 1) // 2 // 8
    biases = [p for p in found.network.parameters if p.path.endswith("bias_0")]
    assert [p.size for p in biases] == [4]
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_flops_of_a_run_include_the_end_of_exploration():
    longer = planned("--steps=100", "--fwd=0.9", "--bwd=0.5")
    stopped = planned("--steps=100", "--fwd=0.9", "--bwd=0.5", "--stop_exploring_at=40")
    masked = planned("--steps=100", "--fwd=0.9", "--bwd=0.9")
    expected = 0.4 * longer.flops_in_all[1] + 0.6 * masked.flops_in_all[1]
    assert stopped.flops_in_all[1] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "dense_steps"),
    [
        (("--method=snip",), 1),
        (("--method=grasp", "--prune_batches=4"), 12),
        (("--method=synflow", "--prune_rounds=50", "--batch_size=25"), 2),
    ],
)
def test_flops_of_a_run_include_pruning_before_training(arguments, dense_steps):
    found = planned("--steps=100", "--sparsity=0.9", *arguments)
    dense = found.flops.dense.training
    expected = 100 * found.flops.sparse.training + dense_steps * dense
    assert found.flops_in_all == (100 * dense, pytest.approx(expected))


def test_gradients_of_swat_are_dense_unless_updates_are_masked():
    dense = planned("--method=swat").exchange
    assert dense.packed == dense.dense
    masked = planned("--method=swat", "--updates=masked").exchange
    assert masked.packed < 0.15 * masked.dense


def test_devices_share_the_batch_and_not_the_weights():
    one, four = planned("--batch_size=64"), planned("--batch_size=64", "--replicas=4")
    for place, (alone, shared) in {
        name: (bytes_of(one.memory)[name][1], bytes_of(four.memory)[name][1])
        for name in ("activations", "weights")
    }.items():
        assert shared == (alone // 4 if place == "activations" else alone)
