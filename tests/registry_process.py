# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A real registry (Debian's docker-registry) on loopback, with a password and, where asked for, TLS."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from tests.engine_process import free_port

USER, PASSWORD = "ann", "hunter-7"
HTPASSWD = "ann:$2b$04$X4b0yTItpWNuse/Ac3WzbOULvHfMwH48hPLMcp/qOS3OMhix0DLnO\n"
CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/store}}, delete: {{enabled: {deletes}}}}}
http: {{addr: "{host}"{tls}}}
auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}
"""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Served:
    """A running registry."""

    host: str
    folder: Path

    def request(self, method: str, path: str, **more: Any) -> urllib3.BaseHTTPResponse:
        url = path if "://" in path else f"http://{self.host}/v2/{path}"
        login = urllib3.make_headers(basic_auth=f"{USER}:{PASSWORD}")
        return urllib3.request(method, url, headers={**login, **more.pop("headers", {})}, **more)

    def push_blob(self, repository: str, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        location = self.request("POST", f"{repository}/blobs/uploads/").headers["Location"]
        put = self.request("PUT", f"{location}&digest={digest}", body=data)
        assert put.status == 201
        return {"digest": digest, "size": len(data)}

    def push(self, repository: str, tag: str, manifest: dict[str, Any]) -> str:
        document = {"schemaVersion": 2, "mediaType": MANIFEST, **manifest}
        body = json.dumps(document).encode()
        put = self.request("PUT", f"{repository}/manifests/{tag}", body=body, headers={"Content-Type": MANIFEST})
        assert put.status == 201, put.data
        return put.headers["Docker-Content-Digest"]

    def manifest(self, repository: str, tag: str) -> dict[str, Any]:
        answer = self.request("GET", f"{repository}/manifests/{tag}", headers={"Accept": MANIFEST})
        assert answer.status == 200, answer.data
        found: dict[str, Any] = answer.json()
        return found

    def blob_file(self, digest: str) -> Path:
        kind, value = digest.split(":")
        return self.folder / f"store/docker/registry/v2/blobs/{kind}/{value[:2]}/{value}/data"

    def login(self, file: Path, password: str = PASSWORD) -> Path:
        """Write a Docker configuration with a login for this registry."""
        return write_login(file, self.host, password)


def write_login(file: Path, host: str, password: str) -> Path:
    """Write a Docker configuration with a login for the host."""
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    file.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return file


@contextmanager
def registry_process(
    folder: Path,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    port: int | None = None,
    deletes: bool = False,
) -> Iterator[Served]:
    """A registry that keeps its store in the folder; like most it deletes nothing unless told to."""
    host = f"127.0.0.1:{port or free_port()}"
    (folder / "htpasswd").write_text(HTPASSWD)
    tls = f", tls: {{certificate: {certificate}, key: {key}}}" if certificate else ""
    (folder / "config.yml").write_text(CONFIG.format(folder=folder, host=host, tls=tls, deletes=str(deletes).lower()))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    served = Served(host, folder)
    try:
        _until_it_listens(served)
        yield served
    finally:
        process.terminate()
        process.wait(10)


def _until_it_listens(served: Served) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            address, _, port = served.host.partition(":")
            socket.create_connection((address, int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
