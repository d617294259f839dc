# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Gives every pod a loopback address of its own, so that two pods can listen on the same port.

Linux lets any user bind any address of 127.0.0.0/8. Each data folder gets one of 128 shares of 127.64.0.0/11 for its
pods and the share of the same number of 127.96.0.0/11 for its Services, so that engines on one machine keep apart.
Within its share a pod's address follows from its uid.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Container
from pathlib import Path

POD_NETWORK = ipaddress.IPv4Network("127.64.0.0/11")
SERVICE_NETWORK = ipaddress.IPv4Network("127.96.0.0/11")
SHARE_PREFIX = 18


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _share(network: ipaddress.IPv4Network, place: Path, user: int) -> ipaddress.IPv4Network:
    shares = 2 ** (SHARE_PREFIX - network.prefixlen)
    size = network.num_addresses // shares
    number = _digest(f"{user}\0{place.resolve()}") % shares
    return ipaddress.IPv4Network((int(network.network_address) + number * size, SHARE_PREFIX))


def pod_network(place: Path, user: int) -> ipaddress.IPv4Network:
    """The addresses for the pods of an engine that works in this data folder for this user."""
    return _share(POD_NETWORK, place, user)


def service_network(place: Path, user: int) -> ipaddress.IPv4Network:
    """The addresses for the Services of an engine that works in this data folder for this user."""
    return _share(SERVICE_NETWORK, place, user)


def pod_address(uid: str, network: ipaddress.IPv4Network, taken: Container[str]) -> str:
    """An address for the pod that no other pod of this node has."""
    size = network.num_addresses
    start = _digest(uid)
    for step in range(size):
        address = str(network[(start + step) % size])
        if not address.endswith((".0", ".255")) and address not in taken:
            return address
    raise RuntimeError("all pod addresses are taken")


def pods_can_have_addresses() -> bool:
    """Whether this machine lets us bind an address of the pods' range (macOS does not without further ado)."""
    with socket.socket() as probe:
        try:
            probe.bind((str(POD_NETWORK[1]), 0))
        except OSError:
            return False
    return True
