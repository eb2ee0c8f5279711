from __future__ import annotations

import pytest

from backend.net.address import climbs, shorten


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://u:p@host/a.png?sig=1#x", "http://host/a.png"),
        ("HTTPS://host?sig=1", "HTTPS://host"),
        ("ftp://u:p@host/x?y", "ftp://host/x"),
        ("s3://bucket/key?v=1", "s3://bucket/key"),
        ("//u:p@host/x", "//host/x"),
        ("http://[bad/x?sig=1", "http://[bad/x"),
        ("/folder/what?#.png", "/folder/what?#.png"),
        ("just words", "just words"),
        ("/" + "a" * 200, "/" + "a" * 116 + "..."),
    ],
)
def test_addresses_in_messages(address: str, shown: str) -> None:
    assert shorten(address) == shown


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("/data/a..b/x", False),
        ("/data/x", False),
        ("/data/../x", True),
        ("/data/%2E%2e/x", True),
        ("/data/..%5cx", True),
    ],
)
def test_paths_that_climb(path: str, out: bool) -> None:
    assert climbs(path) is out
