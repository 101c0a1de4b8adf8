"""Flags: error messages, and the round trip through a flagfile."""

import subprocess
import sys

import pytest

from launch.config import flags as launch_flags
from launch.config import sensitivity_flags as study_flags
from launch.config import sweep_flags
from launch.support.errors import UserError
from tests.launch.runs import parsed


def message(*arguments):
    with pytest.raises(UserError) as caught:
        parsed(*arguments)
    return str(caught.value)


def test_unknown_flag_names_the_nearest():
    assert message("--refresh_evry=3") == (
        "unknown flag --refresh_evry; did you mean --refresh_every?"
    )


def test_unknown_flag_without_a_similar_one_points_to_the_help():
    assert message("--zzzzzz=1") == "unknown flag --zzzzzz; --help lists them."


def test_unknown_negated_flag_is_compared_without_its_prefix():
    assert message("--nonestrov").endswith("did you mean --nesterov?")


def test_unknown_flag_in_a_nested_flagfile_is_located(tmp_path):
    inner = tmp_path / "inner.cfg"
    inner.write_text("# a comment\n--fwd=0.9\n--backwards=topk\n")
    outer = tmp_path / "outer.cfg"
    outer.write_text(f"--flagfile={inner}\n")
    expected = f"unknown flag --backwards ({inner}, line 3); did you mean --backward?"
    assert message(f"--flagfile={outer}") == expected
    assert message("--flagfile", str(outer)) == expected


def test_missing_flagfile_is_reported_in_one_sentence():
    said = message("--flagfile=not/there.cfg")
    assert "not/there.cfg" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--epochs=0", "epochs"),
        ("--fwd=much", "fwd"),
        ("--momentum=1", "Expected --momentum to be in [0, 1). Received: 1.0"),
        ("--momentum=nan", "Expected --momentum to be in [0, 1). Received: nan"),
        ("--label_smoothing=-0.1", "Expected --label_smoothing to be in [0, 1)."),
        ("--learning_rate=0", "Expected --learning_rate to be above 0. Received: 0.0"),
        (
            "--width=inf",
            "Expected --width to be above 0 and at most 100. Received: inf",
        ),
        ("--width=1e9", "Received: 1000000000.0"),
        ("--steps=99999999999999999999", "Expected --steps to be below 2**31."),
        (
            "--lr_drop_steps=9,99999999999",
            "Expected --lr_drop_steps to be below 2**31.",
        ),
        ("--fwd=1.5", "Expected --fwd to be in [0, 1). Received: 1.5"),
        ("--fwd=nan", "Expected --fwd to be in [0, 1). Received: nan"),
        ("--fwd=0.5", "Expected --bwd to be at most --fwd"),
        ("--sparsity=1", "Expected --sparsity to be in [0, 1). Received: 1.0"),
        ("--dropout=1", "Expected --dropout to be in [0, 1). Received: 1.0"),
        ("--exploration=-1", "Expected --exploration to be at least 0."),
        ("--refresh_every=0", "refresh_every"),
        (
            "--backward=tpok",
            "one of topk, random. Received: 'tpok'; did you mean topk?",
        ),
        ("--forward_sparse=weights,x", "one of weights, activations. Received: 'x'"),
        ("--block=4", "Expected --block to be rows,cols, both at least 1. Received: 4"),
        ("--block=4,0", "Expected --block to be rows,cols"),
        ("--exempt=(", "Expected --exempt to be regular expressions"),
        ("--distribution=ERK", "Received: 'ERK'; did you mean erk?"),
        (
            "--distribution=momentum",
            "Expected --distribution=momentum with one of the methods swat.",
        ),
        (
            '--distribution={"a": 1.5}',
            "Expected --distribution of 'a' to be a sparsity",
        ),
        ('--distribution={"a": [0.5, 0.8]}', "Received: (0.5, 0.8)"),
        ('--distribution={"(": 0.5}', "Expected --distribution to be regular"),
        ("--clip_norm=nan", "Expected --clip_norm to be at least 0. Received: nan"),
        ("--weight_decay=-1", "Expected --weight_decay to be at least 0."),
        ("--seed=2147483648", "Expected --seed to be below 2**31."),
        (
            "--method=rigel",
            "cs, spartan, nm, filters, snip, grasp, synflow. Received: 'rigel'; did you",
        ),
        ("--lr_schedule=poly", "one of cosine, steps, constant. Received: 'poly'"),
        ("--lr_drop_steps=9,3", "Expected --lr_drop_steps to rise"),
        ("--lr_drop_steps=a", "Expected --lr_drop_steps to be whole numbers"),
        ("epochs=3", "Expected flags only, written --name=value. Received: 'epochs=3'"),
    ],
)
def test_invalid_values_are_reported_in_one_sentence(argument, expected):
    said = message(argument)
    assert expected in said
    assert "\n" not in said


def test_distribution_of_other_methods_names_those_methods():
    assert message("--method=set", "--distribution=global") == (
        "Expected --distribution=global with one of the methods topkast, swat, "
        "topkast_swat, pruning, acdc, dnw, spartan, snip, grasp, synflow. "
        "Received: --method=set"
    )


def test_dense_twin_of_a_dense_run_is_refused():
    assert "--compare_dense" in message("--method=dense", "--compare_dense")


def test_jit_and_deterministic_are_exclusive():
    assert "--nodeterministic" in message("--jit")
    assert parsed("--jit", "--nodeterministic").jit


def test_flags_round_trip_through_a_flagfile(tmp_path):
    asked = parsed(
        "--fwd=0.95",
        "--bwd=0.9",
        "--exempt=first,.*/logits/.*",
        "--block=4,2",
        "--lr_drop_steps=10,20",
        "--nesterov",
        "--nodeterministic",
        "--steps=7",
        '--distribution={"stage1": 0.5, "stage2": [0.9, 0.8]}',
    )
    path = tmp_path / "flags.cfg"
    path.write_text(launch_flags.to_text(asked))
    again = parsed(f"--flagfile={path}")
    assert launch_flags.differences(asked, again) == []
    assert again.exempt == ["first", ".*/logits/.*"]
    assert again.steps == 7


def test_differences_between_flags_exclude_paths():
    ours = parsed("--fwd=0.95", "--run_dir=a", "--data_dir=b", "--verbose")
    assert launch_flags.differences(ours, parsed()) == [("fwd", 0.95, 0.9)]


def test_invalid_mapping_is_reported_in_one_sentence():
    said = message("--distribution={stage1: 0.5}")
    assert said.startswith("Expected --distribution to be a name or a JSON mapping")


def test_a_wrong_sparsity_is_refused_before_tensorflow_is_imported(root):
    program = (
        "import sys; from launch import train; code = train.main(['', '--fwd=1.5']); "
        "sys.exit(9 if 'tensorflow' in sys.modules else code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr == "error: Expected --fwd to be in [0, 1). Received: 1.5\n"


# --- Flags that exclude each other -----------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "epochs", "steps"),
    [
        (["--steps=7", "--epochs=3"], 3, None),
        (["--epochs=3", "--steps=7"], 30, 7),
        (["--steps", "7", "--epochs", "3"], 3, None),
        (["-steps=7", "-epochs=3"], 3, None),
        (["--steps=7", "--epochs=3", "--steps=8"], 30, 8),
        (["--flagfile=FILE", "--epochs=3"], 3, None),
        (["--flagfile", "FILE", "--epochs=3"], 3, None),
        (["--epochs=3", "--flagfile=FILE"], 30, 64000),
        (["--flagfile=OUTER"], 5, None),
    ],
)
def test_later_of_epochs_and_steps_wins(arguments, epochs, steps, tmp_path):
    inner, outer = tmp_path / "inner.cfg", tmp_path / "outer.cfg"
    inner.write_text("# eight hours\n--steps=64000\n")
    outer.write_text(f"--flagfile={inner}\n--epochs=5\n")
    asked = [
        argument.replace("FILE", str(inner)).replace("OUTER", str(outer))
        for argument in arguments
    ]
    values = parsed(*asked)
    assert (values.epochs, values.steps) == (epochs, steps)
    [sentence] = launch_flags.overruled(["train.py", *asked])
    winner = f"--steps={steps}" if steps else f"--epochs={epochs}"
    assert sentence.startswith(f"{winner} counts, and --")
    # The run's own flagfile gives the same values, without a message.
    path = tmp_path / "flags.cfg"
    path.write_text(launch_flags.to_text(values))
    again = [f"--flagfile={path}"]
    assert launch_flags.differences(values, parsed(*again)) == []
    assert launch_flags.overruled(["train.py", *again]) == []


def test_compatible_flags_give_no_message():
    assert launch_flags.overruled(["train.py", "--steps=3", "--fwd=0.95"]) == []


def test_every_flagfile_parses_and_starts_with_a_comment(root):
    paths = sorted((root / "launch" / "flagfiles").glob("*.cfg"))
    assert len(paths) >= 3
    for path in paths:
        kinds = {"sens": study_flags.parse, "swee": sweep_flags.parse}
        read = kinds.get(path.name[:4], launch_flags.parse)
        read(["", f"--flagfile={path}"])
        assert path.read_text().startswith("# ")
