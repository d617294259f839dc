# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A model out of a registry that is busy, cuts its answers, or lies, and onto a disk that is full: it comes whole, or
one sentence says why it does not, and then nothing of it stays."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import urllib3

from kaito.api.contracts import FetchConfig, FetchItem, OciSource
from kaito.runtime.artifacts import pull
from kaito.runtime.artifacts.fetch import Errand, bring, source_hash
from kaito.runtime.artifacts.push import Target, push_model
from kaito.runtime.artifacts.staging import Record, staged
from kaito.runtime.artifacts.transport import Patience, Transport
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings
from tests.registry_process import Served, registry_process

WEIGHTS = os.urandom(1 << 20)
PASSED = ("Content-Type", "Content-Range", "Docker-Content-Digest", "WWW-Authenticate")


@dataclass
class Trouble:
    """What goes wrong between a client and a registry, and what was asked for."""

    registry: Served
    host: str = ""
    busy: int = 0
    """So many requests for blobs are answered with a 500 yet."""
    cut: int = 0
    """So many answers with blobs end too early yet."""
    lost_from: int | None = None
    """No byte of a blob from this one on arrives."""
    ranges: list[str] = field(default_factory=list)


class _Between(BaseHTTPRequestHandler):
    trouble: Trouble

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        trouble, blob = self.trouble, "/blobs/" in self.path
        if blob and trouble.busy:
            trouble.busy -= 1
            self.send_error(500)
            return
        wanted = {key: value for key in ("Authorization", "Accept", "Range") if (value := self.headers.get(key))}
        answer = urllib3.request("GET", f"http://{trouble.registry.host}{self.path}", headers=wanted, retries=False)
        if blob:
            trouble.ranges.append(self.headers.get("Range", ""))
        self.send_response(answer.status)
        for key in PASSED:
            if key in answer.headers:
                self.send_header(key, answer.headers[key])
        self.send_header("Content-Length", str(len(answer.data)))
        self.end_headers()
        if blob and trouble.cut and len(answer.data) > 1000:
            trouble.cut -= 1
            self.wfile.write(answer.data[: len(answer.data) // 2])
            self.close_connection = True
            return
        if blob and trouble.lost_from is not None and len(answer.data) > 1000:
            begins = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            self.wfile.write(answer.data[: max(0, trouble.lost_from - begins)])
            self.close_connection = True
            return
        self.wfile.write(answer.data)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, model = tmp_path_factory.mktemp("registry"), tmp_path_factory.mktemp("model")
    (model / "config.json").write_text('{"model_type": "phi3"}')
    (model / "model.safetensors").write_bytes(WEIGHTS)
    with registry_process(folder) as served:
        push_model(model, Target(f"{served.host}/team/model:1", (served.login(folder / "config.json"),)))
        yield served


@pytest.fixture
def trouble(registry: Served) -> Iterator[Trouble]:
    made = Trouble(registry)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Between", (_Between,), {"trouble": made}))
    made.host = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    server.shutdown()
    server.server_close()


def fetched(trouble: Trouble, folder: Path) -> Record:
    """The model as a pod fetches it, but without the pauses between tries."""
    login = Served(trouble.host, folder).login(folder / "login.json")
    item = FetchItem(
        name="weights", source=OciSource(reference=f"{trouble.host}/team/model:1"),
        destination=str(folder / "out"), credentials=(str(login),),
    )  # fmt: skip
    transport = Transport(patience=Patience(pause=lambda seconds: None))
    try:
        with staged(folder / "out", source_hash(item)) as staging:
            return bring(Errand(item, FetchConfig(items=(item,)), Settings(), transport), staging)
    finally:
        transport.close()


def is_whole(folder: Path) -> bool:
    return (folder / "out/model.safetensors").read_bytes() == WEIGHTS and (folder / "out/config.json").is_file()


def test_a_registry_that_is_busy_for_a_while_is_asked_again(trouble: Trouble, tmp_path: Path) -> None:
    trouble.busy = 4
    fetched(trouble, tmp_path)
    assert is_whole(tmp_path) and trouble.busy == 0


def test_an_answer_that_is_cut_goes_on_where_it_ended(trouble: Trouble, tmp_path: Path) -> None:
    trouble.cut = 2
    fetched(trouble, tmp_path)
    assert is_whole(tmp_path)
    half = len(WEIGHTS) // 2
    assert f"bytes={half}-" in trouble.ranges and f"bytes={half + half // 2}-" in trouble.ranges


@pytest.mark.parametrize(
    ("broken", "said"),
    [({"busy": 1000}, "status 500"), ({"lost_from": 5000}, "cannot be downloaded")],
    ids=["busy", "cut"],
)
def test_a_registry_that_stays_broken_is_named_and_the_next_start_goes_on(
    trouble: Trouble, tmp_path: Path, broken: dict[str, int], said: str
) -> None:
    for name, value in broken.items():
        setattr(trouble, name, value)
    with pytest.raises(Failed) as error:
        fetched(trouble, tmp_path)
    failure = error.value.failure
    assert failure.reason == "ArtifactUnavailable" and said in failure.message and failure.next_step
    assert not (tmp_path / "out").exists()
    trouble.busy, trouble.lost_from = 0, None
    fetched(trouble, tmp_path)
    assert is_whole(tmp_path)
    assert not list(tmp_path.glob(".out*partial"))


def test_a_disk_that_becomes_full_keeps_nothing_of_it(
    trouble: Trouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pull, "write_all", full)
        with pytest.raises(Failed) as error:
            fetched(trouble, tmp_path)
    assert error.value.failure.reason == "DiskFull" and "is full" in error.value.failure.message
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == set()
    fetched(trouble, tmp_path)
    assert is_whole(tmp_path)
