"""Non-negative least squares for a handful of coefficients."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

RIDGE = 1e-6


def solve_nonnegative(
    rows: npt.NDArray[np.float64], targets: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Minimise the weighted squares of `rows @ w - targets` over w >= 0; exact, by trying every support.

    The optimum of a non-negative problem is the plain least-squares solution on its support, so with p columns the best
    feasible one of the 2^p - 1 candidates is the answer; fine for p <= 5. Columns are scaled to unit norm and a tiny
    ridge decides between collinear ones by sharing the weight among them.
    """
    scaled = rows * np.sqrt(weights)[:, None]
    goal = targets * np.sqrt(weights)
    norms = np.linalg.norm(scaled, axis=0)
    norms = np.where(norms > 0, norms, 1.0)  # a column of zeros gets the weight 0, from its moment
    scaled = scaled / norms
    gram = scaled.T @ scaled + RIDGE * np.eye(rows.shape[1])
    moment = scaled.T @ goal
    best = np.zeros(rows.shape[1])
    best_gain = 0.0
    for supports in _supports(rows.shape[1]):  # all of one size in one call
        moments = moment[supports]
        candidates = np.linalg.solve(gram[supports[:, :, None], supports[:, None, :]], moments[:, :, None])[:, :, 0]
        # what the objective falls by, for a least-squares solution
        gains = np.where((candidates >= 0).all(axis=1), (candidates * moments).sum(axis=1), 0.0)
        winner = int(gains.argmax())
        if gains[winner] > best_gain:
            best_gain = float(gains[winner])
            best = np.zeros(rows.shape[1])
            best[supports[winner]] = candidates[winner]
    return best / norms


@cache
def _supports(num_columns: int) -> tuple[npt.NDArray[np.intp], ...]:
    """Every non-empty choice of columns, one array per size, one row per choice."""
    return tuple(
        np.array(list(combinations(range(num_columns), size)), dtype=np.intp) for size in range(1, num_columns + 1)
    )
