# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A web server with TLS on loopback for files of tests, and the authority that its certificate is from."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from kaito.kube.certificates import new_authority, serving_pair


@dataclass(frozen=True)
class Files:
    """A running server."""

    url: str
    folder: Path
    ca_file: Path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def https_files(folder: Path) -> Iterator[Files]:
    """Serve `folder/served`; certificates go beside it."""
    served = folder / "served"
    served.mkdir(parents=True, exist_ok=True)
    ca_file, pair = write_certificates(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(served))) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield Files(f"https://localhost:{server.server_address[1]}", served, ca_file)
        finally:
            server.shutdown()
            thread.join()


def write_certificates(folder: Path) -> tuple[Path, Path]:
    """The authority's certificate, and a file with a certificate for localhost and its key."""
    now = datetime.now(UTC)
    authority = new_authority("test files", now)
    serving = serving_pair(authority, ["localhost", "127.0.0.1"], now)
    ca_file, pair = folder / "ca.pem", folder / "server.pem"
    ca_file.write_text(authority.cert_pem)
    pair.write_text(serving.cert_pem + serving.key_pem)
    return ca_file, pair
