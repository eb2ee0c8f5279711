"""Label Studio's run-length encoding of brush masks, in numpy.

label_studio_sdk has it bit by bit in Python, and a full-HD mask takes that longer than all the rest of an answer. The
format: a header (32 bits number of values, 5 bits word size − 1, four times 4 bits run size − 1), then for each run a
bit 1, two bits that choose the run size, the run's length − 1 in so many bits, and the value in 8 bits; zeros fill the
last byte.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model.values.mask import row_runs, to_rle

_SIZES = np.array([3, 4, 8, 16])  # bits of a run's length
_HEADER = (7 << 16) | (2 << 12) | (3 << 8) | (7 << 4) | 15  # word size 8 and _SIZES, each less one
_LONGEST = 1 << 16


def encode(mask: np.ndarray) -> list[int]:
    """A boolean mask (H, W) as the bytes of Label Studio's `rle`: four channels a pixel, 255 inside, row by row."""
    return encode_runs(row_runs(to_rle(mask)))


def encode_runs(lengths: np.ndarray) -> list[int]:
    """The same of a mask's runs, row by row, as `model.values.mask.row_runs` gives them."""
    inside = np.arange(len(lengths)) % 2 == 1
    size = int(lengths.sum())
    runs, inside = 4 * lengths[lengths > 0], inside[lengths > 0]
    kinds = np.searchsorted([8, 16, 256], runs)
    # the longest run that 16 bits can say is cut into pieces, of which the last one has the rest
    pieces = np.where(kinds == 3, (runs - 1) // _LONGEST + 1, 1)
    last = np.cumsum(pieces) - 1
    lengths = np.full(pieces.sum(), _LONGEST)
    lengths[last] = runs - (pieces - 1) * _LONGEST
    kinds, values = np.repeat(kinds, pieces), np.repeat(inside.astype(np.int64) * 255, pieces)
    sizes = _SIZES[kinds]
    codes = (1 << (sizes + 10)) | (kinds << (sizes + 8)) | ((lengths - 1) << 8) | values
    # the SDK fills up with a whole byte where nothing is left to fill; so do we, to be byte for byte the same
    return list(_joined(np.concatenate([[size * 4, _HEADER], codes]), np.concatenate([[32, 21], sizes + 11])))


def _joined(codes: np.ndarray, widths: np.ndarray) -> bytes:
    """Codes of so many bits, at most 32, one behind the other; 1 to 8 zeros fill the last byte."""
    ends = np.cumsum(widths)
    words, within = np.divmod(ends - widths, 32)
    # each code in the 64 bits of the word that it begins in and the next one; no two share a bit: a sum joins them
    shifted = codes.astype(np.uint64) << (64 - widths - within).astype(np.uint64)
    count = int(ends[-1]) // 32 + 2
    joined = np.bincount(words, shifted >> np.uint64(32), count)
    joined += np.bincount(words + 1, shifted & np.uint64(0xFFFFFFFF), count)
    return joined.astype(">u4").tobytes()[: int(ends[-1]) // 8 + 1]


def decode(data: bytes, size: int) -> np.ndarray:
    """The mask of Label Studio's `rle`: boolean, flat, row by row, from the fourth channel of each pixel.

    Args:
        data: the bytes; whoever calls bounds their number, and with it the time that this takes.
        size: pixels that there must be.

    Raises:
        ValueError: it is of another number of pixels, truncated, or no such encoding.
    """
    ends, inside = zip(*_runs(data, size), strict=True)
    if ends[-1] > 4 * size:
        raise ValueError("longer than the picture")
    # so many fourth channels lie before each end
    counts = np.diff(np.asarray(ends) // 4, prepend=0)
    return np.repeat(np.asarray(inside), counts)


def _runs(data: bytes, size: int) -> Iterator[tuple[int, bool]]:
    """Of each run, where it ends (in values, four a pixel) and whether it is inside."""
    bits = _Bits(data)
    if bits.take(32) != 4 * size:
        raise ValueError("of another picture")
    word = bits.take(5) + 1
    sizes = [bits.take(4) + 1 for _ in range(4)]
    end = 0
    while end < 4 * size:
        is_run = bits.take(1)
        length = bits.take(sizes[bits.take(2)]) + 1
        for step in (length,) if is_run else (1,) * length:
            end += step
            yield end, bits.take(word) > 127


def at(data: bytes, size: int, pixel: int) -> bool:
    """Whether one pixel, by its place row by row, is inside; nothing behind it is read.

    Raises:
        ValueError: as `decode`, as far as it is read.
    """
    for end, inside in _runs(data, size):
        if end > 4 * pixel + 3:
            return inside
    raise ValueError("shorter than the picture")


class _Bits:
    """Reads bytes as a stream of bits, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> int:
        """The next bits as a number, at most 32 of them. Raises ValueError at the end."""
        first, last = self._at >> 3, (self._at + count + 7) >> 3
        if last > len(self._data):
            raise ValueError("truncated")
        window = int.from_bytes(self._data[first:last], "big")
        self._at += count
        return (window >> (8 * last - self._at)) & ((1 << count) - 1)
