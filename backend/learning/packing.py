"""Features as replies carry them: float16 in base64."""

from __future__ import annotations

import base64

import numpy as np


def pack_features(features: np.ndarray) -> str:
    """Numbers (d,) as a reply carries them."""
    return base64.b64encode(features.astype("<f2").tobytes()).decode()


def unpack_features(text: str) -> np.ndarray:
    """(d,) float32; none where nothing was asked or it is damaged."""
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<f2").astype(np.float32)
    except ValueError:
        return np.zeros(0, np.float32)
