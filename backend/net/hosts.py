"""Which hosts may be asked: by name, by network, or whatever has a public address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

PUBLIC = "public"
"""The entry that stands for every public address."""

# what cloud machines ask for their own keys; some lie outside the ranges that say "private"
_METADATA = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::254/128",  # AWS
        "fd20:ce::254/128",  # Google
        "100.100.100.200/32",  # Alibaba
        "168.63.129.16/32",  # Azure; a public one by its number
        "192.0.0.192/32",  # Oracle
    )
)
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class _Entry:
    """A name (`*.` in front stands for its subdomains) or a network, and a port; None is every port."""

    name: str
    network: IPv4Network | IPv6Network | None
    port: int | None

    def matches(self, host: str, port: int, address: Address) -> bool:
        if self.port not in (None, port):
            return False
        if self.network is not None:
            return address in self.network
        if self.name.startswith("*."):
            return host.endswith(self.name[1:])
        return host == self.name


class AllowedHosts:
    """The setting PALLAS_ALLOWED_HOSTS, as it is asked before each connection.

    Args:
        entries: `public`, names, addresses or networks (10.0.0.0/8), each also with :port.

    Raises:
        ValueError: an entry that is none of these.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        entries = [entry.strip().lower() for entry in entries]
        self._public = PUBLIC in entries
        self._entries = [_parse(entry) for entry in entries if entry and entry != PUBLIC]

    def permit(self, host: str, port: int, address: Address) -> bool:
        """Whether this address may be connected to under this name.

        A name that is listed may lie at any address but those of cloud metadata, which only their own number opens.
        """
        host = host.lower().rstrip(".")
        address = _unwrapped(address)
        metadata = any(address in network for network in _METADATA)
        for entry in self._entries:
            if entry.matches(host, port, address) and (entry.network is not None or not metadata):
                return True
        return self._public and not metadata and is_public(address)


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet's; of IPv6 addresses that carry an IPv4 one, that one counts."""
    address = _unwrapped(address)
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _unwrapped(address: Address) -> Address:
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else address)


def _parse(entry: str) -> _Entry:
    for text, port in _splits(entry):
        try:
            return _Entry("", ipaddress.ip_network(text.removeprefix("[").removesuffix("]"), strict=False), port)
        except ValueError:
            continue
    name, port = _splits(entry)[-1]
    plain = name.removeprefix("*.").rstrip(".")
    if not plain or not all(c.isalnum() or c in "-_." for c in plain):
        raise ValueError(
            f"{entry!r} is no host: give `{PUBLIC}`, a name, an address or a network, each also with :port"
        )
    return _Entry(name.rstrip("."), None, port)


def _splits(entry: str) -> list[tuple[str, int | None]]:
    """The entry as a whole, and with its end taken for a port: an IPv6 address has colons of its own."""
    head, colon, tail = entry.rpartition(":")
    whole: list[tuple[str, int | None]] = [(entry, None)]
    return [*whole, (head, int(tail))] if colon and tail.isdecimal() and 0 < int(tail) < 65536 else whole
