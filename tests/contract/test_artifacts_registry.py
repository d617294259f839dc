# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""`kaito-runtime fetch` against a real registry (Debian's docker-registry) with a password."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kaito.api.contracts import FetchConfig, FetchItem, OciSource
from kaito.runtime.artifacts.fetch import Fetched, fetch_item
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings
from tests.registry_process import PASSWORD, Served, registry_process

CONTENT = os.urandom(1 << 16)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with registry_process(tmp_path_factory.mktemp("registry")) as served:
        yield served


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
    return str(registry.login(tmp_path / "config.json"))


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
    wrong = str(registry.login(tmp_path / "wrong.json", "nonsense"))
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


def test_two_that_want_the_same_fetch_it_once(registry: Served, adapter: str, login: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        reference, out = f"{registry.host}/team/adapter:1", tmp_path / "out"
        fetched = list(pool.map(lambda _: got(reference, out, login), range(4)))
    assert sorted(one.was_there for one in fetched) == [False, True, True, True]
    assert {one.digest for one in fetched} == {adapter}


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
    wrong = str(registry.login(tmp_path / "wrong.json", "nonsense"))
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
