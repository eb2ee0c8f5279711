"""Which hosts may be asked, by the numbers; `test_download.py` asks them."""

from __future__ import annotations

import ipaddress

import pytest

from backend.net.hosts import AllowedHosts, is_public

NOT_PUBLIC = [
    *("127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"),
    *("169.254.169.254", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "::127.0.0.1", "fec0::1"),
    # IPv4 inside IPv6: mapped, NAT64, 6to4, Teredo
    *("::ffff:127.0.0.1", "::ffff:10.1.2.3", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
    *("2002:7f00:1::1", "2002:a00:1::", "2001:0:4136:e378:8000:63bf:f5ff:fffe"),
]
PUBLIC = ["1.1.1.1", "93.184.215.14", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_what_is_not_the_open_internet(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert not AllowedHosts(["public"]).permit("name.example", 80, ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is(address: str) -> None:
    assert AllowedHosts(["public"]).permit("name.example", 80, ipaddress.ip_address(address))
    assert not AllowedHosts([]).permit("name.example", 80, ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("entry", "host", "port", "address", "allowed"),
    [
        ("minio", "minio", 9000, "172.18.0.3", True),
        ("minio", "MinIO.", 9000, "172.18.0.3", True),
        ("minio", "evil-minio", 9000, "172.18.0.3", False),
        ("minio:9000", "minio", 9000, "172.18.0.3", True),
        ("minio:9000", "minio", 22, "172.18.0.3", False),
        ("*.corp.example", "a.b.corp.example", 80, "10.1.1.1", True),
        ("*.corp.example", "corp.example", 80, "10.1.1.1", False),
        ("*.corp.example", "notcorp.example", 80, "10.1.1.1", False),
        ("10.1.0.0/16", "anything", 80, "10.1.200.3", True),
        ("10.1.0.0/16", "anything", 80, "10.2.0.1", False),
        ("10.1.0.0/16", "anything", 80, "::ffff:10.1.0.1", True),
        ("127.0.0.1:5000", "127.0.0.1", 5000, "127.0.0.1", True),
        ("127.0.0.1:5000", "127.0.0.1", 5001, "127.0.0.1", False),
        ("::1", "::1", 80, "::1", True),
        ("[::1]:80", "::1", 80, "::1", True),
        ("[::1]:80", "::1", 81, "::1", False),
        ("fd12::/16", "nas", 80, "fd12::7", True),
        # metadata of clouds: no name opens it, also one that is listed; its own number does
        ("minio", "minio", 80, "169.254.169.254", False),
        ("public", "x.example", 80, "168.63.129.16", False),
        ("169.254.169.254", "x.example", 80, "169.254.169.254", True),
    ],
)
def test_entries(entry: str, host: str, port: int, address: str, allowed: bool) -> None:
    assert AllowedHosts([entry]).permit(host, port, ipaddress.ip_address(address)) is allowed


@pytest.mark.parametrize("entry", ["http://minio", "a b", "minio:0", "minio:99999", "10.0.0.0/33", "*", "user@host"])
def test_entries_that_are_none(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host"):
        AllowedHosts([entry])
