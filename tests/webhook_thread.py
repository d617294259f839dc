# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A real HTTPS webhook for tests: a thread of this process that answers reviews with a function."""

from __future__ import annotations

import base64
import json
import ssl
import tempfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

from kaito.kube.certificates import new_authority, serving_pair
from kaito.kube.manifest import Manifest

Answer = Callable[[str, Manifest], Manifest | bytes]
"""Path and review to the review that answers it, or to the raw text of an answer with status 500."""


class WebhookThread:
    """A context manager; `config(path)` is the `clientConfig` that leads to it."""

    def __init__(self, answer: Answer) -> None:
        now = datetime.now(UTC)
        authority = new_authority("webhook test", now)
        pair = serving_pair(authority, ["127.0.0.1"], now)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            cert, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
            cert.write_text(pair.cert_pem)
            key.write_text(pair.key_pem)
            context.load_cert_chain(cert, key)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                found = answer(self.path.partition("?")[0], review)
                body = found if isinstance(found, bytes) else json.dumps(found).encode()
                self.send_response(500 if isinstance(found, bytes) else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self._bundle = base64.b64encode(authority.cert_pem.encode()).decode()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def config(self, path: str) -> Manifest:
        """What leads an API server here."""
        return {"url": f"https://127.0.0.1:{self.port}{path}", "caBundle": self._bundle}

    def __enter__(self) -> WebhookThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
