"""Boundary F: counts by hand, matching against brute force, crests and thinning of known lines."""

import functools
import itertools

import numpy as np
import pytest
from scipy import ndimage
from scipy.sparse import csgraph, csr_array

from emanet_jax.tasks import boundaries, metrics
from emanet_jax.tasks.boundaries import BoundaryCounts

EIGHT = np.ones((3, 3), int)  # neighbours that count as connected


def counts_of(prediction, label, tolerance=0.0075, ignored=()):
    """`BoundaryCounts` of maps (h, w); `ignored` pixels have no label."""
    valid = np.ones((*label.shape, 1), bool)
    for y, x in ignored:
        valid[y, x] = False
    return BoundaryCounts.of(prediction[..., None], np.uint8(label)[..., None], valid, tolerance)


def column(x, strength=1.0, size=32, rows=slice(None)):
    """A map with a vertical line at x."""
    line = np.zeros((size, size))
    line[rows, x] = strength
    return line


def test_a_line_on_the_label_matches_and_one_too_far_does_not():
    label = column(10)
    diagonal = np.hypot(32, 32)
    for shift, reach, matched in ((0, 0.5, 32), (2, 2.5, 32), (2, 1.5, 0), (-3, 3.1, 32)):
        counts = counts_of(column(10 + shift, 0.7), label, tolerance=reach / diagonal)
        assert counts.labelled == 32
        # Strength 0.7 reaches the thresholds 0.01 to 0.70.
        np.testing.assert_array_equal(counts.predicted, [32] * 70 + [0] * 29)
        np.testing.assert_array_equal(counts.matched, [matched] * 70 + [0] * 29)


def test_two_lines_and_half_a_label_by_hand():
    # The upper half of the label is found with 0.6, a line in nothing with 0.3.
    prediction = column(8, 0.6, rows=slice(0, 16)) + column(24, 0.3)
    counts = counts_of(prediction, column(8), tolerance=0.03)
    matched, predicted = counts.matched[[0, 29, 30, 59, 60]], counts.predicted[[0, 29, 30, 59, 60]]
    np.testing.assert_array_equal(predicted, [48, 48, 16, 16, 0])
    np.testing.assert_array_equal(matched, [16, 16, 16, 16, 0])
    # Best from 0.31 to 0.60: precision 1, recall 1/2.
    assert counts.compute()["odsf_percent"] == pytest.approx(100 * 2 * 16 / (32 + 16))


def test_a_labelled_pixel_matches_once():
    # Two predicted lines within reach of one labelled line.
    counts = counts_of(column(8) + column(13), column(10), tolerance=4 / np.hypot(32, 32))
    assert counts.predicted[0] == 64 and counts.matched[0] == 32
    assert counts.compute()["odsf_percent"] == pytest.approx(100 * 2 * 32 / (32 + 64))


def test_predictions_on_ignored_pixels_do_not_count():
    label, ignored = column(10), [(y, 24) for y in range(32)]
    with_false_line = column(10) + column(24)
    assert counts_of(with_false_line, label).compute()["odsf_percent"] < 70
    counts = counts_of(with_false_line, label, ignored=ignored)
    assert counts.compute()["odsf_percent"] == pytest.approx(100)
    assert counts.predicted[0] == 32


def test_padding_without_a_label_changes_nothing():
    rng = np.random.default_rng(0)
    prediction = ndimage.gaussian_filter(rng.random((24, 30)), 1)
    label = (rng.random((24, 30)) < 0.1) * 1
    plain = counts_of(prediction, label, tolerance=0.05)
    padded = ((0, 16), (0, 10))
    garbage = np.pad(prediction, padded, mode="reflect")
    ignored = np.argwhere(np.pad(np.zeros_like(label), padded, constant_values=1))
    assert counts_of(garbage, np.pad(label, padded), 0.05).matched[0] != plain.matched[0]
    same = counts_of(garbage, np.pad(label, padded), 0.05, ignored)
    for ours, expected in zip(same.__dict__.values(), plain.__dict__.values(), strict=True):
        np.testing.assert_array_equal(ours, expected)
    nothing = counts_of(garbage, np.pad(label, padded), 0.05, np.argwhere(garbage >= 0))
    assert nothing.predicted.sum() == nothing.labelled == 0


def test_counts_pool_over_images():
    # Alone, either image is perfect at some threshold; no threshold suits both.
    first = counts_of(column(8, 0.9) + column(24, 0.6), column(8))
    second = counts_of(column(8, 0.3), column(8))
    assert first.compute()["odsf_percent"] == pytest.approx(100)
    assert second.compute()["odsf_percent"] == pytest.approx(100)
    pooled = metrics.total([first, second]).compute()["odsf_percent"]
    assert pooled == pytest.approx(100 * 2 * 64 / (64 + 96))  # all lines, at 0.30 and below


def test_nothing_labelled_or_predicted():
    empty = np.zeros((16, 16))
    assert np.isnan(counts_of(column(3, size=16), empty).compute()["odsf_percent"])
    assert counts_of(empty, column(3, size=16)).compute()["odsf_percent"] == 0
    assert counts_of(np.full((16, 16), 0.5), column(3, size=16)).predicted.sum() == 0


def brute_force(truth, predicted, distance):
    """The most pairs that any one-to-one assignment of points has, by trying all of them."""
    near = [[j for j, q in enumerate(predicted) if np.hypot(*(p - q)) <= distance] for p in truth]

    @functools.cache
    def best(i, taken):
        if i == len(near):
            return 0
        options = (1 + best(i + 1, taken | 1 << j) for j in near[i] if not taken >> j & 1)
        return max(best(i + 1, taken), *options, 0)

    return best(0, 0)


def matching_by_threshold(truth, predicted, levels, distance):
    """Maximum cardinality anew for the predicted points of every level and above."""
    apart = np.linalg.norm(truth[:, None] - predicted[None], axis=-1)
    counts = []
    for level in range(1, len(boundaries.THRESHOLDS) + 1):
        graph = csr_array((apart <= distance) & (levels >= level)[None])
        counts.append(int((csgraph.maximum_bipartite_matching(graph, "column") >= 0).sum()))
    return counts


def reaching(levels):
    return [int((levels >= k).sum()) for k in range(1, len(boundaries.THRESHOLDS) + 1)]


@pytest.mark.parametrize("seed", range(40))
def test_matching_equals_brute_force_at_every_threshold(seed):
    rng = np.random.default_rng(seed)
    size, distance = int(rng.integers(3, 8)), rng.uniform(1, 3)
    points = np.array(list(itertools.product(range(size), repeat=2)))
    truth = rng.permutation(points)[: rng.integers(1, 9)]
    predicted = rng.permutation(points)[: rng.integers(1, 9)]
    levels = rng.choice(
        [1, 20, 40, 99], len(predicted)
    )  # ties, and thresholds that nothing ends at
    matched = reaching(boundaries.match_levels(truth, predicted, levels, distance))
    for level in (1, 2, 20, 21, 40, 41, 99):
        expected = brute_force(truth, predicted[levels >= level], distance)
        assert matched[level - 1] == expected, level


@pytest.mark.parametrize("seed", range(5))
def test_one_matching_has_maximum_cardinality_at_all_99_thresholds(seed):
    rng = np.random.default_rng(seed)
    points = np.array(list(itertools.product(range(20), repeat=2)))
    truth, predicted = rng.permutation(points)[:120], rng.permutation(points)[:200]
    levels = rng.integers(1, 100, len(predicted))
    matched = reaching(boundaries.match_levels(truth, predicted, levels, 1.5))
    assert matched == matching_by_threshold(truth, predicted, levels, 1.5)


@pytest.mark.parametrize("seed", range(5))
def test_properties_of_the_counts(seed):
    rng = np.random.default_rng(seed)
    prediction = np.clip(ndimage.gaussian_filter(rng.random((24, 30)), 1) * 3 - 1, 0, 1)
    label = (rng.random((24, 30)) < 0.15).astype(np.uint8)
    counts = [counts_of(prediction, label, tolerance) for tolerance in (0.02, 0.05, 0.2)]
    for c in counts:
        assert (np.diff(c.predicted) <= 0).all() and (np.diff(c.matched) <= 0).all()
        assert (c.matched <= np.minimum(c.predicted, c.labelled)).all()
    for near, far in itertools.pairwise(counts):
        assert (near.matched <= far.matched).all() and near.matched.sum() < far.matched.sum()
        np.testing.assert_array_equal(near.predicted, far.predicted)
    # Far enough for anything to match, all that there is to match does.
    everything = counts_of(prediction, label, tolerance=1.0)
    np.testing.assert_array_equal(
        everything.matched, np.minimum(everything.predicted, everything.labelled)
    )


LINES = {
    "across": lambda y, x: y - 31.3,
    "diagonal": lambda y, x: (y - x) / 2**0.5,
    "sloping": lambda y, x: (y - 0.37 * x - 15) / np.hypot(1, 0.37),
    "between pixels": lambda y, x: x - 31.5,
}


@pytest.mark.parametrize("profile", ["blurred", "flat"])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_broad_line_becomes_one_pixel_wide_in_its_middle(line, profile):
    distance = line(*np.mgrid[:64, :64].astype(float))
    broad = np.exp(-(distance**2) / 8) if profile == "blurred" else (abs(distance) < 2.5) * 1.0
    left = boundaries.thin(boundaries.crests(broad) > 0.3)
    assert ndimage.label(left, EIGHT)[1] == 1
    per_column, per_row = left.sum(0), left.sum(1)
    assert (per_column == 1).all() or (per_row == 1).all()  # whole, and never two side by side
    assert abs(distance[left]).max() < 0.71
    np.testing.assert_array_equal(boundaries.crests(broad)[left], broad[left])


def test_thinning_keeps_pieces_and_holes_and_is_done_after_once():
    rng = np.random.default_rng(0)
    mask = ndimage.gaussian_filter(rng.standard_normal((80, 80)), 2) > 0
    left = boundaries.thin(mask)
    assert left.sum() < mask.sum() / 3 and not (left & ~mask).any()
    assert ndimage.label(left, EIGHT)[1] == ndimage.label(mask, EIGHT)[1]
    assert ndimage.label(~np.pad(left, 1))[1] == ndimage.label(~np.pad(mask, 1))[1]
    np.testing.assert_array_equal(boundaries.thin(left), left)
    assert not ndimage.binary_erosion(left, EIGHT[:2, :2]).any()  # no 2x2 block


def test_the_label_itself_is_an_all_but_perfect_prediction_however_it_is_drawn():
    y, x = np.mgrid[:96, :128]
    regions = (np.hypot(y - 40, x - 50) < 25) + 2 * (x + y > 150)
    thin = regions != np.roll(regions, 1, axis=1)
    thin |= regions != np.roll(regions, 1, axis=0)
    thin[0], thin[:, 0] = False, False
    wide = ndimage.binary_dilation(thin, EIGHT)
    for label in (thin, wide):
        assert counts_of(label * 1.0, label).compute()["odsf_percent"] > 98
