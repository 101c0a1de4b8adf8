"""Published FLOPs: the table of docs/published_flops.md, planned again."""

import csv

import pytest

from docs import published_flops as published

with published.TABLE.open(encoding="utf-8") as table:
    ROWS = list(csv.DictReader(table))
FIGURES = list(published.figures())


def check(figure, ratio):
    """Its row of the table is what comes out today."""
    found = published.row(figure, ratio)
    [expected] = [
        each
        for each in ROWS
        if all(each[name] == found[name] for name in ("command", "part", "source"))
    ]
    assert found == expected


@pytest.mark.parametrize("model", ["resnet50", "resnet18_cifar"])
def test_figures_of_a_network(model):
    wanted = [
        figure
        for figure in FIGURES
        if f"--model={model}" in figure.flags and "--method=swat" in figure.flags
    ]
    assert len(wanted) >= 3
    for figure in wanted[:3]:
        check(figure, published.planned(figure.flags, figure.part))


@pytest.mark.slow
@pytest.mark.parametrize("flags", dict.fromkeys(figure.flags for figure in FIGURES))
def test_all_figures(flags):
    for figure in FIGURES:
        if figure.flags == flags:
            check(figure, published.planned(flags, figure.part))


def test_the_page_is_made_from_the_table():
    assert published.PAGE.read_text(encoding="utf-8") == published.page(ROWS)


def test_what_is_not_reproduced_has_a_reason():
    assert len(ROWS) == len(FIGURES)
    for each in ROWS:
        assert bool(each["reason"]) == (each["reproduced"] == "no"), each


def test_the_guess_about_the_first_layer_fits_all_ten_reductions():
    # Multiply-adds of an image, as in test_flops_resnet50 and test_launch_imagenet_models.
    first = 7 * 7 * 3 * 64 * 112**2
    networks = {"resnet50": 4_089_184_256, "wrn50_2": 11_398_000_000}
    guess = first + 4 * first  # forward, and the weight gradient at 224 x 224
    fitted = [f for f in FIGURES if f.reason == published.FIRST_LAYER]
    fitted = [f for f in fitted if f.part == "training"]
    assert len(fitted) == 10
    for figure in fitted:
        values = dict(flag.split("=") for flag in figure.flags if "=" in flag)
        others = 3 * (networks[values["--model"]] - first)
        kept = (1 - float(values["--sparsity"])) * others + guess
        reduction = 100 * (1 - kept / (others + guess))
        assert reduction == pytest.approx(figure.value, abs=0.2)
