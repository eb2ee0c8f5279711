"""A logistic function of a few signs, fitted to what was right, and held to a prior where little is known."""

from __future__ import annotations

import numpy as np


def sure_of(values: np.ndarray) -> np.ndarray:
    """The probabilities, 0..1, that log-odds stand for."""
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -50, 50))))


def logistic_of(signs: np.ndarray, right: np.ndarray, counts: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """The weights (s,) by which signs say whether something is right: Newton's method, with steps that go down.

    Args:
        signs: (n, s), what is known of each case; a column of ones is its constant.
        right: (n,) boolean.
        counts: (n,) how much each case counts.
        prior: (s,) the weights without any case; they hold the result as if by one case.
    """
    weights = prior.astype(float)
    signs = signs.astype(float)

    def loss(at: np.ndarray) -> float:
        along = signs @ at * np.where(right, 1, -1)
        return float((counts * np.logaddexp(0, -along)).sum() + ((at - prior) ** 2).sum() / 2)

    for _ in range(30):
        sure = sure_of(signs @ weights)
        slope = signs.T @ (counts * (sure - right)) + (weights - prior)
        curve = (signs * (counts * sure * (1 - sure))[:, None]).T @ signs + np.eye(len(weights))
        step = np.linalg.solve(curve, slope)
        size = 1.0
        while size > 1e-3 and loss(weights - size * step) > loss(weights):
            size /= 2
        weights = weights - size * step
        if np.abs(size * step).max() < 1e-5:
            break
    return weights
