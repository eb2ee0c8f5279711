"""A mask as one closed outline: its parts and holes joined by bridges without width, then simplified."""

from __future__ import annotations

import numpy as np

_SPECK = 0.01  # parts and holes below this share of the mask's area are left out


def outline(mask: np.ndarray, tolerance: float, least: float = _SPECK) -> list[tuple[float, float]]:
    """One polygon whose even-odd filling is the mask.

    Label Studio's polygons are single rings. A hole is reached by a cut from the ring around it and back, and so is a
    part that lies apart: filled, the result covers what the mask covers.

    Args:
        mask: boolean (H, W).
        tolerance: how far the outline may run beside the mask's edge, pixels.
        least: parts and holes below this share of the mask's area are left out.

    Returns:
        (x, y) in percentages of the picture's width and height; empty for an empty mask.
    """
    import cv2

    height, width = mask.shape
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    least *= float(mask.sum())
    rings = []
    for contour in contours:
        # a contour runs through pixels' centres; a part one pixel wide has no area but is there
        simple = cv2.approxPolyDP(contour, tolerance, closed=True)[:, 0].astype(np.float64)
        if len(simple) >= 3 and cv2.contourArea(contour) >= least:
            rings.append((cv2.contourArea(contour), simple))
    if not rings:
        return []
    rings.sort(key=lambda pair: -pair[0])
    joined = rings[0][1]
    for _, ring in rings[1:]:
        joined = _bridge(joined, ring)
    percent = (joined + 0.5) / (width, height) * 100
    return [(round(float(x), 4), round(float(y), 4)) for x, y in percent]


def _bridge(ring: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Both closed rings as one: over at the closest pair of corners, around, and back the same way."""
    gaps = ((ring[:, None] - other[None]) ** 2).sum(-1)
    i, j = np.unravel_index(gaps.argmin(), gaps.shape)
    around = np.concatenate([other[j:], other[: j + 1]])
    return np.concatenate([ring[: i + 1], around, ring[i:]])
