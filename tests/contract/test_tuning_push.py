# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The result of a fine-tuning and a real registry: refused before anything is spent, kept while nobody answers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaito.api.contracts import USELESS_TO_RETRY, Failure, FetchItem, ModelSource, TuneConfig, TuneTarget, UrlSource
from kaito.api.names import REASON_PUSH_UNAUTHORIZED
from kaito.runtime.artifacts.push import Target
from kaito.runtime.artifacts.transport import Patience
from kaito.runtime.failure import Failed
from kaito.runtime.tune.publish import check_permission, publish
from tests.engine_process import free_port
from tests.registry_process import Served, registry_process

HASTY = Patience(tries=1)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with registry_process(tmp_path_factory.mktemp("registry")) as served:
        yield served


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_who_may_push_is_found_out_without_pushing(registry: Served, tmp_path: Path) -> None:
    check_permission(Target(f"{registry.host}/team/may:1", (registry.login(tmp_path / "login.json"),)))
    assert not list(registry.folder.rglob("blobs/sha256"))
    for name, credentials in (
        ("a wrong password", (registry.login(tmp_path / "wrong.json", "guess"),)),
        ("no login for it", (tmp_path / "none.json",)),
    ):
        (tmp_path / "none.json").write_text('{"auths": {}}')
        with pytest.raises(Failed) as caught:
            check_permission(Target(f"{registry.host}/team/may-not:1", credentials))
        assert caught.value.failure.reason == REASON_PUSH_UNAUTHORIZED, name
        assert "imagePushSecret" in caught.value.failure.next_step
        assert "guess" not in caught.value.failure.message


def test_a_tuning_that_may_not_push_ends_before_it_fetches_anything(registry: Served, tmp_path: Path) -> None:
    login = registry.login(tmp_path / "wrong.json", "guess")
    config = TuneConfig(
        workspace="w",
        namespace="default",
        device="cpu",
        model=ModelSource(id="kaito/demo-phi-3"),
        method="lora",
        data=(FetchItem(name="data", source=UrlSource(urls=("http://127.0.0.1:1/x",)), destination="/mnt/data/files"),),
        private_urls=True,
        output_dir="/mnt/results",
        output=TuneTarget(image=f"{registry.host}/team/may-not:1", credentials=(str(login),)),
    )
    file, last_words = tmp_path / "tune.json", tmp_path / "last-words"
    file.write_text(config.model_dump_json())
    env = {**os.environ, "KAITO_ROOT": str(tmp_path), "KAITO_TERMINATION_LOG": str(last_words)}
    argv = [sys.executable, "-m", "kaito.runtime", "tune", "--config", str(file)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == USELESS_TO_RETRY, done.stderr
    assert Failure.model_validate_json(last_words.read_text()).reason == REASON_PUSH_UNAUTHORIZED
    assert not (tmp_path / "mnt/data").exists()


def test_a_result_is_kept_while_no_registry_answers_and_pushed_when_one_does(result: Path, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    port = free_port()
    waits: list[tuple[float, str]] = []
    with contextlib.ExitStack() as later:

        def wait(pause_s: float, why: str) -> None:
            waits.append((pause_s, why))
            if len(waits) == 2:
                served = later.enter_context(registry_process(tmp_path / "registry", port=port))
                served.login(tmp_path / "login.json")

        (tmp_path / "login.json").write_text('{"auths": {}}')
        target = Target(f"127.0.0.1:{port}/team/late:1", (tmp_path / "login.json",), patience=HASTY)
        pushed = publish(result, target, {"sh.kaito.model.name": "phi-3"}, wait)
        assert pushed.digest.startswith("sha256:")
    assert [pause for pause, _ in waits] == [5.0, 10.0]
    assert f"127.0.0.1:{port}" in waits[0][1]


def test_a_registry_that_refuses_at_the_end_is_not_asked_for_ever(
    registry: Served, result: Path, tmp_path: Path
) -> None:
    target = Target(f"{registry.host}/team/refused:1", (registry.login(tmp_path / "wrong.json", "guess"),))
    with pytest.raises(Failed) as caught:
        publish(result, target, {}, lambda pause_s, why: pytest.fail(f"it waits: {why}"))
    assert caught.value.failure.reason == REASON_PUSH_UNAUTHORIZED
    assert (result / "adapter_model.safetensors").is_file()
