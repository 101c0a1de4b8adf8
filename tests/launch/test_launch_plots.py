"""Plots: what is drawn where, legends, colours of SVGs, files that are equal."""

import re

import numpy as np
import pytest

from launch import plot
from launch.plots import curves, histograms, layers, panels, sets
from launch.plots.colours import ON_BLACK, style_of


def line(label, x, values, number=0):
    return curves.single(label, style_of(number), x, values)


def test_axes_of_curves_begin_at_zero_unless_runs_are_of_unlike_lengths():
    alike = [line("a", [5, 10], [1, 2]), line("b", [5, 12], [2, 3], 1)]
    axes = curves.draw(alike, "x", "y", in_powers=True).axes[0]
    assert axes.get_xlim()[0] == 0 and axes.get_xscale() == "linear"
    unlike = [line("a", [5, 10], [1, 2]), line("b", [50, 100], [2, 3], 1)]
    axes = curves.draw(unlike, "x", "y", in_powers=True).axes[0]
    assert axes.get_xscale() == "log"


def test_losses_far_apart_are_on_a_logarithmic_axis_unless_one_is_not_positive():
    drawn = curves.draw([line("a", [1, 2], [0.1, 900.0])], "x", "loss")
    assert drawn.axes[0].get_yscale() == "log"
    drawn = curves.draw([line("a", [1, 2], [0.0, 900.0])], "x", "loss")
    assert drawn.axes[0].get_yscale() == "linear"


def test_a_band_is_the_range_over_seeds():
    one = line("a", [1, 2, 3], [2.0, 3.0, 4.0])
    band = one._replace(low=[1.0, 2.0, 3.0], high=[5.0, 6.0, 7.0], has_band=True)
    [area] = curves.draw([band], "x", "y").axes[0].collections
    heights = area.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1.0, 7.0)


def test_no_two_of_twenty_styles_are_equal():
    assert len({style_of(number) for number in range(20)}) == 20


def test_a_legend_has_each_label_once():
    lines = {"one": [line("a", [1], [2]), line("a", [2], [3])], "two": []}
    figure = curves.beside(lines, "x", ["y", "z"])
    assert [entry.label for entry in panels.legend_of(figure)] == ["a"]


def test_an_svg_has_variables_for_all_colours_and_names_of_its_own():
    figure = curves.draw([line("a", [1, 2], [3, 4])], "x & y", "z")
    text = panels.svg(figure, "first")
    assert not [colour for colour in ON_BLACK if colour in text.lower()]
    used = set(re.findall(r"var\((--c\w+)\)", text))
    for is_black in (False, True):
        assert all(f"{name}:" in panels.variables(is_black) for name in used)
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert ids and all(name.startswith("first-") for name in ids)
    assert "x &amp; y" in text and "http" not in text


def test_figures_drawn_again_are_equal():
    def drawn():
        values = np.random.default_rng(0).normal(size=1000)
        parts = {"kept": values[:10], "explored": values[10:50]}
        parts["reservoir"] = values[50:]
        figure = histograms.draw(parts, "a layer")
        return panels.svg(figure, "name"), panels.png(figure)

    assert drawn() == drawn()


def test_histograms_count_every_entry_and_leave_out_empty_sets():
    values = {"kept": [-2.0, 2.0], "explored": [], "reservoir": np.zeros((3, 4))}
    axes = histograms.draw({k: np.asarray(v) for k, v in values.items()}, "").axes[0]
    counts = {p.get_label(): p.get_data().values.sum() for p in axes.patches}
    assert counts == {"A, kept": 2, "C, the reservoir": 12}
    left, right = axes.patches[0].get_data().edges[[0, -1]]
    assert (left, right) == (-2.0, 2.0)


def test_bars_and_points_of_layers_are_from_the_first_on_top():
    figure = layers.bars(["a", "b"], [10.0, 20.0], [1.0, 4.0], "FLOPs")
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [10.0, 20.0, 1.0, 4.0]
    top, bottom = (axes.transData.transform((0, row))[1] for row in (0, 1))
    assert top > bottom and axes.get_xlim()[0] == 0
    figure = layers.sparsities(["a", "b"], [0.9, 0.0], [0.8, 0.0])
    forward, backward = figure.axes[0].lines
    assert list(forward.get_xdata()) == [90, 0] and list(backward.get_xdata())[0] == 80


def test_a_map_over_time_has_a_column_for_each_measurement():
    values = np.array([[1.0, np.nan, 3.0]])
    figure = layers.over_time(["a"], [0, 10, 40], values, "churn (%)")
    mesh = figure.axes[0].collections[0]
    edges = mesh.get_coordinates()[0, :, 0]
    assert list(edges) == [-5, 5, 25, 55]
    assert mesh.get_array().mask.tolist() == [[False, True, False]]
    assert mesh.get_clim() == (0, 3)


@pytest.mark.parametrize("shape", [(6, 4), (600, 5)])
def test_a_clear_picture_over_grey_is_the_picture(shape):
    codes = np.random.default_rng(1).integers(0, 3, shape)
    clear = sets.clear_image(codes).astype(float)
    share = clear[..., 3:] / 255
    over = share * clear[..., :3] + (1 - share) * np.array(sets.COLOURS[2])
    np.testing.assert_allclose(over, sets.mask_image(codes), atol=2)


def test_plot_draws_tables_of_runs_and_lines_across(tmp_path):
    table = tmp_path / "metrics.csv"
    table.write_text("step,test_accuracy\n1,0.5\n2,0.75\n")
    out = tmp_path / "out.png"
    plot.main(str(out), "test_accuracy", f"run={table}", "chance=10")
    assert out.read_bytes().startswith(b"\x89PNG")
