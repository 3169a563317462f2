"""Least-squares fits of what was measured: power laws and polynomials."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Fit(NamedTuple):
    """Coefficients, and R^2: the share of the variance that they explain; NaN: too few points."""

    coefficients: tuple[float, ...]
    r2: float


def power_law(points: Iterable[tuple[float, float]]) -> Fit:
    """(a, b) of y = a * x^b through points (x, y), R^2 of the logarithms.

    Leaves out points without a positive finite y.
    """
    logs = [np.log(point) for point in points if 0 < point[1] < np.inf]
    (log_a, b), r2 = polynomial(logs, degree=1)
    return Fit((float(np.exp(log_a)), b), r2)


def polynomial(points: Iterable[tuple[float, float]], degree: int) -> Fit:
    """(c_0, ..., c_degree) of y = sum of c_k * x^k through points (x, y) with a finite y."""
    x, y = np.array([point for point in points if np.isfinite(point[1])]).reshape(-1, 2).T
    if len(set(x)) <= degree:
        return Fit((float("nan"),) * (degree + 1), float("nan"))
    coefficients = np.polyfit(x, y, degree)
    left, whole = (np.sum(np.square(z)) for z in (y - np.polyval(coefficients, x), y - y.mean()))
    r2 = 1 - left / whole if whole else float("nan")
    return Fit(tuple(coefficients[::-1].tolist()), float(r2))
