"""The study of loss over training time."""

import csv

import pytest

from benchmarks import loss_over_time


def test_loss_over_time_by_hand():
    def curve(seed, network, *points):
        return [
            {
                "seed": seed,
                "network": network,
                "step": step,
                "cpu_seconds": s,
                "loss": loss,
            }
            for step, s, loss in points
        ]

    rows = [
        *curve("0", "dense", ("11", "10", "4"), ("21", "20", "2")),
        *curve("0", "sparse", ("41", "10", "2.5"), ("81", "20", "1.5")),
        *curve("0", "wider", ("11", "10", "5"), ("21", "20", "3")),
    ]
    found = loss_over_time.table_rows("study", rows)
    # Milliseconds a step; the loss at the end; 20 s over 15 s, and never.
    assert [row[1:4] for row in found] == [
        ("1000", "2.000 (2.000 to 2.000)", "1.000 (1.000 to 1.000)"),
        ("250", "1.500 (1.500 to 1.500)", "1.333 (1.333 to 1.333)"),
        ("1000", "3.000 (3.000 to 3.000)", "0.000 (0.000 to 0.000)"),
    ]


@pytest.mark.slow
def test_loss_over_time_on_a_small_text(tmp_path, capsys, monkeypatch):
    (tmp_path / "text").write_text("the quick brown fox " * 4000)
    small = loss_over_time.STUDIES["txl_small"]._replace(evaluated=1)
    small = small._replace(arguments=(*small.arguments, "--segment_length=8"))
    monkeypatch.setitem(loss_over_time.STUDIES, "txl_small", small)
    arguments = (
        *("loss_over_time", "--studies=txl_small", "--seeds=1", "--minutes=0.01"),
        *("--points=2", "--turn=0.2", f"--text_dir={tmp_path / 'text'}"),
        *(f"--csv={tmp_path / 'curves.csv'}", f"--plot={tmp_path / 'loss.png'}"),
    )
    loss_over_time.main(arguments)
    with open(tmp_path / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["network"] for row in rows] == [*loss_over_time.NETWORKS] * 2
    for row in rows:
        assert 0 < float(row["loss"]) < 8 and int(row["step"]) > 1
        assert float(row["cpu_seconds"]) >= 0.3 and float(row["first_step_seconds"]) > 0
    assert (tmp_path / "loss.png").stat().st_size > 1000
    # What is there is not trained again.
    loss_over_time.main(arguments)
    with open(tmp_path / "curves.csv", newline="") as file:
        assert list(csv.DictReader(file)) == rows
    assert "txl_small: wider" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argument, message",
    [
        ("--studies=vgg", "Expected --studies of txl_small"),
        ("--studies=resnet20", "Expected --image_dir for resnet20. Received: none"),
    ],
)
def test_loss_over_time_refuses(argument, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        loss_over_time.main(
            ["loss_over_time", argument, f"--csv={tmp_path / 'curves.csv'}"]
        )
    assert message in capsys.readouterr().err
