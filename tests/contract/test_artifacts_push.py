# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Pushing to a real registry (Debian's docker-registry), with a password, over TLS, and through a line that breaks."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kaito.api.contracts import FetchConfig, FetchItem, OciSource
from kaito.api.names import MODEL_NAME_ANNOTATION
from kaito.kube.certificates import new_authority, serving_pair
from kaito.runtime.artifacts.fetch import fetch_item
from kaito.runtime.artifacts.pack import files_of
from kaito.runtime.artifacts.push import LICENSES, REVISION, Pushed, Target, push_image, push_model
from kaito.runtime.artifacts.transport import Patience
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings
from tests.registry_process import PASSWORD, Served, registry_process

WEIGHTS = os.urandom(5 << 20)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with registry_process(tmp_path_factory.mktemp("registry")) as served:
        yield served


@pytest.fixture
def login(registry: Served, tmp_path: Path) -> Path:
    return registry.login(tmp_path / "config.json")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    (folder / "deep/er").mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (folder / "deep/er/note.md").write_text("# It is deep\n")
    (folder / ".git").mkdir()
    (folder / ".git/config").write_text("secret")
    return folder


def fetched(reference: str, destination: Path, login: Path, **more: str) -> dict[str, bytes]:
    item = FetchItem(
        name="it", source=OciSource(reference=reference), destination=str(destination), credentials=(str(login),)
    )
    fetch_item(item, FetchConfig(items=(item,), **more), Settings())
    return {name: path.read_bytes() for name, path in files_of(destination).items()}


def content(folder: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in files_of(folder).items()}


def test_an_image_comes_back_as_it_was_pushed(registry: Served, adapter: Path, login: Path, tmp_path: Path) -> None:
    reference = f"{registry.host}/team/adapter:1"
    pushed = push_image(adapter, Target(reference, (login,)), annotations={MODEL_NAME_ANNOTATION: "phi-3"})
    assert fetched(f"{registry.host}/team/adapter@{pushed.digest}", tmp_path / "out", login) == content(adapter)
    manifest = registry.manifest("team/adapter", "1")
    assert manifest["annotations"] == {MODEL_NAME_ANNOTATION: "phi-3"}
    layers = [registry.blob_file(layer["digest"]) for layer in manifest["layers"]]
    listed = [subprocess.check_output(["tar", "-tf", layer], text=True).split() for layer in layers]
    assert listed[0] == ["data/", "data/adapter_config.json", "data/deep/", "data/deep/er/", "data/deep/er/note.md"]
    assert listed[1] == ["data/", "data/adapter_model.safetensors"]


def test_the_same_files_have_the_same_digest_and_are_sent_once(registry: Served, adapter: Path, login: Path) -> None:
    first = push_image(adapter, Target(f"{registry.host}/team/twice:1", (login,)))
    for path in adapter.rglob("*"):
        os.utime(path, (1, 1))
    again = push_image(files_of(adapter), Target(f"{registry.host}/team/twice:2", (login,)))
    assert (again.digest, again.sent) == (first.digest, 0)
    assert first.sent == first.bytes > len(WEIGHTS)


def test_a_model_is_an_artifact_with_a_file_a_layer(
    registry: Served, adapter: Path, login: Path, tmp_path: Path
) -> None:
    notes = {LICENSES: "MIT", REVISION: "abc"}
    push_model(adapter, Target(f"{registry.host}/team/model:1", (login,)), annotations=notes)
    assert fetched(f"{registry.host}/team/model:1", tmp_path / "out", login) == content(adapter)
    manifest = registry.manifest("team/model", "1")
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    types = {layer["annotations"]["org.cncf.model.filepath"]: layer["mediaType"] for layer in manifest["layers"]}
    assert types == {
        "adapter_config.json": "application/vnd.cncf.model.weight.config.v1.raw",
        "adapter_model.safetensors": "application/vnd.cncf.model.weight.v1.raw",
        "deep/er/note.md": "application/vnd.cncf.model.doc.v1.raw",
    }
    config = registry.request("GET", f"team/model/blobs/{manifest['config']['digest']}").json()
    assert config["descriptor"] == {"name": "model", "licenses": ["MIT"], "revision": "abc"}
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]


def test_tls_with_an_authority_of_ones_own(adapter: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = new_authority("test", now)
    pair = serving_pair(authority, ["127.0.0.1"], now)
    for name, text in (("ca.pem", authority.cert_pem), ("cert.pem", pair.cert_pem), ("key.pem", pair.key_pem)):
        (tmp_path / name).write_text(text)
    folder = tmp_path / "registry"
    folder.mkdir()
    with registry_process(folder, certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem") as served:
        login = served.login(tmp_path / "config.json")
        reference = f"{served.host}/team/adapter:1"
        push_image(adapter, Target(reference, (login,), ca_file=tmp_path / "ca.pem"))
        assert fetched(reference, tmp_path / "out", login, ca_file=str(tmp_path / "ca.pem")) == content(adapter)
        with pytest.raises(Failed, match="certificate is not trusted"):
            push_image(adapter, Target(reference, (login,)))


def test_the_command_pushes_with_the_logins_of_docker(registry: Served, adapter: Path, tmp_path: Path) -> None:
    registry.login(tmp_path / "config.json")
    kaito = [sys.executable, "-m", "kaito.cli", "models", "push"]
    environment = {**os.environ, "DOCKER_CONFIG": str(tmp_path)}
    reference = f"{registry.host}/team/command:1"
    done = subprocess.run([*kaito, str(adapter), reference, "--image"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"Pushed {reference}" in done.stdout and f"source.image: {reference}" in done.stdout
    assert fetched(reference, tmp_path / "out", tmp_path / "config.json") == content(adapter)
    (adapter / "model.bin").write_bytes(b"x")
    refused = subprocess.run([*kaito, str(adapter), reference], env=environment, capture_output=True, text=True)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "model.bin" in refused.stderr and "--allow-pickle" in refused.stderr


class BreakingLine:
    """A line to the registry that is cut after so many bytes, the first few times."""

    def __init__(self, host: str, *, after: int, times: int) -> None:
        self.target = host.partition(":")[0], int(host.partition(":")[2])
        self.after, self.left = after, times
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            threading.Thread(target=self.carry, args=(near, far), kwargs={"cut": True}, daemon=True).start()
            threading.Thread(target=self.carry, args=(far, near), daemon=True).start()

    def carry(self, source: socket.socket, sink: socket.socket, *, cut: bool = False) -> None:
        count = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                count += len(data)
                if cut and self.left and count > self.after:
                    self.left -= 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.close() if cut else end.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.listener.close()


def test_a_push_goes_on_after_the_line_broke(registry: Served, adapter: Path, tmp_path: Path) -> None:
    line = BreakingLine(registry.host, after=2 << 20, times=3)
    try:
        registry.login(tmp_path / "direct.json")
        login = Served(line.host, tmp_path).login(tmp_path / "line.json")
        pauses: list[float] = []
        told: list[int] = []
        target = Target(f"{line.host}/team/broken:1", (login,), patience=Patience(pause=pauses.append))
        pushed = push_image(adapter, target, watch=told.append)
    finally:
        line.close()
    assert line.left == 0 and pauses
    assert sum(told) == pushed.bytes
    there = fetched(f"{registry.host}/team/broken:1", tmp_path / "out", tmp_path / "direct.json")
    assert there == content(adapter)


def failure(folder: Path, reference: str, *logins: Path) -> Failed:
    with pytest.raises(Failed) as error:
        push_image(folder, Target(reference, logins, patience=Patience(tries=2, pause=lambda seconds: None)))
    assert PASSWORD not in repr(error.value.failure)
    return error.value


def test_what_cannot_be_pushed_says_why(registry: Served, adapter: Path, login: Path, tmp_path: Path) -> None:
    wrong = registry.login(tmp_path / "wrong.json", "nonsense")
    (tmp_path / "empty").mkdir()
    free = socket.create_server(("127.0.0.1", 0))
    closed = f"127.0.0.1:{free.getsockname()[1]}"
    free.close()
    cases = [
        (failure(adapter, f"{registry.host}/team/x:1"), "ArtifactUnauthorized", "let us push to team/x"),
        (failure(adapter, f"{registry.host}/team/x:1", wrong), "ArtifactUnauthorized", "is not accepted"),
        (failure(adapter, f"{registry.host}/Team/x:1", login), "InvalidSpec", "capitals"),
        (failure(adapter, f"{registry.host}/team/x@sha256:{'0' * 64}", login), "InvalidSpec", "names a digest"),
        (failure(adapter, f"{closed}/team/x:1", login), "ArtifactUnavailable", "the connection is refused"),
        (failure(tmp_path / "empty", f"{registry.host}/team/x:1", login), "InvalidSpec", "holds no files"),
        (failure(tmp_path / "none", f"{registry.host}/team/x:1", login), "InvalidSpec", "is no folder"),
    ]
    for failed, reason, said in cases:
        assert failed.failure.reason == reason, failed.failure
        assert said in failed.failure.message
        assert failed.failure.next_step


def test_weights_that_can_run_code_are_pushed_only_when_the_user_insists(
    registry: Served, adapter: Path, login: Path
) -> None:
    (adapter / "pytorch_model.bin").write_bytes(b"x")
    target = Target(f"{registry.host}/team/pickle:1", (login,))
    with pytest.raises(Failed, match=r"pytorch_model\.bin"):
        push_model(adapter, target)
    assert isinstance(push_model(adapter, target, allow_pickle=True), Pushed)


def test_a_file_that_changes_under_way_is_noticed(registry: Served, adapter: Path, login: Path) -> None:
    weights = adapter / "adapter_model.safetensors"

    def change(count: int) -> None:
        if weights.stat().st_size == len(WEIGHTS):
            with weights.open("ab") as file:
                file.write(b"more")

    with pytest.raises(Failed) as error:
        push_image(adapter, Target(f"{registry.host}/team/changed:1", (login,)), watch=change)
    assert error.value.failure.reason == "ArtifactInvalid"
