"""The closed form of systolic arrays: golden reports, and the package that made them."""

import csv
import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest

from swat_tf.simulator import Layer, preset, simulate, systolic_cycles

# Case -> array, stationary operand, (pixels, filters, depth), total less stalled cycles.
# A kernel of 363 rows with blocks of N:M has 184 that are not empty.
GOLDEN = {
    "GEMM 256x128x256 OS": (32, "output", (256, 128, 256), 52447 - 42272),
    "GEMM 256x128x256 WS": (32, "weight", (256, 128, 256), 52447 - 41248),
    "GEMM 256x128x256 IS": (32, "input", (256, 128, 256), 19984 - 5777),
    "AlexNet conv1 WS": (32, "weight", (3025, 96, 363), 112283),
    "AlexNet conv1 N:M WS": (128, "weight", (3025, 96, 184), 173949 - 167136),
}
# (input, window, channels, filters, stride) of each layer, all square.
NETWORKS = {
    "small": [(14, 3, 8, 16, 1), (13, 3, 8, 20, 2), (6, 1, 24, 10, 1)],
    "narrow": [(10, 5, 3, 7, 1), (8, 3, 7, 33, 1)],
    "dense": [(1, 1, 70, 40, 1), (1, 1, 40, 10, 1)],
}


def array(stationary, rows, columns):
    return dataclasses.replace(
        preset(f"systolic_{stationary}"), rows=rows, columns=columns
    )


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_reports(case):
    side, stationary, sizes, expected = GOLDEN[case]
    assert systolic_cycles(array(stationary, side, side), *sizes) == expected


def layers_of(network):
    return [
        Layer(f"layer{n}", (k, k, c, f), (size, size), (stride, stride))
        for n, (size, k, c, f, stride) in enumerate(NETWORKS[network])
    ]


def test_forward_pass_of_a_network():
    report = simulate(layers_of("small"), array("output", 8, 16))
    forward = [r.compute_cycles for r in report.rows if r.of_pass == "forward"]
    assert forward[:2] == [1691, 939]  # of scalesim 3.0.0
    assert report.speed_up() == 1


CONFIG = """\
[general]
run_name = run
[architecture_presets]
ArrayHeight: 8
ArrayWidth: 16
IfmapSramSzkB: 64
FilterSramSzkB: 64
OfmapSramSzkB: 64
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {dataflow}
Bandwidth: 10
ReadRequestBuffer: 64
WriteRequestBuffer: 64
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: false
SparseRep: ellpack_block
OptimizedMapping: false
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""
PROGRAM = """\
import sys
from scalesim.scale_sim import scalesim
folder = sys.argv[1]
scalesim(save_disk_space=True, verbose=False, config=f"{folder}/config.cfg",
         topology=f"{folder}/net.csv", layout=f"{folder}/layout.csv",
         input_type_gemm=False).run_scale(top_path=folder)
"""


def scalesim_python():
    """A Python that has the package: this one, or that of $SCALESIM_PYTHON."""
    python = os.environ.get("SCALESIM_PYTHON", sys.executable)
    done = subprocess.run([python, "-c", "import scalesim"], capture_output=True)
    return python if done.returncode == 0 else None


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("stationary", ["output", "weight", "input"])
def test_equals_scalesim(network, stationary, tmp_path: pathlib.Path):
    python = scalesim_python()
    if python is None:
        pytest.skip(
            "needs `pip install scalesim==3.0.0 'numpy<2'`, here or in the Python that "
            "$SCALESIM_PYTHON names"
        )
    layers = layers_of(network)
    rows = [
        f"layer{n},{size},{size},{k},{k},{c},{f},{stride},1:1,"
        for n, (size, k, c, f, stride) in enumerate(NETWORKS[network])
    ]
    (tmp_path / "net.csv").write_text("\n".join(["header,", *rows, ""]))
    (tmp_path / "layout.csv").write_text("header,\n")
    dataflow = {"output": "os", "weight": "ws", "input": "is"}[stationary]
    (tmp_path / "config.cfg").write_text(CONFIG.format(dataflow=dataflow))
    done = subprocess.run(
        [python, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "run" / "COMPUTE_REPORT.csv") as file:
        theirs = [
            int(float(row[" Total Cycles"])) - int(float(row[" Stall Cycles"]))
            for row in csv.DictReader(file)
        ]
    report = simulate(layers, array(stationary, 8, 16))
    ours = [row.compute_cycles for row in report.rows if row.of_pass == "forward"]
    assert ours == theirs
