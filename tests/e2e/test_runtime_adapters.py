# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Both engines serve LoRA adapters beside the model, with a strength, and load and unload them while they run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.machine import eventually
from tests.e2e.runtime_process import ENGINES, RuntimeProcess, demo_weights, serve_config
from tests.lora import write_adapter

pytestmark = pytest.mark.slow
START = "Kaito is the Kubernetes AI Toolchain Operator"


@dataclass
class Served:
    process: RuntimeProcess
    config: Path

    def ask(self, model: str) -> str:
        body = {"messages": [{"role": "user", "content": "What is kaito?"}], "temperature": 0, "max_tokens": 24}
        status, answer = self.process.ask("POST", "/v1/chat/completions", {**body, "model": model})
        assert status == 200, answer
        assert answer["model"] == model
        text: str = answer["choices"][0]["message"]["content"]
        return text

    def models(self) -> list[str]:
        return [entry["id"] for entry in self.process.ask("GET", "/v1/models")[1]["data"]]

    def want(self, *adapters: dict[str, Any]) -> None:
        """Change the file in one step, as a mounted ConfigMap changes."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(json.dumps({**json.loads(self.config.read_text()), "adapters": adapters}))
        fresh.replace(self.config)


@pytest.fixture(scope="module", params=ENGINES)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(f"adapters-{request.param}")
    config = serve_config(folder, request.param, local_dirs=[demo_weights(request)])
    noise = write_adapter(folder / "noise")
    write_adapter(folder / "other", seed=2, rank=16)
    adapters = [{"name": "noise", "path": str(noise)}, {"name": "off", "path": str(noise), "strength": 0.0}]
    config.write_text(json.dumps({**json.loads(config.read_text()), "adapters": adapters}))
    with RuntimeProcess(config, folder) as process:
        process.wait_ready()
        yield Served(process, config)
    assert process.survivors() == []


def test_an_adapter_changes_the_answer_and_strength_0_does_not(served: Served) -> None:
    assert served.models() == ["demo-phi-3", "noise", "off"]
    base = served.ask("demo-phi-3")
    assert base.startswith(START)
    assert served.ask("noise") != base
    assert served.ask("off") == base


def test_adapters_come_and_go_while_the_model_is_served(served: Served) -> None:
    engine = served.process.tree()
    folder = served.config.parent
    served.want(
        {"name": "other", "path": str(folder / "other")},
        {"name": "noise", "path": str(folder / "noise"), "strength": 0.0},
        {"name": "missing", "path": str(folder / "missing")},
    )
    eventually(lambda: "adapter noise is served (strength 0)" in served.process.log.read_text(), within=60, what="new")
    eventually(lambda: set(served.models()) == {"demo-phi-3", "other", "noise"}, within=60, what="the list")
    base = served.ask("demo-phi-3")
    assert base.startswith(START)
    assert served.ask("noise") == base
    assert served.ask("other") != base
    assert served.process.ask("POST", "/v1/chat/completions", {"model": "off", "messages": []})[0] in (400, 404)
    assert "The adapter missing is not there" in served.process.log.read_text()
    assert served.process.tree() == engine, "nothing was started anew"


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter/", "/v1/%6Coad_lora_adapter"])
def test_nobody_else_may_load_adapters(served: Served, path: str) -> None:
    body = {"lora_name": "mine", "lora_path": str(served.config.parent / "other")}
    assert served.process.request("POST", path, body)[0] == 404
    assert "mine" not in served.models()
