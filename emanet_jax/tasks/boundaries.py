"""Boundary F-measure (Martin, Fowlkes and Malik, PAMI 2004) on the host, in NumPy and SciPy.

Predicted probabilities are cut to crests one pixel wide; at every threshold the crest pixels are
matched one to one with labelled boundary pixels within a tolerance; matches and pixels are counted
over the whole set; odsF is the best F over the thresholds.

It differs from the Berkeley benchmark's MATLAB code in two ways:

* Matching is of maximum cardinality; theirs minimises distances plus 100 tolerances for each
  unmatched pixel. So never fewer pixels match here than there, and more only where one more match
  asks over a hundred others to move: on the same crests F here is F there or slightly more.
* Crests are thinned once, above the lowest threshold, and not at every threshold anew. The label is
  thinned as well, so that one drawn two pixels wide is not unreachable.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Num
from scipy import ndimage
from scipy.sparse import csgraph, csr_array
from scipy.spatial import cKDTree

from emanet_jax.types import MetricSums

THRESHOLDS = np.arange(1, 100) / 100
TOLERANCE = 0.0075  # of the image's diagonal, as on PASCAL and BSDS


class BoundaryCounts(MetricSums):
    """Counts of boundary pixels at each of `THRESHOLDS`; they add over images."""

    matched: Int[np.ndarray, "99"]  # pairs of a predicted and a labelled pixel
    predicted: Int[np.ndarray, "99"]
    labelled: Int[np.ndarray, ""]

    @classmethod
    def of(
        cls,
        prediction: Float[np.ndarray, "h w 1"],
        label: Num[np.ndarray, "h w 1"],
        valid: Bool[np.ndarray, "h w 1"],
        tolerance: float = TOLERANCE,
    ) -> "BoundaryCounts":
        """Counts of one image: the box of its valid pixels, which leaves padding out.

        Args:
            prediction: probabilities.
            label: 1 = boundary.
            valid: predicted pixels elsewhere do not count.
            tolerance: greatest distance of a match, as a fraction of the image's diagonal.
        """
        boxes = ndimage.find_objects(valid[..., 0].astype(np.uint8))
        if not boxes:
            nothing = np.zeros(len(THRESHOLDS), np.int64)
            return cls(matched=nothing, predicted=nothing, labelled=np.array(0))
        prediction, label, valid = (x[boxes[0]][..., 0] for x in (prediction, label, valid))
        truth = thin((label > 0.5) & valid)
        strength = crests(prediction.astype(np.float64))
        predicted = thin(strength >= THRESHOLDS[0]) & valid
        # How many thresholds a pixel reaches; pixels at level k or above are predicted at the kth.
        levels = np.searchsorted(THRESHOLDS, strength[predicted], side="right")
        matched = match_levels(
            np.argwhere(truth),
            np.argwhere(predicted),
            levels,
            tolerance * float(np.hypot(*truth.shape)),
        )
        return cls(
            matched=_reaching(matched),
            predicted=_reaching(levels),
            labelled=np.asarray(np.count_nonzero(truth)),
        )

    def higher_is_better(self) -> dict[str, bool]:
        """As of every F-measure."""
        return {"odsf_percent": True}

    def compute(self) -> dict[str, float]:
        """`odsf_percent`: the best F over the thresholds; NaN if no boundary is labelled."""
        if not self.labelled:
            return {"odsf_percent": float("nan")}
        # F = 2 P R / (P + R), multiplied out.
        f_measure = 2 * np.asarray(self.matched) / (self.labelled + np.asarray(self.predicted))
        return {"odsf_percent": 100 * float(f_measure.max())}


def _reaching(levels: np.ndarray) -> np.ndarray:
    """How many of `levels` are at least 1, 2, ..., 99."""
    counts = np.bincount(levels, minlength=len(THRESHOLDS) + 1)
    return counts[::-1].cumsum()[::-1][1:]


def match_levels(
    truth: Int[np.ndarray, "m 2"],
    predicted: Int[np.ndarray, "n 2"],
    levels: Int[np.ndarray, " n"],
    distance: float,
) -> Int[np.ndarray, " matches"]:
    """Levels of the predicted points in a matching that has maximum cardinality at every level.

    Sets of points that can be matched at once form a matroid. In a matroid the set of largest total
    weight also has, for every k, as many points of weight k or more as any set can have. So one
    assignment that maximises the sum of levels answers for every threshold.

    Args:
        truth: labelled points.
        predicted: predicted points.
        levels: of the predicted points, from 1 to the number of thresholds.
        distance: greatest Euclidean distance of a match, in pixels.

    Returns:
        The levels of the predicted points that are matched.
    """
    trees = cKDTree(truth), cKDTree(predicted)
    pairs = trees[0].sparse_distance_matrix(trees[1], distance, output_type="ndarray")
    if not len(pairs):
        return np.zeros(0, np.int64)
    near, rows = np.unique(pairs["i"], return_inverse=True)
    # A column of its own lets every row stay without a match, which is dearer than any match.
    own, top = np.arange(len(near)), len(THRESHOLDS) + 1
    columns = np.concatenate([pairs["j"], len(predicted) + own])
    costs = np.concatenate([top - levels[pairs["j"]], np.full(len(near), top)]).astype(np.float64)
    shape = (len(near), len(predicted) + len(near))
    graph = csr_array((costs, (np.concatenate([rows, own]), columns)), shape=shape)
    _, assigned = csgraph.min_weight_full_bipartite_matching(graph)
    return levels[assigned[assigned < len(predicted)]]


def crests(strength: np.ndarray) -> np.ndarray:
    """Keeps `strength` (h, w) where it is largest across the local line, and is 0 elsewhere.

    The line's normal is the main axis of the structure tensor (smoothed products of gradients); a
    pixel is compared with the bilinear values one pixel away on either side of it.
    """
    smooth = ndimage.gaussian_filter(strength, 1.0)
    dy, dx = ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)
    xx, xy, yy = (ndimage.gaussian_filter(p, 2.0) for p in (dx * dx, dx * dy, dy * dy))
    angle = np.arctan2(2 * xy, xx - yy) / 2
    step = np.stack([np.sin(angle), np.cos(angle)])
    # Flat tops, as saturated probabilities have them, peak in their middle once this is added.
    value = strength + 1e-3 * ndimage.gaussian_filter(strength, 2.0)
    here = np.indices(strength.shape)
    ahead, behind = (
        ndimage.map_coordinates(value, here + sign * step, order=1, mode="nearest")
        for sign in (1, -1)
    )
    # Of two equal neighbours one stays: equality, up to rounding, counts on one side only.
    top = (value >= ahead - 1e-9) & (value > behind + 1e-9)
    return np.where(top, strength, 0)


def _thinning_tables() -> np.ndarray:
    """Whether a pixel goes, by its 8 neighbours as bits, in either sub-iteration: (2, 256) bool."""
    n, ne, e, se, s, sw, w, nw = (np.arange(256) >> bit & 1 for bit in range(8))
    crossings = sum(
        (1 - a) & (b | c) for a, b, c in ((n, ne, e), (e, se, s), (s, sw, w), (w, nw, n))
    )
    pairs = np.minimum(
        (nw | n) + (ne | e) + (se | s) + (sw | w), (n | ne) + (e | se) + (s | sw) + (w | nw)
    )
    redundant = (crossings == 1) & (pairs >= 2) & (pairs <= 3)
    first, second = (s | sw | (1 - nw)) & w, (n | ne | (1 - se)) & e
    return np.stack([redundant & (first == 0), redundant & (second == 0)])


_THINNING = _thinning_tables()


def thin(mask: np.ndarray) -> np.ndarray:
    """Thins the lines of a bool map (h, w) to one pixel, keeping them connected.

    Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 1989, algorithm A1.
    """
    padded = np.pad(mask, 1)
    flat, width = padded.reshape(-1), padded.shape[1]
    around = np.array([-width, 1 - width, 1, 1 + width, width, width - 1, -1, -width - 1])
    points = np.flatnonzero(flat)
    unchanged = 0
    while unchanged < 2:
        for table in _THINNING:
            code = (flat[points[:, None] + around] << np.arange(8)).sum(axis=1)
            gone = table[code]
            flat[points[gone]] = False
            points = points[~gone]
            unchanged = 0 if gone.any() else unchanged + 1
    return padded[1:-1, 1:-1]
