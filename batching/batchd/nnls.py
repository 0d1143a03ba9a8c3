"""Non-negative least squares for a handful of coefficients."""

from __future__ import annotations

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
    usable = [column for column in range(rows.shape[1]) if norms[column] > 0]
    scaled = scaled / np.where(norms > 0, norms, 1.0)
    gram = scaled.T @ scaled + RIDGE * np.eye(rows.shape[1])
    moment = scaled.T @ goal
    best = np.zeros(rows.shape[1])
    best_gain = 0.0
    for size in range(1, len(usable) + 1):
        for support in combinations(usable, size):
            index = list(support)
            candidate = np.linalg.solve(gram[np.ix_(index, index)], moment[index])
            gain = float(candidate @ moment[index])  # = what the objective falls by, for a least-squares solution
            if gain > best_gain and bool((candidate >= 0).all()):
                best = np.zeros(rows.shape[1])
                best[index] = candidate
                best_gain = gain
    return np.where(norms > 0, best / np.where(norms > 0, norms, 1.0), 0.0)
