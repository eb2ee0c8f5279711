"""Which split a task belongs to: by a hash of its picture's address, so that it stays there whatever comes or goes."""

from __future__ import annotations

import hashlib

from backend.errors import BadRequest

NAMES = ("train", "val", "test")
ALL = "all"
_STEPS = 1 << 32


def shares_of(text: str) -> tuple[float, ...]:
    """`80/10/10` → 0.8, 0.1, 0.1; nothing → empty, for one split of all.

    Raises:
        BadRequest: not one to three numbers of which none is negative and one positive.
    """
    if not text:
        return ()
    try:
        parts = [float(part) for part in text.split("/")]
    except ValueError:
        parts = []
    # NaN is not above 0
    if not 1 <= len(parts) <= len(NAMES) or not all(0 <= part < float("inf") for part in parts) or not sum(parts) > 0:
        raise BadRequest(f"--split {text}: give shares of train, val and test, e.g. 80/10/10")
    return tuple(part / sum(parts) for part in parts)


def names(shares: tuple[float, ...]) -> tuple[str, ...]:
    """Of the splits that there are."""
    return NAMES[: len(shares)] if shares else (ALL,)


def split_of(address: str, shares: tuple[float, ...]) -> str:
    """The same address is always in the same split, also in another project."""
    if not shares:
        return ALL
    point = int.from_bytes(hashlib.sha256(address.encode("utf-8", "surrogatepass")).digest()[:4], "big") / _STEPS
    end = 0.0
    for name, share in zip(NAMES, shares, strict=False):
        end += share
        if point < end:
            return name
    return next(name for name, share in reversed(list(zip(NAMES, shares, strict=False))) if share)
