# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in a real registry: the newest lies there, only what has changed is sent, and nobody waits for it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kaito.api.contracts import ModelSource, TuneConfig, TuneTarget
from kaito.api.names import REASON_ARTIFACT_UNAVAILABLE
from kaito.runtime.artifacts.push import Target
from kaito.runtime.artifacts.tags import look
from kaito.runtime.artifacts.transport import Patience
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings
from kaito.runtime.tune import publish
from kaito.runtime.tune.checkpoints import MARK, checkpoints, mark_whole
from kaito.runtime.tune.origin import Origin, note, origin_of
from kaito.runtime.tune.shipping import Shipping, identity, restored, shipping_of
from tests.engine_process import free_port
from tests.registry_process import Served, registry_process

HASTY = Patience(tries=1)
WEIGHTS = os.urandom(1 << 20)


@dataclass
class Node:
    """A machine with an output folder, whose tuning keeps its checkpoints in the registry."""

    folder: Path
    config: TuneConfig
    shipping: Shipping

    def checkpoint(self, step: int, weights: bytes, *, whole: bool = True) -> None:
        place = self.folder / f"checkpoint-{step}"
        place.mkdir()
        (place / "weights.safetensors").write_bytes(weights)
        (place / "tokenizer.json").write_bytes(WEIGHTS)
        (place / "training_args.bin").write_bytes(b"a pickle")
        if whole:
            mark_whole(place)

    def restore(self) -> str:
        place = self.config.checkpoints
        assert place is not None
        return restored(self.shipping, self.config, place, Settings())


def node_of(folder: Path, host: str, login: Path, training: str = "training_config: {}\n") -> Node:
    folder.mkdir()
    (folder / "training.yaml").write_text(training)
    output = folder / "output"
    output.mkdir()
    target = TuneTarget(image=f"{host}/team/adapter:w-checkpoint", credentials=(str(login),))
    config = TuneConfig(
        workspace="w", namespace="", device="cpu", method="lora", model=ModelSource(id="org/model"),
        training_config=str(folder / "training.yaml"), output_dir=str(output), checkpoints=target, checkpoint_s=0.01,
    )  # fmt: skip
    shipping = shipping_of(config, output, Settings())
    assert shipping is not None
    shipping.look_s = 0.01
    shipping.target = Target(shipping.target.reference, shipping.target.credentials, patience=HASTY)
    return Node(output, config, shipping)


@pytest.fixture(params=[True, False], ids=["deletes", "keeps"])
def registry(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Served, bool]]:
    (tmp_path / "registry").mkdir()
    with registry_process(tmp_path / "registry", deletes=request.param) as served:
        yield served, request.param


def eventually(there: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not there():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def manifests(served: Served) -> int:
    return len(list((served.folder / "store").rglob("_manifests/revisions/sha256/*/link")))


def test_another_node_goes_on_from_the_newest_checkpoint(
    registry: tuple[Served, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served, deletes = registry
    login = served.login(tmp_path / "login.json")
    first = node_of(tmp_path / "first", served.host, login)
    assert first.restore() == ""
    note(first.folder, Origin(commits={"org/rows@": "c" * 40}, sha256="data"))
    first.checkpoint(10, b"ten")
    first.shipping.start()
    eventually(lambda: first.shipping.sent == 10, "the first checkpoint is sent")
    first.checkpoint(20, b"twenty")
    first.checkpoint(30, b"thirty", whole=False)
    eventually(lambda: first.shipping.sent == 20, "the second checkpoint is sent")
    first.shipping.end(send=False)
    assert not first.shipping.trouble
    said = capsys.readouterr().err
    assert "checkpoint-10 is in the registry: 1.0 MiB, 1.0 of them sent now" in said
    assert "checkpoint-20 is in the registry: 1.0 MiB, 0.0 of them sent now" in said
    assert manifests(served) == (1 if deletes else 2)
    assert ("stay in it without a tag" in said) == (not deletes)

    second = node_of(tmp_path / "second", served.host, login)
    assert second.restore() == "checkpoint-20"
    assert [step for step, _ in checkpoints(second.folder)] == [20]
    (place,) = second.folder.glob("checkpoint-*")
    assert sorted(path.name for path in place.iterdir()) == [MARK, "tokenizer.json", "weights.safetensors"]
    assert (place / "weights.safetensors").read_bytes() == b"twenty"
    assert origin_of(second.folder) == origin_of(first.folder)
    assert not (second.folder / ".kaito" / "incoming").exists()
    second.shipping.discard()
    assert (look(second.shipping.target) is None) == deletes
    assert ("stays in the registry" in capsys.readouterr().err) == (not deletes)


@pytest.mark.parametrize("registry", [False], indirect=True)
def test_what_is_no_checkpoint_of_this_training_is_left_alone(registry: tuple[Served, bool], tmp_path: Path) -> None:
    served, _ = registry
    login = served.login(tmp_path / "login.json")
    first = node_of(tmp_path / "first", served.host, login)
    first.checkpoint(10, b"ten")
    first.shipping.end(send=True)
    assert first.shipping.sent == 10
    other = node_of(tmp_path / "other", served.host, login, "training_config: {LoraConfig: {r: 4}}\n")
    assert other.restore() == ""
    assert not checkpoints(other.folder)
    digest = look(first.shipping.target)
    assert digest is not None
    layers = served.manifest("team/adapter", "w-checkpoint")["layers"]
    served.blob_file(layers[-1]["digest"]).write_bytes(b"tenth")
    damaged = node_of(tmp_path / "damaged", served.host, login)
    assert damaged.restore() == ""
    assert not checkpoints(damaged.folder)


def test_a_registry_that_is_away_costs_the_training_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "FIRST_PAUSE_S", 0.01)
    (tmp_path / "registry").mkdir()
    (tmp_path / "login.json").write_text("{}")
    port = free_port()
    node = node_of(tmp_path / "node", f"127.0.0.1:{port}", tmp_path / "login.json")
    with pytest.raises(Failed) as raised:
        node.restore()
    assert raised.value.failure.reason == REASON_ARTIFACT_UNAVAILABLE
    node.checkpoint(10, b"ten")
    node.shipping.start()
    eventually(lambda: node.shipping.trouble != "", "the trouble is told")
    assert "is tried again" in node.shipping.trouble
    assert f"127.0.0.1:{port}" in node.shipping.trouble
    with contextlib.ExitStack() as later:
        served = later.enter_context(registry_process(tmp_path / "registry", port=port))
        served.login(tmp_path / "login.json")
        eventually(lambda: node.shipping.sent == 10, "it is sent when the registry is back")
        assert node.shipping.trouble == ""
        node.shipping.end(send=False)


def test_what_is_trained_has_a_name_of_its_own() -> None:
    config = TuneConfig(workspace="w", namespace="", device="cpu", method="lora", model=ModelSource(id="org/model"))
    same = config.model_copy(update={"workspace": "v", "checkpoint_s": 7.0})
    assert identity(config, "a") == identity(same, "a")
    others = [identity(config, "b"), identity(config.model_copy(update={"method": "qlora"}), "a")]
    others.append(identity(config.model_copy(update={"processes": 2}), "a"))
    assert len({identity(config, "a"), *others}) == 4
