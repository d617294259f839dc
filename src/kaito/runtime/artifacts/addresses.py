# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Connections that only lead to public addresses: what users name may not make a pod read the cluster's own network.

The name is resolved once, what it resolves to is judged, and that very address is connected to; so neither a name with
two answers nor a redirect leads around it. Through a proxy it is the proxy's network that counts.
"""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from kaito.api.names import REASON_TUNING_ADDRESS
from kaito.runtime.failure import Failed


class Refused(HTTPError):
    """The name leads to an address that is not public."""


def is_public(address: str) -> bool:
    """Whether the address is one of the internet's, not of a machine, a private network or a cloud's metadata."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        found = found.ipv4_mapped or found.sixtofour or found
    return found.is_global and not found.is_multicast


def public_address(host: str, port: int) -> str:
    """The address of the host to connect to; raises Refused when any that it has is not public."""
    try:
        answers = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError:
        return host  # the connection finds out by itself, and says so in its own words
    addresses = [str(answer[4][0]) for answer in answers]
    hidden = next((address for address in addresses if not is_public(address)), None)
    if hidden is not None:
        raise Refused(f"{host} leads to {hidden}")
    return addresses[0]


def refused(shown: str, why: object) -> Failed:
    """The address of a file leads where it may not."""
    what = f"{shown} is refused: {why}, which is no address of the internet."
    step = (
        "Put the data where anyone may read them, into an image or on a volume; --private-urls allows such addresses."
    )
    return Failed(REASON_TUNING_ADDRESS, what, step)


class _PublicHTTPConnection(HTTPConnection):
    def connect(self) -> None:
        """Connect to the address that was judged."""
        name = self.host
        self.host = public_address(name, self.port)
        try:
            super().connect()
        finally:
            self.host = name


class _PublicHTTPSConnection(HTTPSConnection):
    def connect(self) -> None:
        """Connect to the address that was judged; the certificate must be the name's."""
        name = self.host
        self.server_hostname = self.server_hostname or name
        self.host = public_address(name, self.port)
        try:
            super().connect()
        finally:
            self.host = name


class _PublicHTTPPool(HTTPConnectionPool):
    ConnectionCls = _PublicHTTPConnection


class _PublicHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PublicHTTPSConnection


def only_public(manager: urllib3.PoolManager) -> urllib3.PoolManager:
    """The manager, whose connections from now on lead to public addresses alone."""
    manager.pool_classes_by_scheme = {"http": _PublicHTTPPool, "https": _PublicHTTPSPool}
    return manager
