"""The flags: what is refused and in which words, and that they survive a file."""

import pytest

from launch import flag_help, flag_table
from launch import flags as launch_flags
from launch import sensitivity_flags as study_flags
from launch.errors import UserError


def parse(*arguments):
    return launch_flags.parse(["train.py", *arguments])


def message(*arguments):
    with pytest.raises(UserError) as caught:
        parse(*arguments)
    return str(caught.value)


def test_unknown_flag_names_the_nearest():
    assert message("--refresh_evry=3") == (
        "unknown flag --refresh_evry; did you mean --refresh_every?"
    )


def test_unknown_flag_without_a_near_one_points_to_the_help():
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


def test_missing_flagfile_is_one_sentence():
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
        ("--width=inf", "Expected --width to be above 0. Received: inf"),
        ("--clip_norm=nan", "Expected --clip_norm to be at least 0. Received: nan"),
        ("--weight_decay=-1", "Expected --weight_decay to be at least 0."),
        ("--seed=2147483648", "Expected --seed to be below 2**31."),
        ("--method=rigl", "to be one of dense, topkast, swat, topkast_swat. Received"),
        ("--lr_schedule=poly", "one of cosine, steps, constant. Received: 'poly'"),
        ("--lr_drop_steps=9,3", "Expected --lr_drop_steps to rise"),
        ("--lr_drop_steps=a", "Expected --lr_drop_steps to be whole numbers"),
        ("epochs=3", "Expected flags only, written --name=value. Received: 'epochs=3'"),
    ],
)
def test_wrong_values_are_one_sentence(argument, expected):
    said = message(argument)
    assert expected in said
    assert "\n" not in said


def test_dense_twin_of_a_dense_run_is_refused():
    assert "--compare_dense" in message("--method=dense", "--compare_dense")


def test_compiled_and_deterministic_exclude_each_other():
    assert "--nodeterministic" in message("--jit")
    assert parse("--jit", "--nodeterministic").jit


def test_text_is_a_flagfile_with_the_same_values(tmp_path):
    asked = parse(
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
    again = parse(f"--flagfile={path}")
    assert launch_flags.differences(asked, again) == []
    assert again.exempt == ["first", ".*/logits/.*"]
    assert again.steps == 7


def test_differences_are_named_and_places_do_not_count():
    ours = parse("--fwd=0.95", "--run_dir=a", "--data_dir=b", "--verbose")
    assert launch_flags.differences(ours, parse()) == [("fwd", 0.95, 0.9)]


def test_scope_arguments_have_the_types_of_the_scope():
    arguments = launch_flags.topkast_arguments(
        parse(
            "--block=4,2",
            "--exempt=first",
            '--distribution={"stage1": 0.5, "stage2": [0.9, 0.8]}',
            "--stop_exploring_at=50",
            "--seed=3",
        )
    )
    assert arguments == {
        "fwd": 0.9,
        "bwd": 0.8,
        "refresh_every": 1,
        "distribution": {"stage1": 0.5, "stage2": (0.9, 0.8)},
        "exploration": 1e-4,
        "exploration_norm": "l2",
        "backward": "topk",
        "stop_exploring_at": 50,
        "block": (4, 2),
        "block_reduce": "sum",
        "exempt": ("first",),
        "include": None,
        "seed": 3,
    }


def test_swat_arguments_have_the_types_of_the_scope():
    values = parse("--sparsity=0.8", "--forward_sparse=", "--backward_sparse=weights")
    assert launch_flags.swat_arguments(values) == {
        "sparsity": 0.8,
        "topk_period": 1,
        "topk_period_of": "all",
        "activations": None,
        "activations_per": "batch",
        "errors": 0.0,
        "errors_per": "batch",
        "forward": (),
        "backward": ("weights",),
        "storage": "dense",
        "seed": 0,
    }
    values = parse("--structured=filter", "--freeze_at=9", "--distribution=erk")
    assert launch_flags.swat_weight_arguments(values) == {
        "distribution": "erk",
        "structured": "filter",
        "updates": "dense",
        "freeze_at": 9,
        "exempt": (),
        "include": None,
    }


def test_broken_mapping_is_one_sentence():
    with pytest.raises(UserError, match="Expected --distribution .* JSON mapping"):
        launch_flags.topkast_arguments(parse("--distribution={stage1: 0.5}"))


def test_every_flag_is_in_the_help():
    said = flag_help.help_text()
    for name in flag_table.new_flags():
        assert f"--{name}" in said


def test_every_flagfile_of_the_project_parses_and_explains_itself(root):
    paths = sorted((root / "launch" / "flagfiles").glob("*.cfg"))
    assert len(paths) >= 3
    for path in paths:
        read = study_flags.parse if path.name.startswith("sens") else launch_flags.parse
        read(["", f"--flagfile={path}"])
        assert path.read_text().startswith("# ")
