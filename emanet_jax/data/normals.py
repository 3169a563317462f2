"""Surface normals from a depth map: planes fitted in inverse depth, averaged where they fit.

A plane n . X = d seen by a pinhole camera has the inverse depth 1 / z = a x + b y + c along the ray
(x, y, 1), with (a, b, c) = n / d. The fit is therefore linear, and the noise of structured light,
which grows with z^2 in depth, is the same everywhere in inverse depth (Khoshelham and Elberink,
"Accuracy and Resolution of Kinect Depth Data", 2012). Sums over windows are box filters.

Every pixel gets the mean of the planes of all windows that contain it, weighted by how well they
fit, as the guided filter averages its coefficients (He et al., 2013). A window across an edge or a
crease fits badly and weighs next to nothing, so planes keep their own normals up to their borders.
"""

import numpy as np
from scipy import ndimage

from emanet_jax import camera

# One step of the Kinect's disparity in inverse depth, 1/m; a residual below its deviation as
# rounding noise is no worse than none.
DISPARITY_STEP = 1 / 351.3
_NOISE = DISPARITY_STEP / np.sqrt(12)

_SUPPORT = 0.2  # share of a window's pixels that must have depth
_LEAST_WEIGHT = 1e-9  # relative; smaller ones would drown in the rounding of the box filter
_JUMP = 0.05  # relative departure from the plane that makes a step in depth


def normals_from_depth(
    depth: np.ndarray,
    measured: np.ndarray | None = None,
    view: camera.Intrinsics | None = None,
    radius: int = 0,
) -> np.ndarray:
    """Unit normals towards the camera: x right, y down, z forward; a wall ahead has (0, 0, -1).

    Args:
        depth: (h, w) or (h, w, 1) metres along z; 0 = unknown.
        measured: (h, w) bool, which depths to believe; all positive ones if left out.
        view: the camera; that of NYUv2 scaled to the map if left out.
        radius: of a window in pixels, its side is 2 radius + 1; 0: a 128th of the width.

    Returns:
        (h, w, 3) float32; zero where depth was not measured, where too few pixels around were, and
        on both sides of a step in depth.
    """
    h, w = depth.shape[:2]
    depth = depth.reshape(h, w).astype(np.float64)
    filled = depth > 0
    known = filled if measured is None else filled & measured
    radius = radius or max(2, round(w / 128))
    rays = camera.rays((h, w), view)
    x, y = rays[..., 0], rays[..., 1]
    inverse = np.divide(1, depth, out=np.zeros_like(depth), where=filled)

    plane, variance, support = _fit(inverse * known, known.astype(np.float64), x, y, radius)
    weight = (_NOISE**2 / (variance + _NOISE**2)) ** 3
    weight = np.where(support >= _SUPPORT, np.maximum(weight, _LEAST_WEIGHT), 0)
    # The sum of the planes has the direction of their mean.
    a, b, c = (_box(weight * k, radius) for k in plane)
    total = _box(weight, radius)
    fitted = known & (total > _LEAST_WEIGHT / 2 / (2 * radius + 1) ** 2)
    scale = np.divide(1, total, out=np.zeros_like(total), where=fitted)
    a, b, c = a * scale, b * scale, c * scale

    valid = fitted & ~_steps(inverse, (a, b, c), x, y)
    # Inverse depth is positive, so n = -(a, b, c) has n . X < 0: it points to the camera.
    length = np.sqrt(a * a + b * b + c * c)
    scale = np.divide(-1, length, out=np.zeros_like(length), where=valid & (length > 0))
    return np.stack([a * scale, b * scale, c * scale], -1).astype(np.float32)


def _box(values: np.ndarray, radius: int) -> np.ndarray:
    """Mean over a window around every pixel; zeros lie outside of the map."""
    return ndimage.uniform_filter(values, 2 * radius + 1, mode="constant")


def _fit(
    inverse: np.ndarray, known: np.ndarray, x: np.ndarray, y: np.ndarray, radius: int
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """The least-squares plane 1 / z = a x + b y + c of the window around every pixel.

    Returns:
        (a, b, c); the residuals' variance; the share of the window that is known, 0 where its
        pixels lie on a line. All are (h, w).
    """
    kx, ky = known * x, known * y
    support, mean_x, mean_y = _box(known, radius), _box(kx, radius), _box(ky, radius)
    share = np.divide(1, support, out=np.zeros_like(support), where=support > 1e-9)

    def mean(values: np.ndarray) -> np.ndarray:
        return _box(values, radius) * share

    mean_x, mean_y, mean_w = mean_x * share, mean_y * share, mean(inverse)
    xx, xy, yy = (
        mean(kx * x) - mean_x * mean_x,
        mean(kx * y) - mean_x * mean_y,
        mean(ky * y) - mean_y * mean_y,
    )
    xw, yw = mean(inverse * x) - mean_x * mean_w, mean(inverse * y) - mean_y * mean_w
    ww = mean(inverse * inverse) - mean_w * mean_w
    # Both steps of the grid, for a determinant in pixels.
    pixel = (x[0, 1] - x[0, 0]) * (y[1, 0] - y[0, 0])
    determinant = xx * yy - xy * xy
    solvable = determinant > 1e-3 * pixel**2
    factor = np.divide(1, determinant, out=np.zeros_like(determinant), where=solvable)
    a, b = (yy * xw - xy * yw) * factor, (xx * yw - xy * xw) * factor
    c = mean_w - a * mean_x - b * mean_y
    variance = np.maximum(ww - a * xw - b * yw, 0)
    return (a, b, c), variance, np.where(solvable, support, 0)


def _steps(
    inverse: np.ndarray,
    plane: tuple[np.ndarray, np.ndarray, np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
) -> np.ndarray:
    """Pixels (h, w) that lie off their plane or beside a neighbour that does."""
    a, b, c = plane
    allowed = _JUMP * inverse + 2 * DISPARITY_STEP
    broken = np.abs(inverse - a * x - b * y - c) > allowed
    for axis, gradient, ray in ((1, a, x), (0, b, y)):
        first, second = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        rise, run = inverse[second] - inverse[first], ray[second] - ray[first]
        both = (inverse[first] > 0) & (inverse[second] > 0)
        for here in (first, second):
            broken[here] |= both & (np.abs(rise - gradient[here] * run) > allowed[here])
    return broken
