"""Distributions: worked by hand, against a NumPy oracle, and by their properties."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from topkast_tf.core.distributions import erdos_renyi, erdos_renyi_kernel, uniform
from topkast_tf.core.resolve import resolve, validate_distribution
from topkast_tf.core.sparsities import kept, validate_sparsities

SHAPES = {
    "conv1/kernel": (3, 3, 3, 16),
    "conv2/kernel": (3, 3, 16, 32),
    "depthwise/kernel": (3, 3, 32, 1),
    "query/kernel": (32, 4, 8),
    "dense/kernel": (32, 10),
    "scale": (32,),
}


def densities(sparsities, shapes):
    """(kept entries, all entries) of a distribution, before rounding."""
    sizes = {path: math.prod(shape) for path, shape in shapes.items()}
    entries = sum((1 - sparsities[path]) * size for path, size in sizes.items())
    return entries, sum(sizes.values())


def oracle(shapes, sparsity, kernel):
    """The iteration of RigL: find e, make what exceeds 1 dense, find e again."""
    sizes = np.array([np.prod(s, dtype=float) for s in shapes.values()])
    if kernel:
        raw = np.array([np.sum(s) / np.prod(s) for s in shapes.values()])
    else:
        fans = np.array([((1, *s)[-2], s[-1]) for s in shapes.values()], float)
        raw = fans.sum(axis=1) / fans.prod(axis=1)
    dense = np.zeros(len(sizes), bool)
    while True:
        budget = (1 - sparsity) * sizes.sum() - sizes[dense].sum()
        scale = budget / (raw * sizes)[~dense].sum()
        exceeding = ~dense & (scale * raw > 1)
        if not exceeding.any():
            break
        dense |= exceeding
    return np.where(dense, 0, 1 - scale * raw)


# --- kept -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "sparsity", "expected"),
    [
        (10, 0.0, 10),
        (10, 0.5, 5),
        (10, 0.25, 8),  # 10 - floor(2.5)
        (10, 0.9, 1),
        (10, 0.99, 1),  # floor(9.9) = 9
        (5, 0.99, 1),  # floor(4.95) = 4
        (1, 0.99, 1),  # floor(0.99) = 0
        (100, 0.57, 43),  # binary 0.57 * 100 is 56.99...
        (100, 0.29, 71),  # binary 0.29 * 100 is 28.99...
        (1000, 0.999, 1),
        (100, np.float32(0.57), 43),  # float32(0.57) is 0.5699999...
        (np.int64(100), np.float64(0.57), 43),
        (100, 0, 100),
    ],
)
def test_kept_by_hand(n, sparsity, expected):
    assert kept(n, sparsity) == expected
    assert type(kept(n, sparsity)) is int


@given(st.integers(1, 10**7), st.integers(0, 9999))
def test_kept_is_exact_for_decimals(n, ten_thousandths):
    expected = max(1, n - n * ten_thousandths // 10_000)
    assert kept(n, ten_thousandths / 10_000) == expected


@given(st.integers(1, 10**6), st.floats(0, 1, exclude_max=True), st.floats(0, 0.5))
def test_kept_bounds_and_order(n, sparsity, less):
    count = kept(n, sparsity)
    assert 1 <= count <= n
    assert count >= (1 - Fraction(str(sparsity))) * n  # never sparser than asked
    assert kept(n, sparsity * less) >= count


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, float("nan"), True, "0.5", None])
def test_kept_refuses_invalid_sparsities(sparsity):
    with pytest.raises(ValueError, match=re.escape(f"sparsity={sparsity!r}")):
        kept(10, sparsity)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, None])
def test_kept_refuses_invalid_sizes(n):
    with pytest.raises(ValueError, match=re.escape(f"Received: n={n!r}")):
        kept(n, 0.5)


# --- validate_sparsities --------------------------------------------------------------


@pytest.mark.parametrize(("fwd", "bwd"), [(0, 0), (0.9, 0.9), (0.9, 0), (0.999, 0.5)])
def test_valid_sparsities(fwd, bwd):
    validate_sparsities(fwd, bwd)


@pytest.mark.parametrize(
    ("fwd", "bwd"),
    [
        (0.8, 0.9),
        (1.0, 0.5),
        (90, 80),
        (0.5, -0.1),
        (float("nan"), 0.5),
        (0.5, float("nan")),
        (True, False),
        ("0.9", "0.8"),
    ],
)
def test_invalid_sparsities_name_what_was_received(fwd, bwd):
    with pytest.raises(ValueError, match="0 <= bwd <= fwd < 1") as error:
        validate_sparsities(fwd, bwd)
    assert str(error.value).endswith(f"Received: fwd={fwd!r}, bwd={bwd!r}")


# --- The distributions ----------------------------------------------------------------


def test_erdos_renyi_by_hand():
    # Entries per unit of e: 8 * 8 * 16/64 = 16 and 2 * 8 * 10/16 = 10. Of 80 entries
    # 40 stay at 0.5, so e = 40/26.
    shapes = {"square": (8, 8), "thin": (2, 8)}
    found = erdos_renyi(shapes, 0.5)
    assert found["square"] == pytest.approx(1 - 40 / 26 * 16 / 64, abs=1e-12)
    assert found["thin"] == pytest.approx(1 - 40 / 26 * 10 / 16, abs=1e-12)
    # At 0.35, 52 stay: e = 2 would keep 20 of the 16 entries of `thin`. It becomes
    # dense, and 36 of the 64 others stay.
    assert erdos_renyi(shapes, 0.35) == {"square": 0.4375, "thin": 0.0}


def test_erdos_renyi_ignores_the_spatial_dimensions():
    # Both have density proportional to (8 + 8) / 64.
    found = erdos_renyi({"conv": (5, 5, 8, 8), "dense": (8, 8)}, 0.75)
    assert found["conv"] == pytest.approx(0.75, abs=1e-12)
    assert found["dense"] == pytest.approx(0.75, abs=1e-12)


def test_erdos_renyi_kernel_by_hand():
    # Sums 3 + 3 + 4 + 8 = 18 and 8 + 3 = 11, sizes 288 and 24; 78 of 312 stay at
    # 0.75. e = 78/29 would keep 29.6 of 24, so the head is dense and 54 of 288 stay.
    found = erdos_renyi_kernel({"conv": (3, 3, 4, 8), "head": (8, 3)}, 0.75)
    assert found == {"conv": 0.8125, "head": 0.0}


def test_weights_keep_at_least_one_entry():
    # Entries per unit of e: 200 and 2. Of 10001 entries, 3 stay: e = 3/202 would give
    # `tiny` 0.03 entries. It keeps its one, and 2 of 10000 are left for `big`.
    found = erdos_renyi_kernel({"big": (100, 100), "tiny": (1, 1)}, 1 - 3 / 10001)
    assert found["big"] == pytest.approx(1 - 2 / 10000, abs=1e-12)
    assert found["tiny"] == 0.0


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.8, 0.9, 0.95])
def test_against_the_oracle(sparsity, kernel):
    share = erdos_renyi_kernel if kernel else erdos_renyi
    found = share(SHAPES, sparsity)
    assert list(found) == list(SHAPES)
    expected = oracle(SHAPES, sparsity, kernel)
    np.testing.assert_allclose(list(found.values()), expected, rtol=0, atol=1e-12)


def test_erk_makes_the_same_layers_of_vgg16_dense():
    # VGG-16 on CIFAR-10 at 95 %; the fc layers are 512-4096-4096-10. Values worked out
    # from RigL's definition before this code was written.
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    shapes = {
        f"conv{i}": (3, 3, fan_in, fan_out)
        for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:], strict=False), 1)
    }
    shapes |= {"fc1": (512, 4096), "fc2": (4096, 4096), "fc3": (4096, 10)}
    expected = [0, 0.713, 0.788, 0.860, 0.896, 0.931, 0.931, 0.948, *[0.966] * 5]
    expected += [0.826, 0.961, 0]
    found = list(erdos_renyi_kernel(shapes, 0.95).values())
    np.testing.assert_allclose(found, expected, atol=1e-3)


dimensions = st.integers(1, 40)
shape_lists = st.lists(
    st.lists(dimensions, min_size=0, max_size=4).map(tuple), min_size=1, max_size=8
)


@given(shape_lists, st.floats(0, 1, exclude_max=True), st.booleans())
def test_total_density_equals_the_target(shape_list, sparsity, kernel):
    shapes = {f"w{i}": shape for i, shape in enumerate(shape_list)}
    total = sum(map(math.prod, shape_list))
    assume(sparsity * total <= total - len(shapes))
    found = (erdos_renyi_kernel if kernel else erdos_renyi)(shapes, sparsity)
    entries, total = densities(found, shapes)
    assert entries == pytest.approx((1 - sparsity) * total, rel=1e-9)
    for path, shape in shapes.items():
        assert 0 <= found[path] <= 1 - 1 / math.prod(shape)
        assert kept(math.prod(shape), found[path]) >= 1


@given(shape_lists, st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_sparsities_grow_with_the_target(shape_list, low, high, kernel):
    shapes = {f"w{i}": shape for i, shape in enumerate(shape_list)}
    total = sum(map(math.prod, shape_list))
    reachable = 1 - len(shapes) / total
    low, high = sorted((low * reachable, high * reachable))
    share = erdos_renyi_kernel if kernel else erdos_renyi
    sparser, denser = share(shapes, high), share(shapes, low)
    assert all(denser[path] <= sparser[path] + 1e-9 for path in shapes)


@pytest.mark.parametrize("share", [uniform, erdos_renyi, erdos_renyi_kernel])
def test_unreachable_target_names_the_highest_reachable(share):
    shapes = {"a": (2, 2), "b": (1, 2)}  # 2 of 6 entries always stay: at most 2/3
    with pytest.raises(ValueError, match="at most 0.666666") as error:
        share(shapes, 0.7)
    assert str(error.value).endswith("Received: sparsity=0.7")
    highest = float(re.search(r"at most ([\d.]+):", str(error.value))[1])
    entries, total = densities(share(shapes, highest), shapes)
    assert entries / total == pytest.approx(1 / 3, abs=1e-5)


@pytest.mark.parametrize("share", [uniform, erdos_renyi, erdos_renyi_kernel])
def test_edge_cases(share):
    assert share({}, 0.9) == {}
    assert share({"only": (10, 10)}, 0.9) == {"only": pytest.approx(0.9)}
    assert share({"bias": (100,)}, 0.5) == {"bias": pytest.approx(0.5)}
    assert share({"scalar": ()}, 0.0) == {"scalar": 0.0}
    with pytest.raises(ValueError, match=re.escape("shape=(3, None)")):
        share({"late": (3, None)}, 0.5)
    with pytest.raises(ValueError, match=re.escape("shape=(3, 0)")):
        share({"empty": (3, 0)}, 0.5)
    with pytest.raises(ValueError, match="sparsity=1.0"):
        share({"only": (10, 10)}, 1.0)


# --- resolve --------------------------------------------------------------------------


def test_resolve_uniform_and_global_give_the_nominal_pair():
    for name in ("uniform", "global"):
        assert resolve(name, SHAPES, 0.9, 0.8) == dict.fromkeys(SHAPES, (0.9, 0.8))


@pytest.mark.parametrize(
    ("name", "share"), [("er", erdos_renyi), ("erk", erdos_renyi_kernel)]
)
def test_resolve_distributes_both_sparsities(name, share):
    found = resolve(name, SHAPES, 0.9, 0.5)
    forward, backward = share(SHAPES, 0.9), share(SHAPES, 0.5)
    assert found == {path: (forward[path], backward[path]) for path in SHAPES}


@given(shape_lists, st.floats(0, 1), st.floats(0, 1), st.sampled_from(["er", "erk"]))
def test_backward_is_never_sparser_than_forward(shape_list, fwd, bwd, name):
    shapes = {f"w{i}": shape for i, shape in enumerate(shape_list)}
    reachable = 1 - len(shapes) / sum(map(math.prod, shape_list))
    bwd, fwd = sorted((bwd * reachable, fwd * reachable))
    for forward, backward in resolve(name, shapes, fwd, bwd).values():
        validate_sparsities(forward, backward)


def test_resolve_mapping():
    rules = {"conv1": 0.0, r"^conv\d": 0.95, "dense": (0.6, 0.1), "query": [0.7, 0.7]}
    assert resolve(rules, SHAPES, 0.9, 0.8) == {
        "conv1/kernel": (0.0, 0.0),  # the first rule wins; bwd = min(0.8, 0)
        "conv2/kernel": (0.95, 0.8),
        "depthwise/kernel": (0.9, 0.8),  # not named
        "query/kernel": (0.7, 0.7),
        "dense/kernel": (0.6, 0.1),
        "scale": (0.9, 0.8),
    }
    assert resolve({re.compile("SCALE", re.I): 0.5}, SHAPES, 0.9, 0.8)["scale"] == (
        (0.5, 0.5)
    )
    assert resolve({}, SHAPES, 0.9, 0.8) == resolve("uniform", SHAPES, 0.9, 0.8)


def test_resolve_callable_gets_the_shapes():
    seen = {}

    def dense_heads(shapes):
        seen.update(shapes)
        return {"dense/kernel": 0.1, "query/kernel": (0.95, 0.2)}

    found = resolve(dense_heads, SHAPES, 0.9, 0.8)
    assert seen == SHAPES
    assert found["dense/kernel"] == (0.1, 0.1)
    assert found["query/kernel"] == (0.95, 0.2)
    assert found["conv1/kernel"] == (0.9, 0.8)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("ERK", "'erk'"), ("unifrom", "'uniform'"), ("globl", "'global'")],
)
def test_unknown_distribution_suggests_the_nearest(name, hint):
    with pytest.raises(ValueError, match=f"Did you mean {hint}") as error:
        resolve(name, SHAPES, 0.9, 0.8)
    assert "'uniform', 'er', 'erk', 'global'" in str(error.value)
    assert str(error.value).endswith(f"Received: distribution={name!r}")


@pytest.mark.parametrize("distribution", [0.9, None, ["erk"]])
def test_invalid_distribution_is_refused(distribution):
    with pytest.raises(ValueError, match="Expected a distribution out of"):
        resolve(distribution, SHAPES, 0.9, 0.8)


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (
            {"convolution": 0.5},
            r"\('conv1/kernel', .*, [.]{3}\). Received: 'convolution'",
        ),
        ({"(": 0.5}, re.escape("Received: distribution key '('")),
        ({3: 0.5}, "Received: distribution key 3"),
        ({"conv": 1.0}, "for 'conv'. Received: 1.0"),
        ({"conv": "half"}, "for 'conv'. Received: 'half'"),
        ({"conv": (0.5,)}, re.escape("Received: (0.5,)")),
        ({"conv": (0.5, 0.6)}, "'conv': .*Received: fwd=0.5, bwd=0.6"),
        ({".": 0.9999}, "at most 0.9991"),
        (
            lambda shapes: {"nowhere": 0.5},
            "none but the paths .*Received: 'nowhere'",
        ),
        (lambda shapes: {"scale": (0.9, -1)}, "'scale': .*Received: fwd=0.9, bwd=-1"),
        (lambda shapes: {"scale": 2}, "for 'scale'. Received: 2"),
        (lambda shapes: None, "return {path: .*Received: None"),
    ],
)
def test_resolve_errors(distribution, message):
    with pytest.raises(ValueError, match=message):
        resolve(distribution, SHAPES, 0.9, 0.8)


@pytest.mark.parametrize(
    "distribution",
    ["uniform", "er", "erk", "global", {}, {"x": 0.5, "y$": (0.9, 0.1)}, dict],
)
def test_validate_distribution_accepts(distribution):
    validate_distribution(distribution)


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        ("erdos", "Received: distribution='erdos'"),
        (None, "Received: distribution=None"),
        ({"(": 0.5}, "Received: distribution key"),
        ({"x": 1.5}, "for 'x'. Received: 1.5"),
        ({"x": (0.1, 0.2)}, "'x': .*Received: fwd=0.1, bwd=0.2"),
    ],
)
def test_validate_distribution_needs_no_shapes(distribution, message):
    with pytest.raises(ValueError, match=message):
        validate_distribution(distribution)


def test_resolve_validates_first():
    for distribution in ("uniform", "erk", "global", {"conv": 0.5}):
        with pytest.raises(ValueError, match="Received: fwd=0.8, bwd=0.9"):
            resolve(distribution, SHAPES, 0.8, 0.9)
    with pytest.raises(ValueError, match="at most"):
        resolve("global", {"a": (2, 2)}, 0.9, 0.0)
