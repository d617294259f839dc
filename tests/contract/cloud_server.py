# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server on a thread that plays a cloud's REST API: routes to functions, scripted failures, a record."""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from kaito.kube.certificates import new_authority, serving_pair


@dataclass
class Answer:
    """What is answered."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False
    """Do what was asked and say nothing."""


Handler = Callable[[re.Match[str], Any, dict[str, str]], Answer]


class CloudServer:
    """`routes`: method and pattern of a path, to what answers. Calls that `failures` names are answered from there."""

    def __init__(self, routes: list[tuple[str, str, str, Handler]], *, tls: Path | None = None) -> None:
        self.routes = routes
        self.failures: dict[str, list[Answer]] = {}
        """By operation: the next answers instead of the real ones. One that hangs up is done all the same."""
        self.calls: list[str] = []
        """The operations that were asked for, in order."""
        self.ca_file = ""
        owner = self

        class Requests(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                raw = self.rfile.read(length) if length else b""
                answer = owner.answer(
                    self.command,
                    self.path,
                    json.loads(raw) if raw else None,
                    {name.lower(): value for name, value in self.headers.items()},
                )
                if answer.hangs_up:
                    self.close_connection = True
                    return
                body = json.dumps(answer.body).encode() if answer.body is not None else b""
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = _serve

            def log_message(self, *arguments: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Requests)
        self._server.daemon_threads = True
        scheme = "http"
        if tls is not None:
            scheme = "https"
            authority = new_authority("cloud", datetime.now(UTC))
            pair = serving_pair(authority, ["127.0.0.1"], datetime.now(UTC))
            for name, text in (("ca.pem", authority.cert_pem), ("tls.pem", pair.cert_pem + pair.key_pem)):
                (tls / name).write_text(text)
            self.ca_file = str(tls / "ca.pem")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls / "tls.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def answer(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Answer:
        plain = path.split("?")[0]
        for wanted, pattern, operation, handler in self.routes:
            match = re.fullmatch(pattern, plain) if wanted == method else None
            if match is None:
                continue
            self.calls.append(operation)
            scripted = self.failures.get(operation)
            if scripted:
                answer = scripted.pop(0)
                if answer.hangs_up:
                    handler(match, body, headers)
                return answer
            return handler(match, body, headers)
        return Answer(404, {"error": {"code": "NoRoute", "message": f"{method} {path}"}})

    def __enter__(self) -> CloudServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
