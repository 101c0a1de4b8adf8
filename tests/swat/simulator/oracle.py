"""Scheduler and layers once more, value by value, written from their rules.

It keeps a list of values for each lane of each line, and knows nothing of bits. The
operands are gathered by loops over positions and taps, the error dilated by the stride.
"""

import collections
import itertools

import numpy as np


def shape_t(ahead, aside):
    """The places of shape T: straight ahead, then pairs that widen and descend."""
    places = {(time, 0) for time in range(1, ahead + 1)}
    time, lane = 1, 1
    while len(places) < ahead + aside:
        for signed in (lane, -lane):
            if len(places) < ahead + aside:
                places.add((time, signed))
        time, lane = (1 if time == ahead else time + 1), lane + 1
    return sorted(places)


def cycles(rows, ahead, places):
    """Cycles of one set of rows; each is a list of lines, each a list of 0 and 1."""
    rows = [[list(line) for line in row] for row in rows]
    count, lanes = len(rows[0]), len(rows[0][0])
    taken, skipped = 0, 0

    def options(row, now, lane):
        return [
            (now + time, (lane + aside) % lanes)
            for time, aside in places
            if now + time < count and row[now + time][(lane + aside) % lanes]
        ]

    for now in range(count):
        if skipped < ahead and not any(any(row[now]) for row in rows):
            skipped += 1
            continue
        skipped = 0
        taken += 1
        for row in rows:
            while True:
                found = {
                    lane: options(row, now, lane)
                    for lane in range(lanes)
                    if not row[now][lane]
                }
                most = max(map(len, found.values()), default=0)
                if not most:
                    break
                lane = min(lane for lane in found if len(found[lane]) == most)
                time, other = found[lane][0]
                row[now][lane], row[time][other] = row[time][other], 0
    least = -(-count // (ahead + 1))
    return max(taken, least)


def layer_cycles(layer, weights, activations, machine):
    """Pass -> cycles of a layer with padding and no groups; rows are synchronised."""
    return {
        of_pass: sum(_product_cycles(*each, machine) for each in products)
        for of_pass, products in {
            "forward": _forward(layer, weights, len(activations)),
            "input gradient": _input_gradient(layer, weights, len(activations)),
            "weight gradient": _weight_gradient(layer, activations),
        }.items()
    }


def _forward(layer, weights, examples):
    """One product: a vector for each filter, a segment for each tap; its columns."""
    *_, filters = layer.kernel
    taps = [*np.ndindex(*layer.window)]
    yield (
        [[weights[tap][:, f] for tap in taps] for f in range(filters)],
        examples * len([*np.ndindex(*layer.outputs)]),
    )


def _input_gradient(layer, weights, examples):
    """A product for each set of taps that meet the error between its dilation's zeros."""
    *_, channels, _ = layer.kernel
    places = collections.Counter()
    for place in np.ndindex(*layer.inputs):
        meeting = [
            tap
            for tap in np.ndindex(*layer.window)
            if not any(
                (at + before - k * dilation) % stride
                for at, (before, _), k, dilation, stride in zip(
                    place,
                    layer.padding,
                    tap,
                    layer.dilation,
                    layer.strides,
                    strict=True,
                )
            )
        ]
        if meeting:
            places[tuple(meeting)] += 1
    for taps, count in places.items():
        rotated = taps[::-1]
        yield (
            [[weights[tap][c] for tap in rotated] for c in range(channels)],
            examples * count,
        )


def _weight_gradient(layer, activations):
    """One product: a vector for each tap and channel, over all positions."""
    *_, channels, filters = layer.kernel
    vectors = []
    for tap, c in itertools.product(np.ndindex(*layer.window), range(channels)):
        values = []
        for example, out in itertools.product(activations, np.ndindex(*layer.outputs)):
            at = [
                o * stride + k * dilation - before
                for o, stride, k, dilation, (before, _) in zip(
                    out, layer.strides, tap, layer.dilation, layer.padding, strict=True
                )
            ]
            inside = all(0 <= a < n for a, n in zip(at, layer.inputs, strict=True))
            values.append(example[(*at, c)] if inside else True)
        vectors.append([values])
    yield vectors, filters


def _product_cycles(vectors, columns, machine):
    lanes = machine.lanes
    lined = []
    for segments in vectors:
        lines = []
        for segment in segments:
            filled = [int(value) for value in segment]
            filled += [1] * (-len(filled) % lanes)
            lines += [filled[i : i + lanes] for i in range(0, len(filled), lanes)]
        lined.append(lines)
    jobs = [
        cycles(lined[i : i + machine.rows], machine.look_ahead, machine.places)
        for i in range(0, len(lined), machine.rows)
    ]
    tiles = [0] * machine.tiles
    for job in sorted(jobs, reverse=True):
        tiles[tiles.index(min(tiles))] += job
    return max(tiles) * -(-columns // machine.columns)
