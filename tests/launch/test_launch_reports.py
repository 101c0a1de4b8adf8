"""Reports: what is read, what is compared, what the page holds, what is refused."""

import csv
import json
import math
import pathlib
import re
import shutil
from html.parser import HTMLParser

import keras
import matplotlib.pyplot
import numpy as np
import pytest
from tensorflow.python.framework import config

from launch import models, report, simulate, train
from launch.config import report_flags, simulate_flags
from launch.plots import pareto
from launch.reports import making
from launch.reports.costs import Costed, CostRow, cost_rows
from launch.reports.groups import dense_of, differing, groups_of
from launch.reports.inputs import inputs_of
from launch.reports.pictures import Pictures
from launch.reports.records import Record, records_of
from launch.reports.weights import weights_of
from launch.run.building import build
from launch.storage import checkpoints
from launch.support.errors import UserError
from launch.sweeps.cells import cells
from launch.tasks import task_of
from tests.launch import browser, plain_model
from tests.launch.runs import IMAGES, settings
from topkast_tf import count_memory
from topkast_tf.analysis.memory_report import scaled

SWEEP = "docs/results/sweep_cifar10/sweep.csv"
FLAGS = (*IMAGES, "--fwd=0.8", "--bwd=0.6", "--refresh_every=2", "--compare_dense")


class Parsed(HTMLParser):
    """The tables of a page by the ids of their sections, and all that it refers to."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.links, self.ids, self._section = {}, [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [v for n, v in attributes if n.split(":")[-1] in ("href", "src")]
        if tag == "section":
            self._section = given["id"]
        elif tag == "table":
            self.tables.setdefault(self._section, []).append([])
        elif tag == "tr":
            self.tables[self._section][-1].append([])
        elif tag in ("td", "th"):
            self.tables[self._section][-1][-1].append("")

    def handle_data(self, data):
        rows = self.tables.get(self._section, [[]])[-1]
        if rows and rows[-1] and self.lasttag in ("td", "th"):
            rows[-1][-1] += data


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of a small network, dense and sparse, and one with another seed."""
    plain_model.register()
    folder = tmp_path_factory.mktemp("runs")
    try:
        assert train.main(["train.py", *FLAGS, f"--run_dir={folder / 'first'}"]) == 0
    finally:
        # A run enables it for its process, which here other tests go on in.
        config.disable_op_determinism()
    shutil.copytree(folder / "first", folder / "second")
    flags = folder / "second" / "flags.cfg"
    flags.write_text(flags.read_text().replace("--seed=0", "--seed=1"))
    for method in ("dense", "topkast"):
        change(folder / "second" / method / "metrics.csv", "test_accuracy", 0.25)
        result = folder / "second" / method / "result.json"
        values = json.loads(result.read_text())
        result.write_text(json.dumps({**values, "test_accuracy": 0.25}))
    return folder


def change(path, column, value):
    """Sets a column of a table."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, column: value} for row in rows)


@pytest.fixture
def copy(runs, tmp_path):
    """A run that a test may damage."""
    return shutil.copytree(runs / "first", tmp_path / "run")


@pytest.fixture
def bare(copy):
    """A copy without checkpoints, for what is not read from them."""
    for method in ("dense", "topkast"):
        shutil.rmtree(copy / method / "checkpoints")
    return copy


@pytest.fixture
def undrawn(monkeypatch):
    """Figures have their names, but are not drawn, which takes most of the time."""

    def named(self, figure, name, alt, caption=""):
        matplotlib.pyplot.close(figure)
        self.files[f"{name}.png"] = b""
        return f"<figure>{alt}</figure>"

    monkeypatch.setattr(Pictures, "drawn", named)


@pytest.fixture(scope="module")
def page(runs):
    return made_of(runs)


def made_of(runs):
    """The page on both runs; few layers, as each takes a while to draw."""
    return making.made(inputs_of([str(runs / "first"), str(runs / "second")]), layers=1)


@pytest.fixture(scope="module")
def sweep_page():
    return making.made(inputs_of([SWEEP]))


@pytest.fixture
def sweep(tmp_path):
    """Writes a sweep whose rows differ from those of the real one."""

    def write(**columns):
        path = shutil.copy(SWEEP, tmp_path / "sweep.csv")
        if "variant" in columns:
            head = pathlib.Path(path).read_text().splitlines()[:2]
            pathlib.Path(path).write_text("\n".join(head) + "\n")
        for column, value in columns.items():
            change(path, column, value)
        return inputs_of([str(path)])

    return write


# --- What is read --------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_alone_are_a_group(runs):
    records = records_of(runs / "first") + records_of(runs / "second")
    dense, sparse = groups_of(records)
    assert (dense.label, sparse.label) == ("dense", "topkast")
    assert sparse.seeds == "0, 1" and dense_of(sparse, [sparse, dense]) is dense
    line = sparse.line("test_accuracy", lambda row: row["step"], 100)
    ours = [100 * row["test_accuracy"] for row in records[1].rows]
    assert line.x == [4, 7] and line.has_band
    for place, value in enumerate(ours):
        assert line.mean[place] == pytest.approx((value + 25) / 2)
        assert line.low[place] == pytest.approx(min(value, 25))
        assert line.high[place] == pytest.approx(max(value, 25))


def test_labels_and_flags_name_what_differs(copy, runs):
    flags = copy / "flags.cfg"
    flags.write_text(flags.read_text().replace("--fwd=0.8", "--fwd=0.9"))
    groups = groups_of(records_of(runs / "first") + records_of(copy))
    labels = [group.label for group in groups]
    assert labels == ["dense", "topkast fwd=0.8", "topkast fwd=0.9"]
    assert len(groups[0].records) == 2  # the dense runs do not have the flag
    # Flags that a dense run does not have do not make it differ.
    assert differing(groups) == ["method", "fwd"]


def test_dense_runs_with_other_training_are_not_compared(copy, runs):
    flags = copy / "flags.cfg"
    flags.write_text(flags.read_text().replace("--steps=7", "--steps=8"))
    _, sparse = groups_of(records_of(runs / "first"))
    dense, _ = groups_of(records_of(copy))
    assert dense_of(sparse, [dense, sparse]) is None


# --- The page ------------------------------------------------------------------------


def test_the_page_has_every_part_and_its_tables(page):
    parsed = Parsed(page.html)
    sections = ("results", "training", "costs", "masks", "layers", "values")
    for name in (*sections, "flags", "environment"):
        assert parsed.tables[name], name
    head, dense, sparse = parsed.tables["results"][0]
    assert [dense[0], sparse[0]] == ["dense", "topkast"] and "±" in dense[3]
    names = [name.removesuffix(".png") for name in page.files]
    for name in (
        *(f"test-accuracy-over-{x}" for x in ("step", "flops", "seconds")),
        *("masks-0-churn", "masks-0-forward-sparsity", "values-0-0", "sets-0-0"),
        *("layers-0-sparsity", "layers-0-flops", "layers-0-weights"),
    ):
        assert name in names
    assert all(content.startswith(b"\x89PNG") for content in page.files.values())


def test_the_page_refers_to_nothing_outside_and_its_ids_are_unique(page):
    parsed = Parsed(page.html)
    outside = [x for x in parsed.links if not x.startswith(("#", "data:"))]
    assert not outside and not re.search(r"https?://|@import|<script", page.html)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {x[1:] for x in parsed.links if x[:1] == "#"} <= set(parsed.ids)
    # References within the charts, too.
    assert set(re.findall(r"url\(#([^)]*)\)", page.html)) <= set(parsed.ids)


def test_the_page_names_no_folder_of_the_machine(page, runs):
    assert str(runs) not in page.html


@pytest.mark.slow
def test_a_report_made_again_is_equal(page, runs, tmp_path):
    again = made_of(runs)
    assert again == page
    making.write(page, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    making.write(again, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_pictures_that_a_page_no_longer_has_are_removed(page, sweep_page, tmp_path):
    making.write(page, tmp_path)
    (tmp_path / "mine.png").write_bytes(b"")
    making.write(sweep_page, tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"index.html", "mine.png", *sweep_page.files}


def test_costs_are_those_of_the_results(page, runs):
    results = {
        method: json.loads((runs / "first" / method / "result.json").read_text())
        for method in ("dense", "topkast")
    }
    rows = {row[0]: row for row in Parsed(page.html).tables["costs"][0]}
    sparse = results["topkast"]
    name, kind, dense, kept, ratio = rows["parameters in a forward pass"]
    assert kind == "counted" and kept == f"{sparse['kept_parameters']:,}"
    assert rows["training, 7 steps"][4] == f"{sparse['training_flops_ratio']:.3f}"
    seconds = [results[method]["processor_seconds"] for method in results]
    assert rows["the run, of all processors"][1] == "measured"
    ratio = float(rows["the run, of all processors"][4])
    assert ratio == pytest.approx(seconds[1] / seconds[0], abs=1e-3)
    assert float(rows["operations of selections"][2]) == 0


def test_simulated_cycles_are_those_of_the_command(page, runs):
    said = simulate.run(
        *simulate_flags.parse(
            ["simulate.py", str(runs / "first"), "--method=topkast", "--json"]
        )
    )
    [found] = json.loads(said)
    total = next(iter(found["machines"].values()))["parts"]["total"]
    rows = {row[0]: row for row in Parsed(page.html).tables["costs"][0]}
    _, kind, dense, sparse, _ = rows["a step, cycles"]
    assert kind == "simulated"
    assert [dense, sparse] == [
        f"{total[name]:,}" for name in ("dense_cycles", "compute_cycles")
    ]
    assert rows["a step, cycles with memory"][3] == f"{total['cycles']:,}"


def test_memory_is_counted_beside_that_of_the_dense_network(page, runs):
    model, *_ = checkpoints.restore(runs / "first" / "topkast" / "checkpoints")
    dense, *_ = checkpoints.restore(runs / "first" / "dense" / "checkpoints")
    [record, _] = records_of(runs / "first")
    specs = task_of(record.settings).batch_spec
    rows = {row[0]: row for row in Parsed(page.html).tables["costs"][0]}
    _, kind, before, after, _ = rows["memory of a step as run, at most"]
    assert kind == "counted"
    assert before == scaled(count_memory(dense, *specs).peak)
    assert after == scaled(count_memory(model, *specs).peak)
    _, _, before, after, _ = rows["memory on a device without zeros"]
    assert before == scaled(count_memory(dense, *specs).as_run.total)
    assert after == scaled(count_memory(model, *specs).on_sparse_device.total)


@pytest.mark.parametrize("dataset", ["digits", "python"])
def test_the_spec_of_a_batch_is_that_of_its_batches(dataset):
    model = "txl_tiny" if dataset == "python" else "resnet8"
    task = task_of(settings(f"--dataset={dataset}", f"--model={model}"))
    task.load()
    [(inputs, targets, *_)] = task.training_batches(0, 1)
    for tensor, spec in zip((inputs, targets), task.batch_spec, strict=True):
        assert spec.is_compatible_with(tensor)


def test_cycles_are_left_out_where_the_data_is_not_at_hand(copy, undrawn):
    (copy / "data.digest").write_text("of other data\n")
    html = making.made(inputs_of([str(copy)])).html
    assert "Cycles could not be simulated" in html
    assert "a step, cycles" not in html and str(copy) not in html


def test_costs_without_a_checkpoint_are_the_measured_ones(runs):
    dense, sparse = groups_of(records_of(runs / "first"))
    rows = cost_rows(Costed(sparse, dense, None, "image"))
    assert {row.kind for row in rows} == {"measured"}
    alone = cost_rows(Costed(sparse, None, None, "image"))
    assert [row.dense for row in alone] == [None] * len(rows)
    assert CostRow("measured", "x", 0.0, 1.0, str).ratio is None


def costs_of(model, monkeypatch, *arguments):
    """The table of costs of a run of four steps, of which there is no folder."""
    asked = settings("--dataset=digits", "--steps=4", *arguments)
    task = task_of(asked)
    task.width_factor = 0.5
    model = model(task)
    monkeypatch.setattr(checkpoints, "restore", lambda folder: (model, None, ()))
    rows = ({"step": 4.0, "seconds": 1.0},)
    record = Record(pathlib.Path("run"), asked.method, asked, rows, (), None)
    [group] = groups_of([record])
    read = weights_of(record, 0, simulate=False)
    return task, {
        row.name: row for row in cost_rows(Costed(group, None, read, "image"))
    }


def test_a_smaller_network_costs_less_than_the_dense_one(monkeypatch):
    def network(image_shape, classes, width=1.0):
        layers = [keras.layers.Flatten(), keras.layers.Dense(round(32 * width))]
        return keras.Sequential(
            [keras.Input(image_shape), *layers, keras.layers.Dense(classes)]
        )

    def small(task):
        model = task.build()
        task.compile(model, "sgd")
        return model

    monkeypatch.setitem(models.MODELS, "wide", network)
    asked = ("--model=wide", "--method=small_dense", "--sparsity=0.8")
    task, rows = costs_of(small, monkeypatch, *asked)
    parameters = rows["parameters in a forward pass"]
    assert (parameters.dense, parameters.sparse) == (65 * 32 + 330, 65 * 16 + 170)
    training = rows["training, 4 steps"]
    assert training.dense == 4 * task.units_a_step * 6 * (64 * 32 + 320)
    assert training.ratio == 0.5
    memory = rows["memory on a device without zeros"]
    dense = build(task, "dense")
    assert memory.dense == count_memory(dense, *task.batch_spec).as_run.total
    assert memory.ratio < 0.8


def test_pruning_before_training_is_part_of_its_costs(monkeypatch):
    plain_model.register()
    asked = ("--model=plain", "--method=grasp", "--sparsity=0.75", "--prune_batches=2")
    _, rows = costs_of(lambda task: build(task, "grasp"), monkeypatch, *asked)
    # Three dense steps for each of two batches, beside four of training.
    steps = rows["training, each image"].ratio + 6 / 4
    assert rows["training, 4 steps"].ratio == pytest.approx(steps)


def test_text_of_a_run_cannot_be_markup(bare, undrawn):
    flags = bare / "flags.cfg"
    flags.write_text(flags.read_text() + "--exempt=<script>alert(1)</script>\n")
    assert "<script" not in making.made(inputs_of([str(bare)])).html


def test_a_table_without_the_first_metric_shows_the_next(bare, undrawn):
    for method in ("dense", "topkast"):
        metrics = bare / method / "metrics.csv"
        text = metrics.read_text().replace("test_accuracy", "old", 1)
        metrics.write_text(text, encoding="utf-8-sig")  # as spreadsheets save it
    assert "test-top5-over-step.png" in making.made(inputs_of([str(bare)])).files


def test_another_metric_and_number_of_layers(copy, undrawn):
    inputs = inputs_of([str(copy)])
    made = making.made(inputs, "train_loss", 0, simulate=False)
    for method in ("dense", "topkast"):
        shutil.rmtree(copy / method / "checkpoints")
    assert "train-loss-over-flops.png" in made.files
    assert not any(name.startswith(("values", "sets")) for name in made.files)
    with pytest.raises(UserError, match="--metric to be one of step, .*'accuracy'"):
        making.made(inputs, "accuracy")


# --- A sweep -------------------------------------------------------------------------


def test_the_page_of_a_sweep_has_its_table_and_charts(sweep_page):
    made = sweep_page
    head, first, *_ = Parsed(made.html).tables["results"][0]
    assert head[4] == "to dense" and first[:2] == ["dense", ""]
    rows = {tuple(row[:2]): row for row in Parsed(made.html).tables["results"][0]}
    # Over the dense network, not over itself.
    assert float(rows["small_dense", "0.9"][5]) == pytest.approx(0.113)
    assert [name.startswith("pareto") for name in made.files] == [True] * 3


def test_the_baseline_of_a_sweep_can_be_chosen(undrawn):
    made = making.made(inputs_of([SWEEP]), baseline="static")
    assert Parsed(made.html).tables["results"][0][0][4] == "to static"
    with pytest.raises(UserError, match="--baseline to be one of .* 'none'"):
        making.made(inputs_of([SWEEP]), baseline="none")


@pytest.mark.parametrize("metric", ["variant", "arguments", "none"])
def test_columns_of_a_sweep_that_are_no_numbers_are_no_metrics(metric, undrawn):
    with pytest.raises(UserError, match=f"--metric to be one of .* {metric}"):
        making.made(inputs_of([SWEEP]), metric)


def test_a_sweep_of_runs_that_have_all_diverged_has_its_table(sweep):
    made = making.made(sweep(test_accuracy="nan"))
    assert "No run of this table has a finite metric" in made.html
    assert {row[3] for row in Parsed(made.html).tables["results"][0][1:]} == {
        "diverged"
    }
    assert not made.files


def test_text_of_a_sweep_cannot_be_markup(sweep, monkeypatch):
    monkeypatch.setattr(pareto, "COSTS", pareto.COSTS[:1])  # one figure is enough
    # In the PNG, a label is no mathematics, which this would be a mistake in.
    given = sweep(variant="<b>$\\bad{$&", sparsity="", arguments="--x='<b>")
    made = making.made(given)
    assert "<b>" not in made.html
    assert "<span>&lt;b&gt;$\\bad{$&amp;</span>" in made.html


def test_a_sweep_without_a_column_of_its_own_is_one_sentence(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text("variant,sparsity,seed\na,0.9,0\n")
    with pytest.raises(UserError, match="seed, wall_seconds, .*arguments. Received"):
        inputs_of([str(path)])


# --- Runs that have not ended --------------------------------------------------------


def test_a_run_that_goes_on_has_a_report_so_far(copy, undrawn):
    (copy / "topkast" / "result.json").unlink()
    made = making.made(inputs_of([str(copy)]), simulate=False)
    assert made.notices == (
        "Not all runs have ended; this is a report so far.",
        "run, topkast: step 7 of 7 so far.",
    )
    assert made.notices[1] in made.html and "sets-0-0.png" in made.files


def test_a_run_that_has_just_begun_has_a_report(copy, undrawn):
    for method in ("dense", "topkast"):
        shutil.rmtree(copy / method)
    made = making.made(inputs_of([str(copy)]))
    assert "run, topkast: not evaluated yet." in made.notices
    assert "There is no checkpoint." in made.html and not made.files


def test_half_a_line_of_a_run_that_is_training_is_no_fault(bare, undrawn):
    dynamics = bare / "topkast" / "mask_dynamics.csv"
    dynamics.write_text(dynamics.read_text() + "6,0.")
    metrics = bare / "topkast" / "metrics.csv"
    metrics.write_text(metrics.read_text() + "8")
    assert "masks-0-churn.png" in making.made(inputs_of([str(bare)])).files


def test_losses_that_are_not_finite_leave_a_gap(bare, undrawn):
    change(bare / "topkast" / "metrics.csv", "test_loss", "nan")
    made = making.made(inputs_of([str(bare)]))
    assert "test-loss-over-step.png" in made.files  # of the dense run
    assert "nan" not in re.findall(r"\w+", made.html.lower())


def test_damaged_checkpoints_are_named_and_the_rest_is_shown(copy, undrawn):
    for path in (copy / "topkast" / "checkpoints").glob("*.keras"):
        path.write_bytes(path.read_bytes()[:100])
    made = making.made(inputs_of([str(copy)]))
    assert "test-accuracy-over-step.png" in made.files
    assert "layers-0-flops.png" not in made.files
    layers = made.html.split('<section id="layers">')[1].split("</section>")[0]
    assert "checkpoint" in layers
    assert str(copy) not in made.html


# --- What is refused -----------------------------------------------------------------


def said(capsys, *arguments):
    """What the program says of a mistake: one line."""
    assert report.main(["report.py", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "Expected" in err
    return err


def test_folders_and_files_of_others_are_one_sentence(tmp_path, capsys, runs):
    assert "flags.cfg" in said(capsys, tmp_path)
    assert "flags.cfg" in said(capsys, tmp_path / "none")
    assert "or one CSV of a sweep" in said(capsys)
    assert "or one CSV of a sweep" in said(capsys, SWEEP, runs / "first")
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    assert str(other) in said(capsys, other)
    other.write_bytes(b"\xff\xfe\x00")
    assert str(other) in said(capsys, other)
    assert str(tmp_path / "no.csv") in said(capsys, tmp_path / "no.csv")


def test_damaged_tables_are_one_sentence(copy, capsys):
    metrics = copy / "topkast" / "metrics.csv"
    metrics.write_text("epoch,loss\n1,2\n")
    assert "to have the columns step, seconds" in said(capsys, copy)
    metrics.write_bytes(b"step,seconds\n\xff\xff\n")
    assert "a damaged file" in said(capsys, copy)


def test_damaged_flags_are_one_sentence(copy, capsys):
    (copy / "flags.cfg").write_text("--no_such_flag=1\n")
    assert report.main(["report.py", str(copy)]) == 2
    assert "no_such_flag" in capsys.readouterr().err


def test_runs_on_other_data_are_not_compared(copy, runs, capsys):
    flags = copy / "flags.cfg"
    flags.write_text(flags.read_text().replace("dataset=digits", "dataset=cifar10"))
    assert "runs on the same data" in said(capsys, runs / "first", copy)


def test_a_page_of_another_program_is_left_alone(runs, tmp_path, capsys):
    (tmp_path / "index.html").write_text("<p>mine</p>")
    assert "another --out" in said(capsys, runs / "first", f"--out={tmp_path}")
    assert (tmp_path / "index.html").read_text() == "<p>mine</p>"
    assert len(list(tmp_path.iterdir())) == 1
    file = tmp_path / "index.html"
    assert "the file" in said(capsys, runs / "first", f"--out={file}")
    below = file / "page"
    assert f"is no folder: {file}" in said(capsys, runs / "first", f"--out={below}")


def test_mistakes_are_reported_before_models_are_read(runs, capsys, monkeypatch):
    monkeypatch.setattr(making, "weights_of", None)
    assert "--metric to be one of" in said(capsys, runs / "first", "--metric=nothing")
    of_runs = said(capsys, runs / "first", "--baseline=static")
    assert "Received: --baseline=static with runs" in of_runs


def test_a_run_that_a_csv_has_twice_is_named(tmp_path, capsys):
    path = tmp_path / "twice.csv"
    lines = pathlib.Path(SWEEP).read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    assert "one row a run. Received: several of" in said(capsys, path)


def test_a_variant_with_a_leading_underscore_is_in_the_legend():
    rows = [
        {"variant": "_a", "sparsity": "0.9", "seed": "0", "test_accuracy": "0.5"},
        {"variant": "_a", "sparsity": "0.8", "seed": "0", "test_accuracy": "0.6"},
    ]
    rows = [{**row, pareto.COSTS[0][0]: "1"} for row in rows]
    figure = pareto.panel(
        cells(rows, "test_accuracy"), "test_accuracy", pareto.COSTS[0][0]
    )
    [axes] = figure.axes
    assert axes.get_legend_handles_labels()[1] == [" _a"]
    matplotlib.pyplot.close(figure)


def test_a_picture_of_somebody_else_is_left_alone(sweep_page, tmp_path):
    name = next(iter(sweep_page.files))
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(UserError, match=f"Expected a folder without {name}"):
        making.write(sweep_page, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"
    (tmp_path / name).unlink()
    making.write(sweep_page, tmp_path)
    making.write(sweep_page, tmp_path)  # over its own


def test_help_names_each_flag(capsys):
    assert report.main(["report.py", "--help"]) == 0
    out = capsys.readouterr().out
    for _, group in report_flags.GROUPS:
        for flag in group:
            assert f"--{flag.name}" in out or f"--[no]{flag.name}" in out


# --- In a browser --------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(page, tmp_path_factory):
    """A browser, and the page as a file."""
    if not browser.found():
        pytest.skip(f"no browser is installed, of {', '.join(browser.NAMES)}")
    path = making.write(page, tmp_path_factory.mktemp("page"))
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield opened, path
    opened.close()


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 390),
        ("dark", 1400),
        pytest.param("light", 1400, marks=pytest.mark.slow),
        pytest.param("dark", 390, marks=pytest.mark.slow),
    ],
)
def test_a_browser_shows_the_page(shown, width, scheme):
    opened, path = shown
    opened.open(path, width, scheme)
    assert opened.errors() == [] and opened.requests() == []
    # No part is wider than the page; a wide table scrolls in its own frame.
    assert opened.value("document.documentElement.scrollWidth") <= width
    count = "document.querySelectorAll('section table').length"
    assert opened.value(count) == sum(
        map(len, Parsed(path.read_text()).tables.values())
    )
    assert opened.value("[...document.images].every(i => i.naturalWidth > 0)")
    pixels = browser.pixels(opened.screenshot())
    background = np.bincount(pixels.mean(2).astype(int).ravel()).argmax()
    assert background > 240 if scheme == "light" else background < 60
    # Something is drawn in each part from top to bottom, but for the last margin.
    for part in np.array_split(pixels[:-200], 10):
        assert (np.abs(part.mean(2) - background) > 60).mean() > 0.004
    # Charts follow the colours of the page.
    ink = opened.value(
        "getComputedStyle(document.querySelector('figure svg text')).fill"
    )
    brightness = sum(map(int, re.findall(r"\d+", ink)[:3])) / 3
    assert brightness < 80 if scheme == "light" else brightness > 180


def test_the_page_prints_on_white_with_its_folded_tables(shown):
    opened, path = shown
    opened.open(path, 1000, "dark")
    printed = opened.pdf()
    assert printed.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", printed))
    assert 2 <= pages <= 8
    opened.call("Emulation.setEmulatedMedia", media="print")
    body = opened.value("getComputedStyle(document.body).backgroundColor")
    assert body in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    height = "document.querySelector('details table').getBoundingClientRect().height"
    assert opened.value(height) > 20


def test_distances_of_contrast():
    """Lines can be told from the page, on white and on black."""
    from launch.plots.colours import GRID, ON_BLACK

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
        ]
        return math.fsum(
            w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
        )

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for white, black in ON_BLACK.items():
        if white != GRID:
            assert contrast(white, "#ffffff") >= 3, white
            assert contrast(black, "#14171a") >= 4.5, black
