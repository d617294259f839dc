# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito-runtime fetch` against a real registry (Debian's docker-registry) with a password."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import urllib3

from kaito.api.contracts import FetchConfig, FetchItem, OciSource
from kaito.runtime.artifacts.fetch import Fetched, fetch_item
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings

USER, PASSWORD = "ann", "hunter-7"
HTPASSWD = "ann:$2b$04$X4b0yTItpWNuse/Ac3WzbOULvHfMwH48hPLMcp/qOS3OMhix0DLnO\n"
CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/store}}}}
http: {{addr: "{host}"}}
auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}
"""
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONTENT = os.urandom(1 << 16)


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

    def blob_file(self, digest: str) -> Path:
        kind, value = digest.split(":")
        return self.folder / f"store/docker/registry/v2/blobs/{kind}/{value[:2]}/{value}/data"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    (folder / "htpasswd").write_text(HTPASSWD)
    (folder / "config.yml").write_text(CONFIG.format(folder=folder, host=host))
    process = subprocess.Popen(
        ["docker-registry", "serve", str(folder / "config.yml")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    served = Served(host, folder)
    try:
        answers(served)
        yield served
    finally:
        process.terminate()
        process.wait(10)


def answers(served: Served) -> None:
    """Return once the registry listens."""
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(tuple(served.host.split(":")), timeout=1).close()  # type: ignore[arg-type]
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def image(served: Served, repository: str, files: dict[str, bytes]) -> tuple[str, str]:
    """Push an image with one layer; the digests of its manifest and of its layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    layer = served.push_blob(repository, gzip.compress(buffer.getvalue(), 1))
    config = served.push_blob(repository, json.dumps({"architecture": "amd64", "os": "linux"}).encode())
    digest = served.push(
        repository,
        "1",
        {
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", **layer}],
        },
    )
    return digest, layer["digest"]


@pytest.fixture(scope="module")
def adapter(registry: Served) -> str:
    return image(registry, "team/adapter", {"data/adapter.bin": CONTENT, "bin/sh": b"not this"})[0]


@pytest.fixture
def login(registry: Served, tmp_path: Path) -> str:
    return write_login(tmp_path / "config.json", registry.host, PASSWORD)


def write_login(file: Path, host: str, password: str) -> str:
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    file.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return str(file)


def got(reference: str, destination: Path, *credentials: str, mirrors: dict[str, str] | None = None) -> Fetched:
    source = OciSource(reference=reference)
    item = FetchItem(name="it", source=source, destination=str(destination), credentials=credentials)
    return fetch_item(item, FetchConfig(items=(item,), registry_mirrors=mirrors or {}), Settings())


def refused(reference: str, destination: Path, *credentials: str) -> Failed:
    with pytest.raises(Failed) as error:
        got(reference, destination, *credentials)
    assert not destination.exists()
    assert PASSWORD not in str(error.value.failure)
    return error.value


def test_the_folder_of_an_image_comes_with_the_second_login_that_is_tried(
    registry: Served, adapter: str, login: str, tmp_path: Path
) -> None:
    wrong = write_login(tmp_path / "wrong.json", registry.host, "nonsense")
    fetched = got(f"{registry.host}/team/adapter:1", tmp_path / "out", wrong, login)
    assert fetched.digest == adapter
    assert (tmp_path / "out/adapter.bin").read_bytes() == CONTENT
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"adapter.bin", ".kaito-fetch.json"}


def test_what_is_there_is_not_asked_for_again(registry: Served, adapter: str, login: str, tmp_path: Path) -> None:
    reference = f"{registry.host}/team/adapter:1"
    assert not got(reference, tmp_path / "out", login).was_there
    assert got(reference, tmp_path / "out").was_there, "without the login nothing could have been fetched"
    (tmp_path / "out/adapter.bin").write_bytes(b"cut")
    assert not got(reference, tmp_path / "out", login).was_there, "a damaged folder is filled anew"
    assert (tmp_path / "out/adapter.bin").read_bytes() == CONTENT


def test_a_mirror_answers_for_another_registry(registry: Served, adapter: str, login: str, tmp_path: Path) -> None:
    mirrors = {"myteam.azurecr.io": registry.host}
    assert got("myteam.azurecr.io/team/adapter:1", tmp_path / "out", login, mirrors=mirrors).digest == adapter


def test_an_artifact_with_a_file_a_layer_comes_whole(registry: Served, login: str, tmp_path: Path) -> None:
    files = {"model.safetensors": CONTENT, "sub/config.json": b"{}"}
    config = registry.push_blob("team/model", b"{}")
    layers = [
        {
            "mediaType": "application/vnd.cncf.model.weight.v1.raw",
            "annotations": {"org.cncf.model.filepath": name},
            **registry.push_blob("team/model", content),
        }
        for name, content in files.items()
    ]
    registry.push(
        "team/model",
        "1",
        {
            "artifactType": "application/vnd.cncf.model.manifest.v1+json",
            "config": {"mediaType": "application/vnd.cncf.model.config.v1+json", **config},
            "layers": layers,
        },
    )
    got(f"{registry.host}/team/model:1", tmp_path / "out", login)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files} == files


@pytest.mark.parametrize(
    ("name", "with_login", "reason", "said"),
    [
        ("team/adapter:1", False, "ArtifactUnauthorized", "no login for it was given"),
        ("team/adapter:2", True, "ArtifactNotFound", "has no"),
        ("team/nothing:1", True, "ArtifactNotFound", "has no"),
        ("Team/adapter:1", True, "InvalidSpec", "capitals"),
        ("team/adapter@sha256:" + "0" * 64, True, "ArtifactNotFound", "has no"),
    ],
)
def test_what_cannot_be_had_says_why(
    registry: Served, adapter: str, login: str, tmp_path: Path, name: str, with_login: bool, reason: str, said: str
) -> None:
    failure = refused(f"{registry.host}/{name}", tmp_path / "out", *([login] if with_login else [])).failure
    assert failure.reason == reason
    assert said in failure.message
    assert failure.next_step


def test_a_wrong_password_is_said_to_be_refused(registry: Served, adapter: str, tmp_path: Path) -> None:
    wrong = write_login(tmp_path / "wrong.json", registry.host, "nonsense")
    failure = refused(f"{registry.host}/team/adapter:1", tmp_path / "out", wrong).failure
    assert failure.reason == "ArtifactUnauthorized"
    assert "the login that was given is not accepted" in failure.message


def test_a_layer_that_was_changed_in_the_registry_is_refused(registry: Served, login: str, tmp_path: Path) -> None:
    _, layer = image(registry, "team/damaged", {"data/x": os.urandom(5000)})
    file = registry.blob_file(layer)
    data = bytearray(file.read_bytes())
    data[-300] ^= 1
    file.write_bytes(data)
    assert refused(f"{registry.host}/team/damaged:1", tmp_path / "out", login).failure.reason == "ArtifactInvalid"


def test_an_image_without_the_folder_says_so(registry: Served, login: str, tmp_path: Path) -> None:
    image(registry, "team/empty", {"etc/x": b"1"})
    failure = refused(f"{registry.host}/team/empty:1", tmp_path / "out", login).failure
    assert "no files below /data" in failure.message


def test_a_folder_that_is_somebody_elses_is_left_alone(registry: Served, login: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("keep")
    with pytest.raises(Failed, match="not fetched here"):
        got(f"{registry.host}/team/adapter:1", tmp_path / "out", login)
    assert (tmp_path / "out/mine").read_text() == "keep"


def test_the_command_leaves_its_last_words(registry: Served, tmp_path: Path) -> None:
    item = {"name": "it", "source": {"kind": "oci", "reference": f"{registry.host}/team/x:1"}, "destination": "/o"}
    (tmp_path / "fetch.json").write_text(json.dumps({"items": [item]}))
    words = tmp_path / "words"
    ended = subprocess.run(
        [sys.executable, "-m", "kaito.runtime", "fetch", "--config", str(tmp_path / "fetch.json")],
        env={**os.environ, "KAITO_TERMINATION_LOG": str(words), "KAITO_ROOT": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert not Path("/o").exists(), "the pod's root stands for /"
    assert json.loads(words.read_text())["reason"] == "ArtifactUnauthorized"
    assert ended.stderr.count("\n") == 1 and "Traceback" not in ended.stderr
