# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Both engines really serve the demo model through the front: the same requests, the same shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.runtime_process import ENGINES, RuntimeProcess, demo_weights, serve_config

pytestmark = pytest.mark.slow

QUESTION = [{"role": "user", "content": "What is kaito?"}]
START = "Kaito is the Kubernetes AI Toolchain Operator"


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeProcess]:
    folder = tmp_path_factory.mktemp(request.param)
    config = serve_config(folder, request.param, local_dirs=[demo_weights(request)])
    with RuntimeProcess(config, folder) as process:
        status, body = process.request("GET", "/health")
        assert status == 503 and json.loads(body)["phase"]
        status, body = process.request("GET", "/metrics")
        assert status == 200 and b"kaito_engine_ready" in body
        seconds = process.wait_ready()
        print(f"{request.param}: ready after {seconds:.1f} s")
        yield process
    assert process.survivors() == []


def test_the_model_list_holds_the_served_name(server: RuntimeProcess) -> None:
    status, answer = server.ask("GET", "/v1/models")
    assert status == 200
    assert [entry["id"] for entry in answer["data"]] == ["demo-phi-3"]


@pytest.mark.parametrize("named", [{}, {"model": "demo-phi-3"}])
def test_a_chat_is_answered(server: RuntimeProcess, named: dict[str, str]) -> None:
    status, answer = server.ask("POST", "/v1/chat/completions", {**named, "messages": QUESTION, "temperature": 0})
    assert status == 200
    assert answer["model"] == "demo-phi-3"
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"].startswith(START)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] > 5


def test_a_chat_streams_and_ends_with_done(server: RuntimeProcess) -> None:
    events = server.events("/v1/chat/completions", {"messages": QUESTION, "stream": True, "max_tokens": 8})
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["model"] == "demo-phi-3" for chunk in chunks)
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert START.startswith(text) or text.startswith(START)
    assert len(chunks) > 4
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert not any(chunk.get("usage") for chunk in chunks)


def test_a_stream_gives_its_usage_when_asked_for(server: RuntimeProcess) -> None:
    body = {"messages": QUESTION, "stream": True, "max_tokens": 3, "stream_options": {"include_usage": True}}
    events = server.events("/v1/chat/completions", body)
    last = json.loads(events[-2])
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 3


def test_a_text_is_completed(server: RuntimeProcess) -> None:
    body = {"model": "demo-phi-3", "prompt": "<|user|>\nWhat is kaito?<|end|>\n<|assistant|>\n", "max_tokens": 12}
    status, answer = server.ask("POST", "/v1/completions", body)
    assert status == 200
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"].startswith("Kaito is the")
    events = server.events("/v1/completions", {**body, "stream": True})
    assert events[-1] == "[DONE]"
    assert "".join(json.loads(e)["choices"][0]["text"] for e in events[:-1]).startswith("Kaito is the")


def test_stop_words_and_limits_hold(server: RuntimeProcess) -> None:
    body = {"messages": QUESTION, "stop": ["AI"], "temperature": 0}
    _, answer = server.ask("POST", "/v1/chat/completions", body)
    assert "Operator" not in answer["choices"][0]["message"]["content"]
    _, answer = server.ask("POST", "/v1/chat/completions", {"messages": QUESTION, "max_completion_tokens": 4})
    assert answer["usage"]["completion_tokens"] == 4
    assert answer["choices"][0]["finish_reason"] == "length"


def test_an_unknown_model_is_a_404_in_openai_shape(server: RuntimeProcess) -> None:
    status, answer = server.ask("POST", "/v1/chat/completions", {"model": "other", "messages": QUESTION})
    assert status == 404
    assert answer["error"]["code"] == 404 and "other" in answer["error"]["message"]


def test_a_wrong_body_is_a_400(server: RuntimeProcess) -> None:
    for body in ({"messages": "text"}, {"model": "demo-phi-3"}):
        status, answer = server.ask("POST", "/v1/chat/completions", body)
        assert status == 400
        assert answer["error"]["message"]


def test_old_clients_are_answered(server: RuntimeProcess) -> None:
    status, answer = server.ask("POST", "/chat", {"prompt": "What is kaito?"}, content_type=None)
    assert status == 200 and answer["Result"].startswith(f"What is kaito?\n{START}")
    short = {"prompt": "What is kaito?", "return_full_text": False, "generate_kwargs": {"max_length": 100}}
    _, answer = server.ask("POST", "/chat", short)
    assert answer["Result"].startswith(START)
    _, answer = server.ask("POST", "/chat", {"messages": QUESTION})
    assert answer["Result"].startswith(START)
    old = {"input_data": {"input_string": [QUESTION]}, "parameters": {"max_gen_len": 30, "top_p": 0.9}}
    _, answer = server.ask("POST", "/chat", old)
    assert answer["results"][0][0]["content"].startswith(START)
    status, answer = server.ask("POST", "/chat", {"text": "?"})
    assert status == 400 and "prompt" in answer["detail"]


def test_health_and_metrics_tell_about_the_engine(server: RuntimeProcess) -> None:
    assert server.request("GET", "/health")[0] == 200
    assert server.request("GET", "/healthz")[0] == 200
    text = server.request("GET", "/metrics")[1].decode()
    assert f'kaito_engine_ready{{engine="{server.engine}"}} 1' in text
    assert 'kaito_requests_total{method="GET",path="/v1/models",status="200"}' in text
    assert ("vllm:num_requests_running" in text) == (server.engine == "vllm")
