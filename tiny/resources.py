"""Qt's resource files (.rcc), in which some programs keep their pictures: what is in them, by name."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_COMPRESSED, _FOLDER = 1, 2
_MOST = 64_000_000  # bytes that one entry may unpack to


def entries(file: Path) -> Iterator[tuple[str, bytes]]:
    """Path and bytes of everything in a resource file; what is compressed otherwise than by zlib is left out.

    Raises ValueError where it is no such file.
    """
    raw = file.read_bytes()
    if raw[:4] != b"qres":
        raise ValueError(f"{file} is not a Qt resource file")
    version, tree, data, names = struct.unpack(">4I", raw[4:20])
    row = 14 if version < 2 else 22

    def name(offset: int) -> str:
        (length,) = struct.unpack_from(">H", raw, names + offset)
        return raw[names + offset + 6 : names + offset + 6 + 2 * length].decode("utf-16-be")

    def walk(number: int, path: str) -> Iterator[tuple[str, bytes]]:
        at = tree + number * row
        label, flags = struct.unpack_from(">IH", raw, at)
        own = f"{path}/{name(label)}" if number else ""
        if flags & _FOLDER:
            count, first = struct.unpack_from(">II", raw, at + 6)
            for child in range(first, first + count):
                yield from walk(child, own)
            return
        (offset,) = struct.unpack_from(">I", raw, at + 10)
        (length,) = struct.unpack_from(">I", raw, data + offset)
        body = raw[data + offset + 4 : data + offset + 4 + length]
        if flags & _COMPRESSED:
            body = zlib.decompressobj().decompress(body[4:], _MOST)
        elif flags & ~_FOLDER:
            return
        yield own.lstrip("/"), body

    yield from walk(0, "")
