# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Gives every pod a loopback address of its own, so that two pods can listen on the same port.

Linux lets any user bind any address of 127.0.0.0/8. Pods get theirs from 127.64.0.0/12, below the range that Services
use. The choice follows from the pod's uid and the data folder, so two engines on one machine hardly ever meet.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Container

POD_NETWORK = ipaddress.IPv4Network("127.64.0.0/12")
SHARED_ADDRESS = "127.0.0.1"


def pod_address(uid: str, place: str, taken: Container[str]) -> str:
    """An address for the pod that no other pod of this node has."""
    size = POD_NETWORK.num_addresses
    start = int.from_bytes(hashlib.sha256(f"{place}\0{uid}".encode()).digest()[:8], "big")
    for step in range(size):
        address = str(POD_NETWORK[(start + step) % size])
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
