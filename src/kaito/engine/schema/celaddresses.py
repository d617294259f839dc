# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The functions of Kubernetes' expressions about addresses, ranges of addresses and URLs: the words behind the rows of
`cellibrary`'s table. They raise ValueError for what is none. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from kaito.engine.schema.celtypes import CIDR, IP, URL, Opaque, text_of

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def _address(text: str) -> _Address:
    found = ipaddress.ip_address(text)
    if "%" in text:
        raise ValueError("IP address with zone value is not allowed")
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        raise ValueError("IPv4-mapped IPv6 address is not allowed")
    return found


def ip(value: Any) -> Opaque:
    """An address from its text, or that of a range."""
    if isinstance(value, dict):
        return {IP: str(network(value).ip)}
    try:
        return {IP: str(_address(value))}
    except ValueError:
        raise ValueError(f"IP Address {value!r} parse error during conversion from string") from None


def cidr(text: str) -> Opaque:
    """A range of addresses from its text."""
    try:
        host, mark, length = text.partition("/")
        if not mark or not length.isdigit():
            raise ValueError
        return {CIDR: str(ipaddress.ip_interface(f"{_address(host)}/{length}"))}
    except ValueError:
        raise ValueError(f"network address parse error during conversion from string: {text!r}") from None


def address_of(value: Any) -> _Address:
    """The address that a value or a text is."""
    return ipaddress.ip_address(text_of(value if isinstance(value, dict) else ip(value), IP))


def network(value: Any) -> _Network:
    """The range that a value or a text is."""
    return ipaddress.ip_interface(text_of(value if isinstance(value, dict) else cidr(value), CIDR))


def contains_ip(outer: Opaque, inner: Any) -> bool:
    """Whether the address lies in the range."""
    return address_of(inner) in network(outer).network


def contains_cidr(outer: Opaque, inner: Any) -> bool:
    """Whether the second range lies in the first."""
    outside, inside = network(outer).network, network(inner).network
    return outside.version == inside.version and inside.subnet_of(outside)  # type: ignore[arg-type]


def is_link_local_multicast(value: Opaque) -> bool:
    """Whether the address is for many on one link; Python's library knows only the wider kind."""
    address = address_of(value)
    if address.version == 4:
        return address in ipaddress.ip_network("224.0.0.0/24")
    return address.packed[0] == 0xFF and address.packed[1] & 0x0F == 2


def is_global_unicast(value: Opaque) -> bool:
    """Whether the address is for one machine beyond this link, private ones included."""
    address = address_of(value)
    broadcast = address == ipaddress.ip_address("255.255.255.255")
    special = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    return not (broadcast or special)


def is_canonical(text: str) -> bool:
    """Whether the text is the one way to write its address."""
    return str(_address(text)) == text


def url(text: str) -> Opaque:
    """A URL, or a path from the root."""
    parts = urlsplit(text)
    if not (parts.scheme or text.startswith("/")) or " " in text:
        raise ValueError(f"URL parse error during conversion from string: parse {text!r}: invalid URI for request")
    _ = parts.port  # raises ValueError for a port that is no number
    return {URL: text}


def url_part(read: Callable[[Any], Any]) -> Callable[[Opaque], Any]:
    """What reads a part of a URL."""
    return lambda value: read(urlsplit(text_of(value, URL)))


def url_host(parts: Any) -> str:
    """Host and port."""
    return str(parts.netloc.rpartition("@")[2])
