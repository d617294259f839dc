# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""A node that is lost with its disk costs an interval: another one goes on from the registry as if nothing had been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from kaito.api import names
from kaito.api.contracts import FetchItem, HubSource, ModelSource, TuneConfig, TuneProgress, TuneTarget
from kaito.api.training import progress_of
from kaito.runtime.tune.checkpoints import checkpoints
from tests.engine_process import free_port
from tests.hub_process import DataHub, data_hub
from tests.registry_process import Served, registry_process

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = """
training_config:
  LoraConfig: {r: 4, lora_alpha: 8, lora_dropout: 0.1}
  TrainingArguments:
    per_device_train_batch_size: 2
    max_length: 16
    max_steps: %d
    warmup_steps: 2
    learning_rate: 1e-3
    eval_strategy: "no"
  DatasetConfig: {train_test_split: 0.9}
"""
ROWS = [{"text": f"Stone {n} is {'blue' if n % 3 else 'red'}, and so on."} for n in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "registry").mkdir()
    with registry_process(tmp_path / "registry", deletes=True) as served:
        served.login(tmp_path / "login.json")
        yield served


def test_nodes_that_are_lost_change_nothing(cache: Path, tmp_path: Path, registry: Served) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_bytes(LINES)
    (tmp_path / "training.yaml").write_text(CONFIG % 24)
    model = cache / "kaito" / "models" / "kaito" / "demo-phi-3"
    argv = [sys.executable, "-m", "tests.e2e.tuning_moves", str(tmp_path), str(model), registry.host]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["lost"] >= 3
    assert told["begins"] == sorted(set(told["begins"])), "each goes on further than the one before"
    assert told["moved"] == pytest.approx(told["whole"], abs=1e-6)


def config_of(cache: Path, host: str, login: Path, name: str, revision: str = "") -> TuneConfig:
    data = HubSource(repository="org/stones", revision=revision)
    return TuneConfig(
        workspace=name,
        namespace="default",
        device="cpu",
        method="lora",
        model=ModelSource(id="kaito/demo-phi-3", local_dirs=(str(cache / "kaito" / "models"),), offline=True),
        data=(FetchItem(name="the data set", source=data, destination="/mnt/data/1-stones"),),
        output_dir="/mnt/results",
        output=TuneTarget(
            image=f"{host}/team/{name}:1",
            credentials=(str(login),),
            format="artifact",
            annotations={names.MODEL_NAME_ANNOTATION: "demo-phi-3"},
        ),
        checkpoints=TuneTarget(image=f"{host}/team/{name}:checkpoint", credentials=(str(login),)),
        checkpoint_s=0.2,
    )


def pod(node: Path, config: TuneConfig, hub: DataHub, steps: int = 60) -> subprocess.Popen[str]:
    """The tuning's pod on a node of its own."""
    (node / "mnt" / "config").mkdir(parents=True)
    (node / "mnt" / "config" / "training_config.yaml").write_text(CONFIG % steps)
    (node / "tune.json").write_text(config.model_dump_json())
    env = {**os.environ, "KAITO_ROOT": str(node), "KAITO_TERMINATION_LOG": str(node / "last-words"),
           "HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1"}  # fmt: skip
    argv = [sys.executable, "-m", "kaito.runtime", "tune", "--config", str(node / "tune.json")]
    return subprocess.Popen(
        argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def test_a_pod_goes_on_where_the_one_on_a_lost_node_was(cache: Path, tmp_path: Path, registry: Served) -> None:
    login = tmp_path / "login.json"
    with data_hub() as hub:
        commit = hub.commit("org/stones", {"train.jsonl": LINES})
        config = config_of(cache, registry.host, login, "moved")
        first = pod(tmp_path / "first", config, hub)
        deadline = time.monotonic() + 120
        while not (registry.folder / "store/docker/registry/v2/repositories/team/moved/_manifests/tags").is_dir():
            assert first.poll() is None and time.monotonic() < deadline, "no checkpoint came into the registry"
            time.sleep(0.02)
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
        hub.commit("org/stones", {"train.jsonl": b'{"text": "something else"}\n'})
        said, _ = (second := pod(tmp_path / "second", config, hub)).communicate(timeout=180)
        assert second.returncode == 0, said[-3000:]
        alone = pod(tmp_path / "alone", config_of(cache, registry.host, login, "alone", commit), hub)
        left_alone, _ = alone.communicate(timeout=180)
        assert alone.returncode == 0, left_alone[-3000:]
    assert "goes on from checkpoint-" in said
    assert "goes on from" not in left_alone
    moved, whole = (registry.manifest("team/" + name, "1") for name in ("moved", "alone"))
    assert moved["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert moved["annotations"][names.BASE_MODEL_ANNOTATION] == "kaito/demo-phi-3"
    assert moved["annotations"][names.MODEL_NAME_ANNOTATION] == "demo-phi-3"
    weights = [
        {layer["annotations"]["org.cncf.model.filepath"]: layer["digest"] for layer in manifest["layers"]}
        for manifest in (moved, whole)
    ]
    assert weights[0]["adapter_model.safetensors"] == weights[1]["adapter_model.safetensors"], "to the last bit"
    card = registry.blob_file(weights[0]["README.md"]).read_text()
    assert f"hf://datasets/org/stones@{commit}" in card
    last = TuneProgress.model_validate_json((tmp_path / "second" / "last-words").read_text())
    assert last.digest and last.step == 60
    tags = registry.request("GET", "team/moved/tags/list").json()["tags"]
    assert tags == ["1"], "a checkpoint is of no use once the result is there"


def test_a_registry_that_is_away_is_told_and_the_last_checkpoint_is_kept_at_the_end(
    cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "registry").mkdir()
    port, login = free_port(), tmp_path / "login.json"
    with data_hub() as hub, contextlib.ExitStack() as later:
        hub.commit("org/stones", {"train.jsonl": LINES})
        with registry_process(tmp_path / "registry", port=port) as served:
            served.login(login)
            ended = pod(tmp_path / "node", config_of(cache, served.host, login, "stopped"), hub, steps=5000)
            assert ended.stdout is not None
            until(ended.stdout, "is in the registry")
        line = until(ended.stdout, names.PROGRESS_MARK, "not in the registry yet, and is tried again")
        assert progress_of(line) is not None
        served = later.enter_context(registry_process(tmp_path / "registry", port=port))
        until(ended.stdout, "is in the registry")
        assert (found := progress_of(until(ended.stdout, names.PROGRESS_MARK))) is not None and not found.note
        os.kill(ended.pid, signal.SIGTERM)
        said, _ = ended.communicate(timeout=60)
    assert ended.returncode == 143, said[-2000:]
    newest = max(step for step, _ in checkpoints(tmp_path / "node" / "mnt" / "results"))
    assert f"checkpoint-{newest} is in the registry" in said


def until(lines: IO[str], *words: str) -> str:
    """The first line with all the words."""
    for line in lines:
        if all(word in line for word in words):
            return line
    raise AssertionError(f"the pod ended without saying {words}")
