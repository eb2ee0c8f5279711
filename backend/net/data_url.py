"""`data:` URLs, read as browsers read them."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

_HEAD = re.compile(r"data:[^,]*?;\s*base64\s*", re.IGNORECASE)
_BLANKS = bytes.maketrans(b"", b""), b" \t\r\n\f"


def is_data_url(reference: str) -> bool:
    return reference[:5].lower() == "data:"


def decode(reference: str) -> bytes:
    """The content.

    Line breaks, blanks and percent-encoding in it are no fault, nor is padding that is missing; without `;base64` it is
    percent-encoded bytes.

    Raises:
        ValueError: there is no comma, or it is no base64.
    """
    head, comma, body = reference.partition(",")
    if not comma:
        raise ValueError("it has no comma")
    data = unquote_to_bytes(body)
    if not _HEAD.fullmatch(head):
        return data
    data = data.translate(*_BLANKS)
    data = data[: -2 if data.endswith(b"==") else -1] if data.endswith(b"=") and len(data) % 4 == 0 else data
    if len(data) % 4 == 1:
        raise ValueError("a character is missing")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
