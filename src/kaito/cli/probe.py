# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whether somebody listens at an address of this machine or elsewhere, and which ports are free here."""

from __future__ import annotations

import socket
from contextlib import closing
from urllib.parse import urlsplit


def is_free(port: int) -> bool:
    """Whether the loopback port can be bound now."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def listens(url: str) -> bool:
    """Whether somebody takes connections at the URL's host and port."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 443), timeout=1.0).close()
    except OSError:
        return False
    return True
