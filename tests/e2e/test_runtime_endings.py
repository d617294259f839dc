# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How a model server ends: what it says, with which code, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.runtime_process import ENGINES, RuntimeProcess, demo_weights, serve_config

pytestmark = pytest.mark.slow
QUESTION = [{"role": "user", "content": "What is kaito?"}]


def engine_of(server: RuntimeProcess) -> int:
    """The engine's process: the child of the guard."""
    return next(int(process.pid) for process in server.tree() if "guard.py" not in " ".join(process.cmdline()))


def long_answer(server: RuntimeProcess, *, stream: bool) -> tuple[int, str]:
    """Status and text of an answer that is long under way."""
    body = {"messages": QUESTION, "stream": stream, "max_tokens": 2000, "ignore_eos": True}
    status, text = server.request("POST", "/v1/chat/completions", body)
    return status, text.decode()


def in_flight(server: RuntimeProcess) -> int:
    """The requests that are under way beside this very question."""
    lines = server.request("GET", "/metrics")[1].decode().splitlines()
    return next(int(float(line.split()[-1])) for line in lines if line.startswith("kaito_requests_in_flight ")) - 1


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_killed_under_load_ends_every_answer_and_the_pod_with_a_reason(
    request: pytest.FixtureRequest, tmp_path: Path, engine: str
) -> None:
    config = serve_config(tmp_path, engine, local_dirs=[demo_weights(request)])
    with RuntimeProcess(config, tmp_path) as server, ThreadPoolExecutor(6) as clients:
        server.wait_ready()
        answers = [clients.submit(long_answer, server, stream=number % 2 == 0) for number in range(6)]
        while in_flight(server) < len(answers):
            assert not any(answer.done() for answer in answers)
        os.kill(engine_of(server), signal.SIGKILL)
        for number, answer in enumerate(answers):
            status, text = answer.result(20)
            streamed = number % 2 == 0 and status == 200
            last = text.split("data: ")[-1] if streamed else text
            assert (status, json.loads(last)["error"]["code"]) == (200 if streamed else 502, 502), text[-300:]
        assert server.process.wait(20) == 1
        failure = json.loads(server.last_words.read_text())
        assert failure["reason"] == "ContainerOOMKilled"
        assert "SIGKILL" in failure["message"] and failure["next_step"]
        assert "Traceback" not in [line for line in server.log.read_text().splitlines() if line][-1]
    assert server.survivors() == []


def test_a_killed_front_takes_its_engine_along(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = serve_config(tmp_path, "transformers", local_dirs=[demo_weights(request)])
    with RuntimeProcess(config, tmp_path) as server:
        server.wait_ready()
        server.process.kill()
        assert server.survivors() == []


def test_a_killed_guard_takes_its_engine_along(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = serve_config(tmp_path, "transformers", local_dirs=[demo_weights(request)])
    with RuntimeProcess(config, tmp_path) as server:
        server.wait_ready()
        guard = next(process for process in server.tree() if "guard.py" in " ".join(process.cmdline()))
        guard.kill()
        assert server.process.wait(20) == 1
    assert server.survivors() == []


def test_a_stop_while_the_engine_starts_leaves_nothing(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = serve_config(tmp_path, "vllm", local_dirs=[demo_weights(request)])
    with RuntimeProcess(config, tmp_path) as server:
        time.sleep(1.5)
        server.tree()
        server.process.terminate()
        assert server.process.wait(15) == 0
    assert server.survivors() == []
    assert not server.last_words.exists()


def test_options_of_every_type_reach_vllm_and_a_killed_front_leaves_nothing(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = serve_config(tmp_path, "vllm", local_dirs=[demo_weights(request)])
    user = tmp_path / "inference_config.yaml"
    user.write_text(
        "vllm:\n"
        "  max-model-len: 1k\n"
        "  enable_prefix_caching: false\n"
        "  served-model-name: [first, second]\n"
        "  override-generation-config: {max_new_tokens: 3}\n"
        "  dtype: null\n"
        "  port: 1\n"
    )
    config.write_text(json.dumps({**json.loads(config.read_text()), "user_config": str(user)}))
    with RuntimeProcess(config, tmp_path) as server:
        server.wait_ready()
        _, models = server.ask("GET", "/v1/models")
        assert [entry["id"] for entry in models["data"]] == ["first", "second"]
        assert models["data"][0]["max_model_len"] in (1000, 1024)
        _, answer = server.ask("POST", "/v1/chat/completions", {"model": "second", "messages": QUESTION})
        assert answer["usage"]["completion_tokens"] == 3
        server.process.kill()
        assert server.survivors() == []
