"""The benchmarks run with tiny settings, and resume their CSVs."""

import csv
import functools
import json
import pathlib
import subprocess
import sys

import keras
import pytest

from benchmarks import (
    checkpoint_time,
    common,
    first_step_time,
    input_pipeline,
    memory,
    methods,
    model_size,
    native_refresh,
    selection_time,
    serving,
    step_time,
    swat_memory,
    swat_step_time,
    trainer_time,
)
from topkast_tf import sparse_weights, topkast_scope
from topkast_tf.kernels import library

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEP_TIME = (
    "--cases=dense_stack",
    "--jit_compile=false",
    "--positions=8",
    "--features=8",
    "--hidden=16",
    "--burst=2",
)


def _fake_measurement(variant, values):
    state = values.side**2 if variant == "sparse" else 0
    return {"resident_bytes": 100 + state, "peak_bytes": 200, "state_bytes": state}


def _fake_swat_measurement(net, variant, values):
    return {"before_bytes": 100, "peak_bytes": 200 + len(variant), "step_ms": 1.5}


def _fake_first_step(case, variant, values):
    return {"wall_ms": 1e3 * len(variant), "cpu_ms": 2e3}


@pytest.fixture(scope="module")
def compiled():
    """The functions timed by two benchmarks, compiled once for each setting.

    The tests check how rounds are measured and kept.
    """
    step_of, made = step_time.step_of, {}

    def cached(case, variant, jit_compile, values):
        flags = values.flag_values_dict()
        others = {k: v for k, v in flags.items() if k not in ("csv", "rounds")}
        key = case, variant, jit_compile, repr(sorted(others.items()))
        if key not in made:
            made[key] = step_of(case, variant, jit_compile, values)
        return made[key]

    return {step_time: cached, selection_time: functools.cache(selection_time.calls)}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, compiled):
    """Runs a benchmark with tiny settings; returns its rows and its output."""
    monkeypatch.setattr(step_time, "step_of", compiled[step_time])
    monkeypatch.setattr(selection_time, "calls", compiled[selection_time])
    monkeypatch.setattr(memory, "measure_elsewhere", _fake_measurement)
    monkeypatch.setattr(swat_memory, "measure_elsewhere", _fake_swat_measurement)
    monkeypatch.setattr(first_step_time, "measure_elsewhere", _fake_first_step)
    settings = {
        first_step_time: ("--cases=chain",),
        checkpoint_time: ("--depth=8", "--batch=2", "--steps=2"),
        swat_step_time: ("--depth=8", "--batch=2", "--burst=1"),
        swat_memory: ("--nets=vgg", "--side=8"),
        step_time: STEP_TIME,
        selection_time: ("--weights=1000",),
        memory: ("--side=16",),
        model_size: ("--depth=8", "--batch=2", "--burst=1"),
        input_pipeline: ("--cases=text", "--text_batch=2", "--burst=1"),
    }

    def run(benchmark, *arguments):
        path = tmp_path / "results.csv"
        benchmark.main(["", f"--csv={path}", *settings[benchmark], *arguments])
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        assert tuple(reader.fieldnames) == benchmark.COLUMNS
        return rows, capsys.readouterr().out

    return run


_ALL = (
    *(step_time, selection_time, memory, swat_step_time, swat_memory),
    *(input_pipeline, checkpoint_time, first_step_time, model_size),
)
_LONG = (swat_step_time, checkpoint_time, input_pipeline, model_size)
EACH = pytest.mark.parametrize("benchmark_", _ALL)
MEASURED = pytest.mark.parametrize(
    "benchmark_",
    [
        pytest.param(
            b,
            marks=[pytest.mark.slow] if b in _LONG else [],
        )
        for b in _ALL
    ],
)


@MEASURED
def test_rounds_resume_where_they_stopped(run, benchmark_):
    first, printed = run(benchmark_, "--rounds=1")
    assert sorted(row["variant"] for row in first) == sorted(benchmark_.VARIANTS)
    assert "<=" in printed  # the target, in the table
    again, printed_again = run(benchmark_, "--rounds=1")
    assert (again, printed_again) == (first, printed)
    more, _ = run(benchmark_, "--rounds=2")
    assert more[: len(first)] == first
    assert [row["round"] for row in more] == ["0"] * len(first) + ["1"] * len(first)


@MEASURED
def test_an_incomplete_round_is_measured_again(run, benchmark_, tmp_path):
    path = tmp_path / "results.csv"
    whole, _ = run(benchmark_, "--rounds=1")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:5])  # a kill, in mid-line
    rows, _ = run(benchmark_, "--rounds=1")
    count = len(benchmark_.VARIANTS)
    assert rows[: count - 1] == whole[:-1]
    assert len(rows) == 2 * count - 1
    assert {row["variant"] for row in rows[-count:]} == set(benchmark_.VARIANTS)


@pytest.mark.parametrize(
    ("benchmark_", "other"),
    [
        (step_time, "--bwd=0.5"),
        (selection_time, "--fwd=0.95"),
        (memory, "--steps=1"),
        (first_step_time, "--depth=3"),
        (swat_memory, "--filters=3"),
    ],
)
def test_rows_of_other_settings_do_not_count(run, benchmark_, other):
    first, _ = run(benchmark_, "--rounds=1")
    both, printed = run(benchmark_, "--rounds=1", other)
    assert len(both) == 2 * len(first)
    assert both[: len(first)] == first


@EACH
def test_no_round_starts_after_the_time_limit(run, benchmark_):
    rows, printed = run(benchmark_, "--seconds=1e-9")
    assert rows == []
    assert "no round yet" in printed


@EACH
def test_help_has_an_example(benchmark_, capsys):
    with pytest.raises(SystemExit) as exit_:
        benchmark_.main(["", "--help"])
    printed = capsys.readouterr().out
    assert exit_.value.code == 0
    for word in (
        "What the figures do not say",
        "Example: python",
        "--rounds: ",
        "--csv",
    ):
        assert word in printed


@EACH
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rouns=1"], "rouns"),
        (["--rounds=0"], "rounds=0"),
        (["fast"], "Received: 'fast'"),
        (["--csv=missing/results.csv"], "Received: missing/results.csv"),
    ],
)
def test_bad_input_is_reported_in_one_sentence(benchmark_, arguments, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        benchmark_.main(["", *arguments])
    error = capsys.readouterr().err
    assert exit_.value.code == common.BAD_INPUT
    assert error.startswith("error: ")
    assert message in error


@EACH
def test_unrelated_csv_is_refused_and_kept(benchmark_, tmp_path, capsys):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit):
        benchmark_.main(["", f"--csv={path}"])
    assert "Received" in capsys.readouterr().err
    assert path.read_text() == "a,b\n1,2\n"


@pytest.mark.slow
@pytest.mark.parametrize("variant", first_step_time.VARIANTS)
def test_first_step_time_in_its_own_process(variant):
    values = common.parse(
        ["", "--depth=2", "--width=4"], "", first_step_time.define_flags
    )
    found = first_step_time.measure_elsewhere("chain", variant, values)
    assert set(found) == set(first_step_time.COLUMNS[-2:])
    assert all(0 < ms < 1e5 for ms in found.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--cases=resnet50"], "resnet50"), (["--measure=sparsest"], "sparsest")],
)
def test_first_step_time_refuses_unknown_values(arguments, message, capsys):
    with pytest.raises(SystemExit):
        first_step_time.main(["", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--cases=resnet50", "resnet50"), ("--jit_compile=maybe", "maybe")],
)
def test_unknown_cases_are_refused(flag, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        step_time.main(["", f"--csv={tmp_path / 'results.csv'}", flag])
    assert f"Received: ['{message}']" in capsys.readouterr().err


def test_the_variants_refresh_as_their_names_say(monkeypatch):
    values = common.parse(["", *STEP_TIME], "", step_time.define_flags)
    build, made = step_time.build, {}
    for variant in step_time.VARIANTS:

        def recorded(*arguments, variant=variant):
            made[variant] = build(*arguments)
            return made[variant]

        monkeypatch.setattr(step_time, "build", recorded)
        step_time.step_of("dense_stack", variant, False, values)()
    weights = {variant: sparse_weights(model) for variant, model in made.items()}
    assert weights["dense"] == weights["dense_again"] == []
    assert len(weights["sparse"]) == len(weights["refreshing"]) == 2
    for variant, refreshes in (("sparse", False), ("refreshing", True)):
        for weight in weights[variant]:
            assert weight.step == 3  # two to warm up
            schedule = weight.method.schedule
            assert [schedule.due(step) for step in (1, 100)] == [refreshes] * 2


def test_timed_mobilenet_is_that_of_keras():
    values = common.parse(["", "--mobilenet_batch=2"], "", step_time.define_flags)
    model = step_time.build("mobilenetv2", values)
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 10))
    assert step_time.size_of("mobilenetv2", values) == "mobilenetv2, batch 2"


def test_the_timed_resnet_has_the_cifar_shape():
    values = common.parse(["", "--depth=8"], "", step_time.define_flags)
    with topkast_scope(fwd=0.9, bwd=0.8):
        model = step_time.build("resnet20", values)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 10)
    assert (
        len(sparse_weights(model)) == 6 + 1 + 2 + 1
    )  # blocks, stem, shortcuts, logits


def test_memory_in_its_own_process():
    command = [sys.executable, str(ROOT / "benchmarks" / "memory.py")]
    command += ["--measure=sparse", "--side=64", "--steps=1", "--nojit_compile"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(memory.COLUMNS[5:])
    # One byte per entry, and the counters of the one kernel: a few int64.
    assert 64 * 64 <= found["state_bytes"] <= 64 * 64 + 64
    assert 0 < found["resident_bytes"] <= found["peak_bytes"]
    assert memory.measure("dense", 8, 0, False)["state_bytes"] == 0


def test_ratios_by_hand():
    dense, sparse, refreshing = (common.Times(t, 2 * t) for t in (100, 101, 150))
    times = {"dense": dense, "sparse": sparse, "refreshing": refreshing}
    assert step_time.ratio(times, "wall", 1) == pytest.approx(1.5)
    assert step_time.ratio(times, "cpu", 100) == pytest.approx((99 * 1.01 + 1.5) / 100)


def test_spread_by_hand():
    assert common.spread([5.0]) == (5.0, 5.0, 5.0)
    assert common.spread([4.0, 1.0, 2.0, 3.0, 50.0]) == (3.0, 2.0, 4.0)


@pytest.mark.slow
def test_memory_of_a_swat_step_in_its_own_process():
    command = [sys.executable, str(ROOT / "benchmarks" / "swat_memory.py")]
    command += ["--measure=resnet:packed", "--side=8", "--batch=2", "--filters=4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(swat_memory.COLUMNS[-3:])
    assert 0 < found["before_bytes"] <= found["peak_bytes"]


def test_swat_variants_find_thresholds_as_their_names_say():
    periods = {
        name: how and how["topk_period"]
        for name, how in swat_step_time.VARIANTS.items()
    }
    never = swat_step_time.NEVER
    assert list(periods.values()) == [None, None, never, 1, never]
    assert "packed" not in swat_step_time.variants(jit_compile=True)


def test_a_stripped_model_is_small_once_compressed():
    values = common.parse(["", "--depth=8"], "", model_size.define_flags)
    models = model_size.build(values)
    kinds = [bool(sparse_weights(model)) for model in models.values()]
    assert (tuple(models), kinds) == (model_size.VARIANTS, [False, True, False])
    formats = ("keras", "weights_h5")
    sizes = {
        name: model_size.sizes_of(model, formats) for name, model in models.items()
    }
    for name in formats:
        dense, sparse, stripped = (sizes[v][f"{name}_gzip"] for v in sizes)
        assert stripped < 0.5 * dense < 0.5 * sparse
    for found in sizes.values():
        assert found["weights_h5_gzip"] < found["weights_h5"]


@pytest.mark.slow
def test_trainer_time_has_every_variant_of_every_case(tmp_path, capsys):
    path = tmp_path / "results.csv"
    trainer_time.main(["", f"--csv={path}", "--rounds=2", "--burst=1"])
    with open(path, newline="") as file:
        found = [(row["case"], row["variant"]) for row in csv.DictReader(file)]
    assert sorted(set(found)) == sorted(
        (case, variant)
        for case in trainer_time.CASES
        for variant in trainer_time.VARIANTS
    )
    assert len(found) == 2 * len(set(found))
    assert capsys.readouterr().out.count("<= 1.03") == 4


@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("selection", ("--weights=5000",)),
        pytest.param("mobilenetv2", ("--side=32", "--batch=2"), marks=pytest.mark.slow),
        pytest.param(
            "plans",
            ("--layers=1", "--width=32", "--batch=2", "--length=8"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_native_refresh(case, arguments, tmp_path, capsys):
    if library.why_unavailable() is not None:
        pytest.skip(str(library.why_unavailable()))
    path = tmp_path / "results.csv"
    command = ["", f"--csv={path}", f"--cases={case}", "--burst=1", *arguments]
    native_refresh.main([*command, "--rounds=1"])
    native_refresh.main([*command, "--rounds=2"])
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    variants = native_refresh.VARIANTS[case]
    assert sorted(row["variant"] for row in rows) == sorted(2 * variants)
    assert all(variant in capsys.readouterr().out for variant in variants[:1])


def test_methods_are_compared_and_resume(tmp_path, monkeypatch, capsys):
    def found(variant, values):
        asked.append(variant)
        return {"wall_ms": 2.0, "cpu_ms": 2.0 * len(variant), "memory_bytes": 100}

    asked, path = [], tmp_path / "methods.csv"
    monkeypatch.setattr(methods, "measure_elsewhere", found)
    command = ["", f"--csv={path}", "--methods=set"]
    methods.main([*command, "--rounds=1"])
    methods.main([*command, "--rounds=2"])
    assert sorted(asked) == sorted(2 * ["dense", "dense_again", "set"])
    # 3 letters over 5
    assert "0.600 (0.600 to 0.600)" in capsys.readouterr().out


@pytest.mark.parametrize("variant", methods.METHODS)
def test_each_method_of_the_comparison_can_be_built(variant):
    with methods.scope_of(variant, 0.9, 100, "auto"):
        keras.Sequential(
            [keras.Input((32,)), *(keras.layers.Dense(32) for _ in range(3))]
        )


def test_every_method_is_compared():
    from topkast_tf.methods import METHODS

    compared = {name for name, _ in methods.METHODS.values()} | {"grasp", "synflow"}
    assert {name for name in METHODS if name != "swat"} <= compared


def test_native_refresh_refuses_unknown_cases(capsys):
    with pytest.raises(SystemExit):
        native_refresh.main(["", "--cases=resnet"])
    assert "Received: ['resnet']" in capsys.readouterr().err


def test_serving_compares_the_engines_and_resumes(tmp_path, monkeypatch, capsys):
    small = serving.Case(serving._dense(16, 32, 8), serving._normal(16))
    monkeypatch.setattr(serving, "CASES", {"small": small})
    monkeypatch.setattr(serving, "engines", lambda: ("keras", "native"))
    arguments = ["", "--cases=small", "--sparsities=0.9", "--batches=1,3", "--rounds=1"]
    arguments += ["--burst=1", f"--csv={tmp_path / 'serving.csv'}"]
    for _ in range(2):
        serving.main(arguments)
        rows = (tmp_path / "serving.csv").read_text().splitlines()
        assert len(rows) == 1 + 2 * 2
    printed = capsys.readouterr().out
    assert "small, batch 3, 90%" in printed and "native over the fastest" in printed
    with pytest.raises(SystemExit):
        serving.main(["", "--cases=resnet"])
    assert "Expected --cases of small" in capsys.readouterr().err
