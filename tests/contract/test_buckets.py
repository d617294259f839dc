# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Weights from object stores: S3 against moto's server, with a way to it that fails in between; Google's and Azure's
against small servers that speak as much of their wire protocols as is used, logins and page after page included.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from moto.server import ThreadedMotoServer

from kaito.api import names
from kaito.api.contracts import BucketSource, FetchConfig, FetchItem
from kaito.runtime.artifacts.azure import shared_key
from kaito.runtime.artifacts.fetch import Fetched, fetch_item
from kaito.runtime.artifacts.transport import Patience
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings

FILES = {
    "config.json": b'{"model_type": "phi3"}',
    "model.safetensors": bytes(range(256)) * 4096,
    "nested/tokenizer é.json": b"{}",
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes = b"", *, cut_at: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[:cut_at])
        self.close_connection = cut_at is not None

    def log_message(self, *arguments: object) -> None:
        return


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class Way:
    """The way to moto: hands everything on but what is to fail."""

    def __init__(self) -> None:
        self.faults: list[int] = []
        """The next answers for model.safetensors: a status, or 0 for a connection that breaks off half way."""
        self.asked: list[str] = []


@pytest.fixture(scope="module")
def moto() -> Iterator[tuple[str, int]]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    s3 = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        aws_access_key_id="k",
        aws_secret_access_key="s",
        region_name="us-east-1",
    )
    s3.create_bucket(Bucket="models")
    for name, body in FILES.items():
        s3.put_object(Bucket="models", Key=f"team/phi/{name}", Body=body)
    s3.put_object(Bucket="models", Key="team/phi/", Body=b"")
    s3.put_object(Bucket="models", Key="team/phi-other/config.json", Body=b"{}")
    s3.put_object(Bucket="models", Key="pickled/pytorch_model.bin", Body=b"x")
    s3.put_object(Bucket="models", Key="bad/../config.json", Body=b"x")
    yield host, port
    server.stop()


@pytest.fixture
def way(moto: tuple[str, int]) -> Iterator[tuple[Way, str]]:
    found = Way()

    class Proxy(Handler):
        def do_GET(self) -> None:
            found.asked.append(urlsplit(self.path).path)
            fault = found.faults.pop(0) if found.faults and "model.safetensors" in self.path else None
            if fault:
                self.answer(fault)
                return
            onward = http.client.HTTPConnection(*moto, timeout=20)
            onward.request("GET", self.path, headers=dict(self.headers))
            answer = onward.getresponse()
            body = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name in ("ETag", "Content-Range")}
            self.answer(answer.status, body, cut_at=len(body) // 2 if fault == 0 else None, **kept)

    with serving(Proxy) as url:
        yield found, url


def secret(folder: Path, **keys: str) -> Path:
    """A Secret as it is mounted."""
    folder.mkdir(exist_ok=True)
    for name, value in keys.items():
        (folder / name).write_text(value)
    return folder


def fetched(tmp_path: Path, uri: str, **keys: str) -> Fetched:
    place = secret(tmp_path / "secret", **keys)
    item = FetchItem(
        name="weights", source=BucketSource(uri=uri), destination=str(tmp_path / "out"), credentials=(str(place),)
    )
    return fetch_item(item, FetchConfig(items=(item,)), Settings())


def s3(tmp_path: Path, url: str, uri: str = "s3://models/team/phi") -> Fetched:
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": url}
    return fetched(tmp_path, uri, **keys)


def content(found: Fetched) -> dict[str, bytes]:
    root = found.destination
    paths = (path for path in root.rglob("*") if path.is_file() and not path.name.startswith(".kaito"))
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_a_folder_of_s3_comes_whole_and_once(tmp_path: Path, way: tuple[Way, str]) -> None:
    watched, url = way
    found = s3(tmp_path, url)
    assert content(found) == FILES
    assert found.bytes == sum(map(len, FILES.values())) and found.digest and found.digest.startswith("sha256:")
    asked = len(watched.asked)
    assert s3(tmp_path, url).was_there and len(watched.asked) == asked


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "wait", lambda self, attempt, retry_after_s=None: None)


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize("faults", [[0], [503, 503], [0, 500, 0]], ids=["cut", "slow down", "cut and down"])
def test_a_download_goes_on_after_what_passes(tmp_path: Path, way: tuple[Way, str], faults: list[int]) -> None:
    way[0].faults = list(faults)
    assert content(s3(tmp_path, way[1])) == FILES


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("uri", "faults", "reason", "says"),
    [
        ("s3://models/team/phi", [403], names.REASON_ARTIFACT_UNAUTHORIZED, "may not be read"),
        ("s3://models/team/phi", [412], names.REASON_ARTIFACT_INVALID, "replaced while it was read"),
        ("s3://models/team/phi", [503] * 6, names.REASON_ARTIFACT_UNAVAILABLE, "status 503"),
        ("s3://models/team/ph", [], names.REASON_ARTIFACT_NOT_FOUND, "holds no files"),
        ("s3://nothing-here/team", [], names.REASON_ARTIFACT_NOT_FOUND, "There is no s3://nothing-here/team"),
        ("s3://models/pickled", [], names.REASON_ARTIFACT_INVALID, "can run code when it is loaded"),
        ("s3://models/bad", [], names.REASON_ARTIFACT_INVALID, "no path of a file"),
        ("ftp://models/bad", [], names.REASON_INVALID_SPEC, "no address of an object store"),
    ],
)
def test_what_cannot_be_had_says_why_and_leaves_nothing(
    tmp_path: Path, way: tuple[Way, str], uri: str, faults: list[int], reason: str, says: str
) -> None:
    way[0].faults = list(faults)
    with pytest.raises(Failed) as caught:
        s3(tmp_path, way[1], uri)
    assert (caught.value.failure.reason, says in caught.value.failure.message) == (reason, True), caught.value.failure
    assert caught.value.failure.next_step
    assert not (tmp_path / "out").exists()


def test_what_came_whole_before_is_not_asked_for_again(tmp_path: Path, way: tuple[Way, str]) -> None:
    watched, url = way
    watched.faults = [403]
    with pytest.raises(Failed):
        s3(tmp_path, url)
    watched.asked.clear()
    s3(tmp_path, url)
    assert sum("safetensors" in path for path in watched.asked) == 1


class Google(Handler):
    """`objects.list` two at a time, `objects.get`, and the token server."""

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        assert form["assertion"][0].count(".") == 2
        self.answer(200, json.dumps({"access_token": "granted", "expires_in": 3600}).encode())

    def do_GET(self) -> None:
        if self.headers["Authorization"] != "Bearer granted":
            self.answer(401)
            return
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/storage/v1/b/models/o":
            start = int(query.get("pageToken", 0))
            listed = [
                {
                    "name": f"phi/{name}",
                    "size": str(len(body)),
                    "generation": "7",
                    "md5Hash": base64.b64encode(hashlib.md5(body).digest()).decode(),
                }
                for name, body in FILES.items()
            ]
            assert query["prefix"] == "phi/"
            more = {"nextPageToken": str(start + 2)} if start + 2 < len(listed) else {}
            self.answer(200, json.dumps({"items": listed[start : start + 2], **more}).encode())
            return
        key = unquote(parts.path.removeprefix("/storage/v1/b/models/o/"))
        assert (query["alt"], query["generation"]) == ("media", "7")
        self.answer(200, FILES[key.removeprefix("phi/")])


def test_a_folder_of_google_cloud_storage_with_a_service_account(tmp_path: Path) -> None:
    key = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with serving(Google) as url:
        account = {
            "type": "service_account", "client_email": "reader@project.iam", "private_key": key.decode(),
            "token_uri": f"{url}/token",
        }  # fmt: skip
        keys = {"GOOGLE_APPLICATION_CREDENTIALS": json.dumps(account), "STORAGE_EMULATOR_HOST": url}
        assert content(fetched(tmp_path, "gs://models/phi", **keys)) == FILES
        with pytest.raises(Failed) as caught:
            fetched(tmp_path / "..", "gs://models/phi", STORAGE_EMULATOR_HOST=url)
    assert caught.value.failure.reason == names.REASON_ARTIFACT_UNAUTHORIZED


def test_a_key_of_google_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failed) as caught:
        fetched(tmp_path, "gs://models/phi", GOOGLE_APPLICATION_CREDENTIALS="hush-hush")
    assert "hush" not in str(caught.value.failure)
    assert caught.value.failure.reason == names.REASON_INVALID_SPEC


class Azure(Handler):
    """`List Blobs` two at a time and `Get Blob`, for whoever has the token."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if query.get("sig") != "a+b/c=" or not self.headers["x-ms-version"]:
            self.answer(403)
        elif query.get("comp") == "list":
            start = int(query.get("marker", 0))
            blobs = [
                f"<Blob><Name>phi/{name}</Name><Properties><Etag>0x8</Etag><Content-Length>{len(body)}</Content-Length>"
                f"<Content-MD5>{base64.b64encode(hashlib.md5(body).digest()).decode()}</Content-MD5></Properties></Blob>"
                for name, body in FILES.items()
            ][start : start + 2]
            marker = str(start + 2) if len(blobs) == 2 else ""
            text = f"<Blobs>{''.join(blobs)}</Blobs><NextMarker>{marker}</NextMarker>"
            self.answer(200, f"<EnumerationResults>{text}</EnumerationResults>".encode())
        else:
            assert self.headers["If-Match"] == "0x8"
            self.answer(200, FILES[unquote(parts.path).removeprefix("/models/phi/")])


def test_a_folder_of_azure_with_a_token(tmp_path: Path) -> None:
    with serving(Azure) as url:
        keys = {"AZURE_STORAGE_SAS_TOKEN": "?sv=2023&sig=a%2Bb%2Fc%3D", "AZURE_STORAGE_SERVICE_ENDPOINT": url}
        assert content(fetched(tmp_path, "az://account/models/phi", **keys)) == FILES


def test_an_azure_key_signs_as_the_service_checks_it() -> None:
    # Made by the code whose requests Azurite 3, Microsoft's own emulator, has taken: list, get and a range.
    headers = {"x-ms-version": "2023-11-03", "x-ms-date": "Fri, 27 Nov 2026 09:00:00 GMT", "If-Match": '"0x1"'}
    url = "http://127.0.0.1:10000/devstoreaccount1/models/a%20b.json"
    signed = shared_key("devstoreaccount1", b"k" * 32, url, {}, {**headers, "Range": "bytes=5-"})
    assert signed == "SharedKey devstoreaccount1:tNDkhyDCdNvaHc0iokqDQfZkcoFhOut/GkwMcADRG8Q="
