# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Files behind addresses, from a real web server: what is announced must come, and none leads where it may not."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaito.api.contracts import UrlSource
from kaito.api.names import REASON_ARTIFACT_INVALID, REASON_ARTIFACT_NOT_FOUND, REASON_TUNING_ADDRESS
from kaito.runtime.artifacts import addresses
from kaito.runtime.artifacts.transport import Patience, Transport
from kaito.runtime.artifacts.urls import download
from kaito.runtime.failure import Failed

ROWS = b'{"text": "a"}\n'


class Web(http.server.BaseHTTPRequestHandler):
    """`/rows.jsonl`, `/empty.jsonl`, and `/to/ADDRESS/rows.jsonl`, which leads to that address."""

    def do_GET(self) -> None:
        _, _, rest = self.path.partition("/to/")
        if rest:
            self.send_response(302)
            self.send_header("Location", f"http://{rest}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = {"/rows.jsonl": ROWS, "/empty.jsonl": b""}.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A web server on all of loopback, of which 127.0.0.1 stands for the internet and the rest for what is private."""
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def fetch(folder: Path, url: str, digest: str = "", *, public_only: bool = True) -> bytes:
    source = UrlSource(urls=(url,), sha256={url: digest} if digest else {})
    transport = Transport(patience=Patience(tries=1), public_only=public_only)
    try:
        download(source, transport, folder, lambda count: None)
    finally:
        transport.close()
    return (folder / "rows.jsonl").read_bytes()


def failure(folder: Path, url: str, digest: str = "") -> tuple[str, str]:
    with pytest.raises(Failed) as caught:
        fetch(folder, url, digest)
    return caught.value.failure.reason, caught.value.failure.message


def test_a_file_is_what_its_checksum_says_or_is_refused(port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}/rows.jsonl"
    assert fetch(tmp_path / "good", url, hashlib.sha256(ROWS).hexdigest().upper()) == ROWS
    assert failure(tmp_path / "bad", url, "0" * 64)[0] == REASON_ARTIFACT_INVALID


def test_a_redirect_is_followed_where_anyone_may_go_and_nowhere_else(port: int, tmp_path: Path) -> None:
    start = f"http://127.0.0.1:{port}/to"
    assert fetch(tmp_path / "public", f"{start}/127.0.0.1:{port}/rows.jsonl") == ROWS
    for address in ("127.0.0.2", "169.254.169.254", "0.0.0.0"):
        reason, message = failure(tmp_path / "private", f"{start}/{address}:{port}/rows.jsonl?token=secret")
        assert reason == REASON_TUNING_ADDRESS, address
        assert "secret" not in message
    twice = f"{start}/127.0.0.1:{port}/to/127.0.0.2:{port}/rows.jsonl"
    assert failure(tmp_path / "twice", twice)[0] == REASON_TUNING_ADDRESS
    assert fetch(tmp_path / "allowed", twice, public_only=False) == ROWS


def test_what_is_not_there_or_has_nothing_in_it_says_so(port: int, tmp_path: Path) -> None:
    assert failure(tmp_path, f"http://127.0.0.1:{port}/none.jsonl")[0] == REASON_ARTIFACT_NOT_FOUND
    reason, message = failure(tmp_path, f"http://127.0.0.1:{port}/empty.jsonl")
    assert reason == REASON_ARTIFACT_INVALID and "is empty" in message
