"""The cycles of whole layers: cases by hand, bounds, and what may change them."""

import dataclasses
import math
import pathlib

import numpy as np
import pytest

from swat_tf.simulator import (
    Layer,
    Memory,
    enough_examples,
    layer_sparsities,
    preset,
    random_activations,
    random_weights,
    simulate,
)
from swat_tf.simulator.operands import operand_lines
from swat_tf.simulator.products import products_of
from tests.swat.simulator import oracle

DOCS = pathlib.Path(__file__).resolve().parents[3] / "docs"
PAD = ((1, 1), (1, 1))
DENSE = preset("dadiannao")
WINDOW = preset("tcl")
IDEAL = dataclasses.replace(WINDOW, interconnect="ideal")
FREE = dataclasses.replace(WINDOW, synchronised=False)
IDEAL_FREE = dataclasses.replace(IDEAL, synchronised=False)
MACHINES = {"window": WINDOW, "free": FREE, "ideal": IDEAL, "ideal free": IDEAL_FREE}
# A strided and a plain convolution, a dilated, a grouped, a depthwise one, and a matrix.
LAYERS = (
    Layer("first", (3, 3, 3, 24), (15, 15), (2, 2), padding=PAD),
    Layer("plain", (3, 3, 24, 40), (8, 8), padding=PAD),
    Layer("strided", (3, 3, 40, 48), (8, 8), (2, 2), padding=PAD),
    Layer("dilated", (3, 3, 48, 32), (9, 9), dilation=(2, 2)),
    Layer("grouped", (3, 3, 8, 64), (5, 5), padding=PAD, groups=4),
    Layer("depthwise", (3, 3, 1, 64), (5, 5), padding=PAD, groups=64),
    Layer.dense("dense", 64, 20),
)
BY_HAND = {
    "3x3 64->64 @56": (Layer("a", (3, 3, 64, 64), (56, 56), padding=PAD), 7056),
    "1x1 64->256 @56": (Layer("a", (1, 1, 64, 256), (56, 56)), 784),
    "3x3 512->512 @7": (Layer("a", (3, 3, 512, 512), (7, 7), padding=PAD), 2304),
    "7x7 3->64 s2 @112": (
        Layer("a", (7, 7, 3, 64), (224, 224), (2, 2), padding=((2, 3), (2, 3))),
        38416,
    ),
    "fc 2048->1000": (Layer.dense("a", 2048, 1000), 512),
}


def masks(sparsity, examples=2, seed=3, layers=LAYERS):
    sparsities = dict.fromkeys([layer.name for layer in layers], sparsity)
    return (
        random_weights(layers, sparsities, seed),
        random_activations(layers, sparsities, examples, seed),
    )


@pytest.mark.parametrize("case", BY_HAND)
def test_dense_cycles_by_hand(case):
    layer, expected = BY_HAND[case]
    [row, _] = simulate([layer], DENSE).rows
    assert row.of_pass == "forward"
    assert row.dense_cycles == row.compute_cycles == expected


def test_backward_cycles_by_hand():
    """A 3x3 convolution 64->64 of stride 2, 56x56 -> 28x28, one example.

    Input gradient: 28x28 windows of 4, 2, 2 and 1 taps, 49 blocks of 16 each, 4 lines a
    tap: 49 * (4 + 2 + 2 + 1) * 4. Weight gradient: 576 vectors of 784 positions, 49 lines,
    on 256 rows and 4 blocks of columns: 3 * 4 * 49.
    """
    layer = Layer("a", (3, 3, 64, 64), (56, 56), (2, 2), padding=((0, 1), (0, 1)))
    report = simulate([Layer.dense("zero", 1, 1), layer], DENSE)
    found = {r.of_pass: r.dense_cycles for r in report.rows if r.layer == "a"}
    assert found["input gradient"] == 49 * 9 * 4
    assert found["weight gradient"] == 3 * 4 * 49


def test_three_products_a_layer_and_no_input_gradient_of_the_first():
    rows = simulate(LAYERS, DENSE).rows
    assert len(rows) == 3 * len(LAYERS) - 1
    assert [r.of_pass for r in rows if r.layer == "first"] == [
        "forward",
        "weight gradient",
    ]


def ones():
    """Masks without a zero."""
    weights = {layer.name: np.ones(layer.kernel, bool) for layer in LAYERS}
    return weights, masks(0.0)[1]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("given", [(), ones()])
def test_without_zeros_it_is_dense(machine, given):
    """Also where lanes have no channel, and at the edges of images."""
    report = simulate(LAYERS, MACHINES[machine], *given)
    for row in report.rows:
        assert row.compute_cycles == row.dense_cycles, row
        assert (row.bytes, row.zeros) == (row.dense_bytes, 0)
    assert report.speed_up(memory=True) == report.speed_up("backward") == 1


@pytest.mark.parametrize("given", [(), ones()])
def test_padding_is_skipped_if_the_machine_does(given):
    machine = dataclasses.replace(IDEAL, skips_padding=True)
    found = {
        (row.layer, row.of_pass): row for row in simulate(LAYERS, machine, *given).rows
    }
    # 9 lines of 3 channels are 27 values, which fill 2 lines of 16.
    first = found["first", "forward"]
    assert first.compute_cycles * 9 == first.dense_cycles * 2
    matrix = found["dense", "forward"]
    assert matrix.compute_cycles == matrix.dense_cycles  # 64 inputs fill 4 lines


@pytest.mark.parametrize("machine", MACHINES)
def test_monotone_in_sparsity_and_bounded(machine):
    found = MACHINES[machine]
    last, bytes_before = 1.0, None
    for sparsity in (0.3, 0.6, 0.8, 0.9, 0.97):
        report = simulate(LAYERS, found, *masks(sparsity))
        assert report.speed_up() > last
        last = report.speed_up()
        total = sum(row.bytes for row in report.rows)
        assert bytes_before is None or total < bytes_before
        bytes_before = total
        ideal = simulate(
            LAYERS, dataclasses.replace(found, interconnect="ideal"), *masks(sparsity)
        )
        for row, bound in zip(report.rows, ideal.rows, strict=True):
            assert bound.compute_cycles <= row.compute_cycles <= row.dense_cycles
            if found.interconnect == "window":
                assert row.speed_up <= found.look_ahead + 1


@pytest.mark.parametrize("machine", MACHINES)
def test_the_order_of_filters_matters_only_to_synchronised_rows(machine):
    """Half of the filters are nearly empty: it matters which share a set."""
    layer = Layer("a", (3, 3, 32, 64), (8, 8), padding=PAD)
    random = np.random.default_rng(0)
    share = np.where(np.arange(64) % 2, 0.05, 0.6)
    mask = random.random(layer.kernel) < share
    order = np.argsort(np.arange(64) % 2, kind="stable")
    both = [
        simulate([layer], dataclasses.replace(MACHINES[machine], tiles=1), {"a": each})
        for each in (mask, mask[..., order])
    ]
    before, after = (report.speed_up("forward") for report in both)
    if "free" in machine:
        assert before == after
    else:
        assert after > before * 1.05


def test_free_rows_are_faster():
    given = masks(0.8)
    for together, free in ((WINDOW, FREE), (IDEAL, IDEAL_FREE)):
        pair = [dataclasses.replace(each, tiles=1, rows=8) for each in (together, free)]
        reports = [simulate(LAYERS, each, *given) for each in pair]
        assert reports[1].speed_up() > 1.02 * reports[0].speed_up()


@pytest.mark.parametrize("name", [layer.name for layer in LAYERS])
def test_operands_are_those_of_the_convolution(name):
    """Each product summed over the lines of both sides counts its non-zero pairs."""
    [layer] = [each for each in LAYERS if each.name == name]
    weights, activations = (each[name] for each in masks(0.6))
    for of_pass, mask in (
        ("forward", weights),
        ("input gradient", weights),
        ("weight gradient", activations),
    ):
        for product in products_of(layer, of_pass, 2):
            lines = operand_lines(layer, of_pass, product, mask, 16)
            vectors = product.groups * product.vectors
            assert lines.shape == (vectors, product.lines(16), 16)
    # Every weight is in the input gradient once: the phases share out the taps.
    counts = [
        operand_lines(layer, "input gradient", product, weights, 16).sum()
        for product in products_of(layer, "input gradient", 1)
    ]
    assert sum(counts) == weights.sum()
    [forward] = products_of(layer, "forward", 2)
    assert operand_lines(layer, "forward", forward, weights, 16).sum() == weights.sum()
    # The same windows, seen from the rows of either product.
    [gradient] = products_of(layer, "weight gradient", 2)
    [windows] = products_of(layer, "forward", 2, "activations")
    assert (
        operand_lines(layer, "weight gradient", gradient, activations, 16).sum()
        == operand_lines(layer, "forward", windows, activations, 16).sum()
    )


@pytest.mark.parametrize("name", ["first", "plain", "strided", "dilated", "dense"])
@pytest.mark.parametrize("rows", [1, 3])
def test_layers_take_the_cycles_of_the_definition(name, rows):
    """Window by window, with the error dilated by the stride, value by value."""
    [layer] = [each for each in LAYERS if each.name == name]
    layer = dataclasses.replace(layer, kernel=(*layer.kernel[:-2], 5, 7))
    weights, activations = masks(0.7, layers=[layer])
    machine = dataclasses.replace(
        WINDOW, tiles=2, rows=rows, columns=4, lanes=4, look_aside=3
    )
    before = Layer.dense("before", 1, 1)  # so that it is not the first one
    report = simulate([before, layer], machine, weights, activations, batch=2)
    found = {r.of_pass: r.compute_cycles for r in report.rows if r.layer == name}
    expected = oracle.layer_cycles(layer, weights[name], activations[name], machine)
    assert found == expected


def test_filters_are_vectors_of_the_right_weights():
    layer = Layer("a", (1, 2, 3, 4), (1, 4), groups=2)
    mask = np.zeros(layer.kernel, bool)
    mask[0, 1, 2, 3] = True  # tap 1, channel 2 of its group, filter 1 of group 1
    [forward] = products_of(layer, "forward", 1)
    lines = operand_lines(layer, "forward", forward, mask, 2)
    # Vectors: group 0's filters 0 and 1, then group 1's. Lines: 2 for each tap.
    assert np.argwhere(lines).tolist() == [[3, 3, 0]]
    [gradient] = products_of(layer, "input gradient", 1)
    lines = operand_lines(layer, "input gradient", gradient, mask, 2)
    # Vectors: channels of group 0, then of group 1. Taps are rotated: tap 1 is first.
    assert np.argwhere(lines).tolist() == [[5, 0, 1]]


def test_positions_of_the_weight_gradient():
    layer = Layer("a", (2, 1, 1), (4,), (2,))
    activations = np.array([[[0], [1], [0], [0]], [[0], [0], [1], [0]]], bool)
    [product] = products_of(layer, "weight gradient", 2)
    lines = operand_lines(layer, "weight gradient", product, activations, 4)
    # Tap 0 meets positions 0 and 2 of both examples, tap 1 positions 1 and 3.
    assert lines[:, 0].astype(int).tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


def test_macs_of_the_passes():
    for layer in LAYERS:
        macs = [
            sum(product.macs for product in products_of(layer, of_pass, 3))
            for of_pass in ("forward", "weight gradient")
        ]
        assert macs == [3 * layer.macs] * 2
    strided = LAYERS[2]
    gradient = sum(p.macs for p in products_of(strided, "input gradient", 1))
    assert gradient == strided.macs


def test_the_sparser_side_is_skipped_if_the_machine_looks():
    machine = dataclasses.replace(WINDOW, skips="sparser")
    weights, _ = masks(0.8)
    _, activations = masks(0.95)
    for given, expected in (
        ((weights, activations), "activations"),
        ((weights, masks(0.2)[1]), "weights"),
    ):
        report = simulate(LAYERS, machine, *given)
        forward = [row for row in report.rows if row.of_pass == "forward"]
        assert {row.skipped for row in forward} == {expected}
        # Lines of one or three channels are never empty, as padding is multiplied.
        full = [row for row in forward if row.layer not in ("first", "depthwise")]
        assert all(row.compute_cycles < row.dense_cycles for row in full)


def test_a_larger_batch_is_that_of_the_examples():
    weights, activations = masks(0.8, examples=1)
    one, many = (
        simulate(LAYERS, IDEAL, weights, activations, batch=batch) for batch in (1, 64)
    )
    assert many.sampled_examples == 1 and many.batch == 64
    assert many.speed_up() == pytest.approx(one.speed_up(), rel=0.15)
    assert "of at least one example stand for those of all 64" in " ".join(
        str(many).split()
    )


def test_enough_examples_stand_for_the_batch():
    """Sums over the 49 positions of one example end in a line with 15 empty lanes."""
    small = Layer("small", (1, 1, 64, 64), (7, 7))
    large = Layer("large", (1, 1, 64, 64), (56, 56))
    layers, found = [large, small], {}
    sparsities = {"large": 0.9, "small": 0.9}
    for name, examples in (
        ("one", 1),
        ("enough", enough_examples(layers, 256)),
        ("all", 128),
    ):
        activations = random_activations(layers, sparsities, examples)
        report = simulate(layers, IDEAL, {}, activations, batch=256)
        found[name] = {
            row.layer: row.dense_cycles / row.compute_cycles
            for row in report.rows
            if row.of_pass == "weight gradient"
        }
    assert enough_examples(layers, 256) == {"large": 1, "small": 64}
    # The longest of 16 sums is further from their mean, the shorter they are.
    for layer in sparsities:
        assert found["enough"][layer] == pytest.approx(found["all"][layer], rel=0.12)
    assert found["one"]["small"] < 0.5 * found["all"]["small"]


def test_a_sample_is_near_the_whole_and_says_so():
    layer = Layer("a", (3, 3, 64, 512), (14, 14), padding=PAD)
    given = masks(0.8, layers=[layer])
    machine = dataclasses.replace(WINDOW, tiles=1, rows=2)
    whole = simulate([layer], machine, *given)
    assert whole.error() == 0
    errors = []
    for seed in range(8):
        part = simulate([layer], machine, *given, sample=2000, seed=seed)
        assert part.error("forward") > 0
        assert "standard error" in " ".join(str(part).split())
        deviation = part.speed_up("forward") - whole.speed_up("forward")
        errors.append(deviation / part.error("forward"))
    assert 0.2 < np.sqrt(np.mean(np.square(errors))) < 3
    again = simulate([layer], machine, *given, sample=2000, seed=7)
    assert again.rows == part.rows


def test_traffic_by_hand():
    """A matrix of 1,000 x 100, one example, 8-bit values: 90 % zeros as a bit mask."""
    memory = Memory(activations=2000, weights=10_000, outputs=2**20, bandwidth=1e9)
    machine = dataclasses.replace(IDEAL, value_bits=8, memory=memory, metadata="mask")
    layer = Layer.dense("a", 1000, 100)
    weights, activations = masks(0.9, 1, layers=[layer])
    [forward, gradient] = simulate([layer], machine, weights, activations).rows
    # Activations fit, so that weights are read once: the better order.
    assert forward.dense_bytes == 100_000 + 1000 + 100
    assert forward.bytes == 10_000 + 100_000 // 8 + 1000 + 100
    assert forward.memory_cycles == forward.bytes  # a byte a cycle at 1 GHz
    # 100 values and a mask of 1,000 bits are less than 1,000 bytes.
    assert gradient.bytes == 100 + 125 + 100 + 100_000
    assert gradient.dense_bytes == 1000 + 100 + 100_000
    select = dataclasses.replace(machine, metadata="select")
    [forward, _] = simulate([layer], select, weights, activations).rows
    assert forward.bytes == 10_000 * (8 + 3) // 8 + 1000 + 100


def test_report_adds_up():
    report = simulate(LAYERS, WINDOW, *masks(0.8))
    both = [report.part(name) for name in ("forward", "backward")]
    assert sorted(map(str, both[0] + both[1])) == sorted(map(str, report.rows))
    said = str(report)
    assert said.splitlines()[0].split() == (
        "layer pass zeros dense compute memory cycles counted simulated used MB".split()
    )
    assert f"{report.speed_up('backward'):.2f}x" in said
    for row in report.rows:
        assert row.cycles == max(row.compute_cycles, row.memory_cycles)
        assert 0 < row.utilisation <= 1
    figures = report.as_dict()
    assert len(figures["rows"]) == len(report.rows)
    assert figures["parts"]["backward"]["speed_up"] == report.speed_up("backward")
    assert figures["parts"]["total"]["cycles"] == sum(row.cycles for row in report.rows)
    assert report.table() in said
    few = report.table(2).splitlines()
    assert sum(" weight gradient " in line for line in few) == 2
    assert sum(line.startswith("all 7 layers") for line in few) == 3


def test_long_steps_are_whole_milliseconds():
    slow = dataclasses.replace(DENSE, clock=1000)
    layer = Layer.dense("a", 16, 16, 1600)
    assert "takes 200 ms" in simulate([layer], slow).notes()[0]
    assert "takes 20,000 ms" in simulate([layer], slow, batch=100).notes()[0]


def test_random_masks_keep_what_they_are_asked_to():
    sparsities = layer_sparsities(LAYERS, 0.8, "erk", ["first", "dense"])
    assert sparsities["first"] == sparsities["dense"] == 0
    weights = random_weights(LAYERS, sparsities)
    assert "first" not in weights
    sparse = [each for each in LAYERS if each.name not in ("first", "dense")]
    sizes = {layer.name: math.prod(layer.kernel) for layer in sparse}
    # ERK leaves the smallest layers dense; these have no mask.
    kept = sum(weights[n].sum() if n in weights else sizes[n] for n in sizes)
    assert kept / sum(sizes.values()) == pytest.approx(0.2, abs=0.001)
    sparse, dense = (masks(s)[0]["plain"] for s in (0.9, 0.5))
    assert not (sparse & ~dense).any()


def test_the_page_has_the_parameters_of_the_presets():
    page = (DOCS / "simulator.md").read_text(encoding="utf-8")
    names = ("dadiannao", "tcl", "tensordash")
    machines = [preset(name) for name in names]
    values = {
        "`tiles`, `rows`, `columns`, `lanes`": lambda m: (
            f"{m.tiles}, {m.rows}, {m.columns}, {m.lanes}"
        ),
        "`interconnect`": lambda m: m.interconnect,
        "`clock`": lambda m: m.clock,
        "`value_bits`, `metadata`": lambda m: f"{m.value_bits}, {m.metadata}",
        "buffers": lambda m: ", ".join(
            f"{size / 2**20:g}"
            for size in (m.memory.activations, m.memory.weights, m.memory.outputs)
        ),
        "`bandwidth`": lambda m: m.memory.bandwidth,
    }
    for name, value in values.items():
        [line] = [each for each in page.splitlines() if each.startswith(f"| {name} |")]
        for shown, machine in zip(line.split("|")[3:6], machines, strict=True):
            expected = value(machine)
            assert type(expected)(shown.strip()) == expected, (name, shown)
    for machine in machines[1:]:
        assert (machine.look_ahead, machine.look_aside, machine.shape) == (2, 5, "T")
        assert machine.synchronised and not machine.skips_padding


PLAIN = Layer.dense("a", 4, 2)


@pytest.mark.parametrize("interconnect", ["none", "ideal"])
def test_a_machine_without_a_window_may_have_few_lanes(interconnect):
    machine = dataclasses.replace(WINDOW, interconnect=interconnect, lanes=2)
    [forward, _] = simulate([PLAIN], machine).rows
    assert forward.compute_cycles == 2  # two lines of two lanes


def test_masks_may_be_lists_of_numbers():
    given = [[[0.5, 0.0], [0.0, 0.0], [0.0, 2.0], [0.0, 0.0]]]
    masks = [{"a": given}, {"a": np.array(given) != 0}]
    lists, arrays = (simulate([PLAIN], IDEAL, each).rows for each in masks)
    assert lists == arrays


def test_a_pass_without_any_product_takes_no_cycles():
    # The only position of the input is not read by any window.
    unread = Layer("unread", (1, 4, 4), (1,), (2,), padding=((1, 1),))
    mask = np.ones(unread.kernel, bool)
    report = simulate([PLAIN, unread], IDEAL, {"unread": mask})
    row = next(r for r in report.rows if r.of_pass == "input gradient")
    assert (row.macs, row.dense_cycles, row.compute_cycles, row.zeros) == (0, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: dataclasses.replace(WINDOW, tiles=0), "Received: tiles=0"),
        (lambda: dataclasses.replace(WINDOW, lanes=65), "Received: lanes=65"),
        (lambda: dataclasses.replace(WINDOW, clock=0), "Received: clock=0"),
        (lambda: dataclasses.replace(WINDOW, shape="X"), "Received: shape='X'"),
        (lambda: dataclasses.replace(WINDOW, look_ahead=-1), "Received: look_ahead=-1"),
        (lambda: dataclasses.replace(WINDOW, look_ahead=0), "Received: look_ahead=0"),
        (lambda: dataclasses.replace(WINDOW, look_ahead=2**31), "at most 65536 lines"),
        (lambda: dataclasses.replace(WINDOW, lanes=4, look_aside=9), "different lanes"),
        (lambda: dataclasses.replace(WINDOW, look_aside=2**31), "different lanes"),
        (lambda: dataclasses.replace(WINDOW, skips="all"), "Received: skips='all'"),
        (lambda: dataclasses.replace(WINDOW, metadata="csr"), "metadata='csr'"),
        (lambda: dataclasses.replace(WINDOW, memory=None), "memory=None"),
        (lambda: dataclasses.replace(WINDOW, synchronised=1), "synchronised=1"),
        (lambda: dataclasses.replace(WINDOW, tiles=10**6), "a buffer of sums"),
        (lambda: Memory(0, 1, 1, 1.0), "Received: activations=0"),
        (lambda: Memory(1, 1, 1, float("inf")), "Received: bandwidth=inf"),
        (lambda: dataclasses.replace(WINDOW, clock=1e300), "Received: clock=1e+300"),
        (lambda: Memory(1, 1, 1, 1e-300), "Received: bandwidth=1e-300"),
        (lambda: simulate([PLAIN], "tcl"), "preset(\"tcl\"). Received: machine='tcl'"),
        (lambda: simulate([PLAIN], WINDOW, {"a": [1, 0]}), "Received: (2,)"),
        (lambda: preset("eyeriss"), "Received: name='eyeriss'"),
        (lambda: Layer("a", (3, 3, 1), (4, 4)), "Expected a kernel of (window..."),
        (lambda: Layer("a", (3, 1, 1), (2,)), "at least the size of the window"),
        (lambda: Layer("a", (1, 1, 3), (2,), groups=2), "multiple of the groups"),
        (lambda: simulate([], WINDOW), "Received: []"),
        (lambda: simulate([PLAIN, PLAIN], WINDOW), "Received: ['a', 'a']"),
        (lambda: simulate([PLAIN], WINDOW, {"b": None}), "Received: b"),
        (
            lambda: simulate([PLAIN], WINDOW, {"a": np.ones((2, 2))}),
            "Received: (2, 2)",
        ),
        (
            lambda: simulate([PLAIN], WINDOW, None, {"a": np.ones((1, 2, 4))}),
            "(examples, 1, 4). Received: (1, 2, 4)",
        ),
        (
            lambda: simulate([PLAIN], WINDOW, None, {"a": np.ones((3, 1, 4))}, batch=2),
            "Received: batch=2, 3 examples",
        ),
        (lambda: simulate([PLAIN], WINDOW, sample=0), "Received: sample=0"),
        (lambda: simulate([PLAIN], WINDOW, seed=-1), "Received: seed=-1"),
        (lambda: layer_sparsities([PLAIN], 0.5, "global"), "distribution='global'"),
        (lambda: layer_sparsities([PLAIN], 1.0), "Received"),
        (lambda: layer_sparsities([PLAIN], 0.5, exempt=["z"]), "Received: 'z'"),
        (lambda: layer_sparsities([PLAIN], 0.5, exempt="zz"), "Received: 'zz'"),
        (lambda: layer_sparsities([PLAIN], 0.5, exempt=["("]), "Received: '('"),
        (lambda: simulate([PLAIN], DENSE).part("all"), "Received: name='all'"),
    ],
)
def test_errors_are_one_sentence(call, expected):
    with pytest.raises(ValueError) as caught:
        call()
    said = str(caught.value)
    assert expected in said and said.startswith("Expected") and "\n" not in said
