"""Label Studio's run-length encoding of brush masks, in numpy.

label_studio_sdk has it bit by bit in Python, and a full-HD mask takes that longer than all the rest of an answer. The
format: a header (32 bits number of values, 5 bits word size − 1, four times 4 bits run size − 1), then for each run a
bit 1, two bits that choose the run size, the run's length − 1 in so many bits, and the value in 8 bits; zeros fill the
last byte.
"""

from __future__ import annotations

import numpy as np

_SIZES = np.array([3, 4, 8, 16])  # bits of a run's length
_HEADER = (7 << 16) | (2 << 12) | (3 << 8) | (7 << 4) | 15  # word size 8 and _SIZES, each less one
_LONGEST = 1 << 16


def encode(mask: np.ndarray) -> list[int]:
    """A boolean mask (H, W) as the bytes of Label Studio's `rle`: four channels a pixel, 255 inside, row by row."""
    flat = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    runs = 4 * np.diff(starts, append=flat.size)
    kinds = np.searchsorted([8, 16, 256], runs)
    # the longest run that 16 bits can say is cut into pieces, of which the last one has the rest
    pieces = np.where(kinds == 3, (runs - 1) // _LONGEST + 1, 1)
    last = np.cumsum(pieces) - 1
    lengths = np.full(pieces.sum(), _LONGEST)
    lengths[last] = runs - (pieces - 1) * _LONGEST
    kinds, values = np.repeat(kinds, pieces), np.repeat(flat[starts].astype(np.int64) * 255, pieces)
    sizes = _SIZES[kinds]
    codes = (1 << (sizes + 10)) | (kinds << (sizes + 8)) | ((lengths - 1) << 8) | values
    codes = np.concatenate([[flat.size * 4, _HEADER], codes])
    widths = np.concatenate([[32, 21], sizes + 11])
    ends = np.cumsum(widths)
    total = int(ends[-1])
    # the SDK fills up with a whole byte where nothing is left to fill; so do we, to be byte for byte the same
    bits = np.zeros(total + 8 - total % 8, np.uint8)
    for place in range(32):
        wide = widths > place
        bits[ends[wide] - 1 - place] = (codes[wide] >> place) & 1
    encoded: list[int] = np.packbits(bits).tolist()
    return encoded
