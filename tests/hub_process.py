# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A small hub of data sets on loopback that answers as Hugging Face's does; large files lie on a second address."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 4096
"""Larger files are kept as the hub keeps large ones: with a SHA-256, and elsewhere."""


def commit_named(text: str) -> str:
    """A commit of that content."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass
class DataHub:
    """Data sets by name: each branch is at a commit, each commit has files. And how it feels."""

    url: str = ""
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    busy: int = 0
    """So many requests are turned away yet."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Host, path and token of each request."""

    def commit(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Put the files into a new commit of the branch; the commit."""
        made = commit_named(f"{name}{branch}{len(self.files)}")
        self.branches.setdefault(name, {})[branch] = made
        self.files[name, made] = files
        return made


class _Handler(BaseHTTPRequestHandler):
    hub: DataHub
    elsewhere: str

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        hub, path = self.hub, urlsplit(self.path).path
        token = self.headers.get("Authorization", "")
        hub.asked.append((self.headers["Host"], path, token))
        if hub.busy:
            hub.busy -= 1
            return self.answer(429, {"Retry-After": "0"})
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            return self.about("/".join(parts[2:4]), unquote(parts[5]), token)
        if parts[0] == "datasets":
            return self.file("/".join(parts[1:3]), parts[4], unquote("/".join(parts[5:])), token)
        return self.answer(404, {})

    def about(self, name: str, revision: str, token: str) -> None:
        hub = self.hub
        if name in hub.renamed:
            return self.answer(307, {"Location": f"/api/datasets/{hub.renamed[name]}/revision/{revision}?blobs=true"})
        if name not in hub.branches:
            return self.answer(401, {"X-Error-Code": "RepoNotFound"})
        if name in hub.gated and token != "Bearer good":
            return self.answer(401, {"X-Error-Code": "GatedRepo"})
        commit = hub.branches[name].get(revision, revision)
        if (name, commit) not in hub.files:
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        siblings = [self.listed(path, data) for path, data in hub.files[name, commit].items()]
        return self.answer(200, {}, json.dumps({"id": name, "sha": commit, "siblings": siblings}).encode())

    def listed(self, path: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"rfilename": path, "size": len(data)}
        if len(data) > LARGE_BYTES:
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        return entry

    def file(self, name: str, commit: str, path: str, token: str) -> None:
        hub = self.hub
        if name in hub.gated and token != "Bearer good" and self.headers["Host"] in hub.url:
            return self.answer(401, {"X-Error-Code": "GatedRepo"})
        if path not in hub.files.get((name, commit), {}):
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        data = hub.files[name, commit][path]
        if len(data) > LARGE_BYTES and self.headers["Host"] in hub.url:
            return self.answer(302, {"Location": f"{self.elsewhere}{self.path}"})
        return self.answer(200, {}, data.replace(b"a", b"b") if path in hub.damaged else data)

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def data_hub() -> Iterator[DataHub]:
    """A hub that is up."""
    hub = DataHub()
    handler = type("Handler", (_Handler,), {"hub": hub, "elsewhere": ""})
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
    hub.url, handler.elsewhere = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)  # type: ignore[attr-defined]
    threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
