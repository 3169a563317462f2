"""Do the fields of an example fit each other: borders with the image's edges, normals with depth.

Both tests add up over examples, so that a coincidence in one of them does not count.
"""

from collections.abc import Mapping

import numpy as np

from emanet_jax.data.normals import normals_from_depth
from emanet_jax.types import Task

_ANGLES = np.linspace(0, 180, 721)  # edges of the histogram, degrees
_WIDTH = 512  # wider pictures are thinned out first


class Borders:
    """Where the borders of a label lie, seen from the edges of its image.

    The correlation of the two maps of edges at every shift up to a 16th of the width; borders of a
    label that lie where they should have the highest at no shift.
    """

    def __init__(self) -> None:
        self._surface: np.ndarray | float = 0.0
        self._previous: np.ndarray | None = None
        self._wins: list[bool] = []
        self._step, self._reach = 1, 0

    def update(self, image: np.ndarray, label: np.ndarray, task: Task) -> None:
        """Adds an image (h, w, 3) and its label (h, w, k)."""
        w = image.shape[1]
        if not self._reach:
            self._step = -(-w // _WIDTH)
            self._reach = max(4, w // self._step // 16)
        thin = np.s_[:: self._step, :: self._step]
        luma = image[thin].astype(np.float32).mean(-1, keepdims=True)
        edges = _edges(luma, np.ones((*luma.shape[:2], 1), bool))
        borders = _edges(_comparable(label[thin], task), task.valid(label[thin]))
        self._surface = self._surface + _correlation(edges, borders, self._reach)
        # The same image with another example's label: what chance and composition alone give.
        if not borders.any():
            return
        if self._previous is not None and self._previous.shape == edges.shape:
            self._wins.append((edges * borders).sum() > (edges * self._previous).sum())
        self._previous = borders

    def shift(self) -> tuple[int, int]:
        """How far the label must be moved (down, right) to fit best, in pixels.

        (0, 0) if that is within 1 % of the width, hardly better than no move, or no clear peak.
        """
        surface = np.asarray(self._surface)
        reach = self._reach
        if not surface.ndim or surface.max() <= 0:
            return 0, 0
        peak = np.unravel_index(surface.argmax(), surface.shape)
        y, x = (int(k) - reach for k in peak)
        near = max(1, round(reach * 16 / 100))
        around = surface[reach - near : reach + near + 1, reach - near : reach + near + 1].max()
        clear = surface.max() > np.median(surface) + 3 * surface.std()
        if max(abs(y), abs(x)) <= near or surface.max() < 1.2 * around or not clear:
            return 0, 0
        return y * self._step, x * self._step

    def own_share(self) -> float:
        """In what share of images their own label fits better than the one before it; NaN if few.

        One half is what labels of other images reach.
        """
        return float(np.mean(self._wins)) if len(self._wins) >= 8 else np.nan


def _comparable(label: np.ndarray, task: Task) -> np.ndarray:
    """Values (h, w, k) whose differences between neighbours mean the same everywhere."""
    if label.dtype.kind == "f" and task.label_channels == 1:  # distances grow with noise
        return np.log(np.where(task.valid(label), np.abs(label), 1))
    return label.astype(np.float32)


def _edges(values: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """How much a pixel (h, w) differs from its neighbours: mean 0, sum of squares 1 (or all 0)."""
    valid = valid[..., 0]
    edges = np.zeros(valid.shape, np.float32)
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        change = np.abs(values[second] - values[first]).sum(-1) * (valid[second] & valid[first])
        edges[first] += change
        edges[second] += change
    # A label has no stronger and weaker borders; of a picture the strongest edges must not rule.
    strong = np.percentile(edges, 95)
    edges = np.minimum(edges, strong) if strong > 0 else np.sign(edges)
    edges = edges - edges.mean()
    norm = np.sqrt((edges * edges).sum())
    return edges / norm if norm > 0 else edges


def _correlation(first: np.ndarray, second: np.ndarray, reach: int) -> np.ndarray:
    """Entry (reach + y, reach + x): `first` against `second` moved y down and x right."""
    size = (first.shape[0] + reach, first.shape[1] + reach)
    product = np.fft.rfft2(first, size) * np.conj(np.fft.rfft2(second, size))
    surface = np.roll(np.fft.irfft2(product, size), (reach, reach), (0, 1))
    return surface[: 2 * reach + 1, : 2 * reach + 1]


class Agreement:
    """Stored normals against those from depth, which needs the camera of NYUv2."""

    def __init__(self) -> None:
        self._angles = np.zeros(len(_ANGLES) - 1)
        self._products, self._stored, self._derived = (np.zeros(3) for _ in range(3))

    def update(self, labels: Mapping[str, np.ndarray], depth: Task, normals: Task) -> None:
        """Adds an example's depth (h, w, 1) in metres and normals (h, w, 3)."""
        stored = labels[normals.name].astype(np.float64)
        derived = normals_from_depth(labels[depth.name]).astype(np.float64)
        both = normals.valid(stored)[..., 0] & derived.any(-1)
        stored, derived = stored[both], derived[both]
        cosine = np.clip((stored * derived).sum(-1), -1, 1)
        self._angles += np.histogram(np.degrees(np.arccos(cosine)), _ANGLES)[0]
        self._products += (stored * derived).sum(0)
        self._stored += (stored * stored).sum(0)
        self._derived += (derived * derived).sum(0)

    def median(self) -> float:
        """Median angle in degrees; NaN if no pixel has both."""
        total = self._angles.cumsum()
        if not total[-1]:
            return np.nan
        return float(_ANGLES[1 + np.searchsorted(total, total[-1] / 2)])

    def correlations(self) -> np.ndarray:
        """Of the x, y and z components, (3,); NaN for an axis that no surface looks along."""
        scale = np.sqrt(self._stored * self._derived)
        seen = np.minimum(self._stored, self._derived) > 0.005 * self._angles.sum()
        return np.divide(self._products, scale, out=np.full(3, np.nan), where=seen & (scale > 0))
