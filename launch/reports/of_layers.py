"""The sections on the last checkpoint: sparsity and FLOPs, values, sets of layers."""

from collections.abc import Sequence

from launch.cost_model.report import flops_text
from launch.plots import histograms, layers, sets
from launch.reports import markup
from launch.reports.groups import Group
from launch.reports.of_masks import percent
from launch.reports.pictures import Pictures
from launch.reports.weights import Layer, Weights, spread

Read = Sequence[tuple[Group, Weights | str]]
"""Groups, each with the weights of its longest run, or why there are none."""
_UNREAD = "There is no checkpoint that can be read; the section Layers says why."
_HEIGHT, _WIDTH = 256, 1280
"""Outputs and inputs of the largest layer that a picture shows weight by weight."""
_TIMES = 6
"""Pixels of the side of a weight, at most."""


def by_layer(read: Read, unit: str, pictures: Pictures) -> str:
    """Sparsity beside FLOPs and sizes, layer by layer.

    Args:
      read: the groups with their weights.
      unit: what FLOPs are counted for, such as `image`.
      pictures: takes the figures.
    """
    parts: list[str] = []
    for number, (group, weights) in enumerate(_sparse(read)):
        parts.append(_heading(group, weights))
        if isinstance(weights, str):
            parts.append(markup.paragraph(weights))
            continue
        parts += [markup.paragraph(fault, "note") for fault in weights.faults]
        parts += _of_group(group.label, weights, f"layers-{number}", unit, pictures)
    if not parts:
        parts.append(markup.paragraph("No run here is sparse: all layers are dense."))
    return markup.section("layers", "Layers", parts)


def _sparse(read: Read) -> Read:
    return [(group, weights) for group, weights in read if not group.is_dense]


def _heading(group: Group, weights: Weights | str) -> str:
    of = f", seed {group.longest.seed}" if len(group.records) > 1 else ""
    step = "" if isinstance(weights, str) else f", step {weights.step:,}"
    return f"<h3>{markup.text(f'{group.label}{of}{step}')}</h3>"


def _of_group(
    label: str, weights: Weights, name: str, unit: str, pictures: Pictures
) -> list[str]:
    counts = weights.flops_by_path
    sparse = {layer.path: layer for layer in weights.layers}
    # In the order of the graph; without counts that of the model.
    paths = [path for path in counts if path in sparse or counts[path][0].training]
    paths = paths or list(sparse)
    names = layers.short_names(paths)
    forward = [sparse[p].forward_sparsity if p in sparse else 0.0 for p in paths]
    backward = [sparse[p].backward_sparsity if p in sparse else 0.0 for p in paths]
    sizes = [weights.sizes.get(path, 0) for path in paths]
    kept = [size * (1 - share) for size, share in zip(sizes, forward, strict=True)]
    said = f"of {len(paths)} layers of {label}; the table below has the numbers."
    figures = [
        pictures.drawn(
            layers.sparsities(names, forward, backward),
            f"{name}-sparsity",
            f"Achieved forward and backward sparsity {said}",
        )
    ]
    if counts:
        figures.append(
            pictures.drawn(
                layers.bars(
                    names,
                    [counts[path][0].training for path in paths],
                    [counts[path][1].training for path in paths],
                    f"counted training FLOPs of one {unit}",
                ),
                f"{name}-flops",
                f"Counted training FLOPs, dense and sparse, {said}",
            )
        )
    figures.append(
        pictures.drawn(
            layers.bars(names, sizes, kept, "weights"),
            f"{name}-weights",
            f"Weights, all and kept, {said}",
        )
    )
    heads = ("forward", "backward", "weights", "kept", "dense FLOPs", "sparse", "ratio")
    rows = [("weight", "shape", *heads)]
    for path, front, back, size, share in zip(
        paths, forward, backward, sizes, kept, strict=True
    ):
        shape = " x ".join(map(str, sparse[path].shape)) if path in sparse else "dense"
        numbers = (f"{size:,}", f"{share:,.0f}") if size else ("", "")
        cells = ["", "", ""]
        if path in counts:
            before, after = (count.training for count in counts[path])
            ratio = after / before if before else 1.0
            cells = [flops_text(before), flops_text(after), f"{ratio:.3f}"]
        rows.append((path, shape, percent(front), percent(back), *numbers, *cells))
    caption = f"{label}: achieved sparsities, counted training FLOPs of one {unit}"
    table = markup.table(rows, caption, left=(0, 1))
    return [
        pictures.legend(),
        markup.grid(figures),
        markup.folded("The numbers, layer by layer", table),
    ]


def values(read: Read, pictures: Pictures) -> str:
    """Histograms of the kept and the reservoir weights.

    Args:
      read: the groups with their weights.
      pictures: takes the figures.
    """
    parts: list[str] = []
    for number, (group, weights) in enumerate(_sparse(read)):
        parts.append(_heading(group, weights))
        if isinstance(weights, str):
            parts.append(markup.paragraph(_UNREAD))
            continue
        shown = [layer for layer in weights.layers if layer.theta is not None]
        if not shown:
            parts.append(markup.paragraph("No weight of this model is sparse."))
            continue
        by_path = _short(weights)
        figures, rows = [], [("weight", *(label for _, label, _ in histograms.SETS))]
        for place, layer in enumerate(shown):
            found = layer.values()
            counts = [f"{found[name].size:,}" for name, _, _ in histograms.SETS]
            said = ", ".join(
                f"{count} in {label}"
                for count, (_, label, _) in zip(counts, histograms.SETS, strict=True)
            )
            figures.append(
                pictures.drawn(
                    histograms.draw(found, by_path[layer.path]),
                    f"values-{number}-{place}",
                    f"Histogram of the values of {layer.path}: {said}.",
                )
            )
            rows.append((layer.path, *counts))
        if len(shown) < len(weights.layers):
            note = f"{len(shown)} of {len(weights.layers)} layers; more with --layers."
            parts.append(markup.paragraph(note, "note"))
        caption = f"{group.label}: entries of each set"
        parts += [
            pictures.legend(),
            markup.grid(figures, "small"),
            markup.folded("The numbers of entries", markup.table(rows, caption)),
        ]
    if not parts:
        parts.append(markup.paragraph("No run here is sparse: all weights are kept."))
    else:
        note = (
            "Values of theta, the dense parameter; the axis of entries is logarithmic."
        )
        parts.insert(0, markup.paragraph(note, "note"))
    return markup.section("values", "Kept and reservoir weights", parts)


def pictures_of_sets(read: Read, pictures: Pictures, most: int) -> str:
    """The sets of small layers as pictures.

    Args:
      read: the groups with their weights.
      pictures: takes them.
      most: number of layers of each group.
    """
    parts: list[str] = []
    for number, (group, weights) in enumerate(_sparse(read)):
        parts.append(_heading(group, weights))
        if isinstance(weights, str):
            parts.append(markup.paragraph(_UNREAD))
            continue
        small = [layer for layer in weights.layers if _is_small(layer)]
        suited = small or list(weights.layers)
        chosen = [suited[place] for place in spread(len(suited), most)]
        by_path, times = _short(weights), _times(chosen)
        shown = [
            _picture(
                layer, by_path[layer.path], times, f"sets-{number}-{place}", pictures
            )
            for place, layer in enumerate(chosen)
        ]
        if shown:
            pixel = "one weight" if small else "the mean colour of some weights"
            sentence = (
                f"{len(chosen)} of {len(weights.layers)} layers. A row is an output, a "
                f"column is an input, a pixel is {pixel}."
            )
            parts += [markup.paragraph(sentence, "note"), markup.row(shown)]
        else:
            parts.append(markup.paragraph("No layer of this model is shown."))
    if not parts:
        parts.append(markup.paragraph("No run here is sparse, so there are no sets."))
    else:
        parts.insert(0, _legend_of_sets())
    return markup.section("sets", "Sets", parts)


def _is_small(layer: Layer) -> bool:
    inputs, outputs = layer.sides
    return outputs <= _HEIGHT and inputs <= _WIDTH


def _times(chosen: Sequence[Layer]) -> int:
    """The pixels of the side of a weight: one scale for all layers of a group."""
    if not chosen:
        return 1
    inputs, outputs = (max(layer.sides[i] for layer in chosen) for i in (0, 1))
    return max(1, min(_TIMES, _WIDTH // inputs, 2 * _HEIGHT // outputs))


def _picture(layer: Layer, name: str, times: int, file: str, pictures: Pictures) -> str:
    """The sets of a layer, an output a row: wide, for most layers have more inputs."""
    inputs, outputs = layer.sides
    codes = layer.codes.reshape(inputs, outputs).T
    side = _WIDTH if _is_small(layer) else sets.SIDE
    clear = sets.clear_image(codes, side)
    size = f"{outputs:,} x {inputs:,}"
    return pictures.kept(
        sets.png(sets.enlarged(clear, times * max(clear.shape[:2]))),
        sets.png(sets.with_legend(sets.mask_image(codes, side))),
        file,
        f"Sets of {layer.path}, {size}: {percent(1 - layer.forward_sparsity)} of the "
        f"entries are in A, {percent(layer.backward_sparsity)} in C.",
        f"{name}, {size}",
    )


def _short(weights: Weights) -> dict[str, str]:
    """Path of a sparse weight -> its short name."""
    paths = [layer.path for layer in weights.layers]
    return dict(zip(paths, layers.short_names(paths), strict=True))


def _legend_of_sets() -> str:
    forward, backward, _ = (f"rgb{colour}" for colour in sets.COLOURS)
    return markup.swatches(
        [
            ("A, used and updated", forward),
            ("B \\ A, only updated", backward),
            # Transparent in the pictures.
            ("C, the reservoir", "var(--reservoir)"),
        ]
    )
