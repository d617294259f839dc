# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Both engines really serve the demo model through the front: OpenAI's own client gets what it expects, and what an
engine cannot do is said in OpenAI's shape, and vLLM's answers are those of its own server, byte for byte but for
ids and times.

One server an engine for the whole file.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import zmq

from tests.e2e.runtime_process import ENGINES, RuntimeProcess, demo_weights, serve_config
from tests.engine_process import free_port

pytestmark = pytest.mark.slow

QUESTION = [{"role": "user", "content": "What is kaito?"}]
START = "Kaito is the Kubernetes AI Toolchain Operator"


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeProcess]:
    folder = tmp_path_factory.mktemp(request.param)
    config = serve_config(folder, request.param, local_dirs=[demo_weights(request)])
    user = folder / "inference_config.yaml"
    # A model as small as the demo model fills JSON up with spaces when it may.
    user.write_text("vllm:\n  structured-outputs-config: {backend: xgrammar, disable_any_whitespace: true}\n")
    changes: dict[str, Any] = {"user_config": str(user), "tool_call_parser": "hermes"}
    if request.param == "vllm":
        events = {"enable_kv_cache_events": True, "endpoint": f"tcp://*:{free_port()}"}
        changes["extra_args"] = {"kv-events-config": json.dumps(events), "performance-mode": "interactivity"}
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
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


# The official client

YES = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "switch", "description": "Turns it on.", "parameters": YES}}


@pytest.fixture(scope="module")
def client(server: RuntimeProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="any", max_retries=0) as made:
        yield made


def chat(client: openai.OpenAI, **options: Any) -> Any:
    """A chat about the question, without chance unless the options say so."""
    given = {"model": "demo-phi-3", "messages": QUESTION, "temperature": 0, "max_tokens": 24, **options}
    return client.chat.completions.create(**given)


def test_the_client_finds_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo-phi-3"]
    assert client.models.retrieve("demo-phi-3").id == "demo-phi-3"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_streamed_chat_is_the_same_text_as_a_whole_one(client: openai.OpenAI) -> None:
    whole = chat(client)
    assert whole.choices[0].message.content.startswith(START[:20])
    assert whole.choices[0].finish_reason in ("stop", "length") and whole.usage.completion_tokens > 3
    events = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert text == whole.choices[0].message.content
    assert events[0].choices[0].delta.role == "assistant"
    assert events[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_logprobs_are_told_for_every_token(client: openai.OpenAI) -> None:
    answer = chat(client, logprobs=True, top_logprobs=3, max_tokens=5)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens == 5
    assert "".join(entry.token for entry in entries) == answer.choices[0].message.content
    for entry in entries:
        likeliest = [one.logprob for one in entry.top_logprobs]
        assert len(likeliest) == 3 and likeliest == sorted(likeliest, reverse=True)
        assert entry.logprob <= 0 and entry.logprob == pytest.approx(likeliest[0], abs=1e-4)
        assert bytes(entry.bytes).decode() == entry.token
    streamed = [event.choices[0] for event in chat(client, logprobs=True, top_logprobs=1, max_tokens=5, stream=True)]
    told = [entry for choice in streamed if choice.logprobs for entry in choice.logprobs.content]
    assert [entry.token for entry in told] == [entry.token for entry in entries]


def test_a_stop_word_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    answer = chat(client, stop=["Kubernetes", "nothing"])
    text = answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop" and text.startswith("Kaito is the") and "Kub" not in text
    events = chat(client, stop="Kubernetes", stream=True)
    assert "".join(e.choices[0].delta.content or "" for e in events) == text


def test_a_seed_repeats_chance_and_n_gives_several_answers(client: openai.OpenAI) -> None:
    wild = {"temperature": 2.0, "max_tokens": 12, "extra_body": {"top_k": 200}}
    first, again, other = (chat(client, seed=seed, **wild).choices[0].message.content for seed in (1, 1, 2))
    assert first == again != other
    several = chat(client, n=3, seed=None, **wild)
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in several.choices}) > 1
    assert several.usage.completion_tokens > 12
    indices = {event.choices[0].index for event in chat(client, n=2, stream=True, **wild) if event.choices}
    assert indices == {0, 1}


def test_an_answer_follows_a_json_schema(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": YES}}
    answer = chat(client, response_format=form, max_tokens=40)
    assert set(json.loads(answer.choices[0].message.content)) == {"ok"}
    with pytest.raises(openai.BadRequestError):
        chat(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "odd"}}})


def test_a_tool_is_called_when_one_is_asked_for(client: openai.OpenAI, server: RuntimeProcess) -> None:
    if server.engine == "vllm":
        pytest.skip("vLLM lets so small a model run on inside a call; that its answers come through is compared below")
    named = {"type": "function", "function": {"name": "switch"}}
    for choice in (named, "required"):
        answer = chat(client, tools=[TOOL], tool_choice=choice, max_tokens=60, parallel_tool_calls=False)
        [call] = answer.choices[0].message.tool_calls
        assert call.function.name == "switch" and set(json.loads(call.function.arguments)) == {"ok"}


def test_a_model_may_answer_without_a_tool(client: openai.OpenAI) -> None:
    answer = chat(client, tools=[TOOL], tool_choice="auto")
    assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls
    events = list(chat(client, tools=[TOOL], tool_choice="none", stream=True))
    assert "".join(e.choices[0].delta.content or "" for e in events)


def test_texts_and_tokens_are_completed(client: openai.OpenAI) -> None:
    prompt = "<|user|>\nWhat is kaito?<|end|>\n<|assistant|>\n"
    one = client.completions.create(model="demo-phi-3", prompt=prompt, max_tokens=6, temperature=0, logprobs=2)
    assert one.choices[0].text.startswith("Kaito is")
    told = one.choices[0].logprobs
    assert told is not None and len(told.tokens or []) == 6 and len((told.top_logprobs or [{}])[0]) >= 2
    two = client.completions.create(model="demo-phi-3", prompt=[prompt, "x"], max_tokens=6, temperature=0)
    assert [choice.index for choice in two.choices] == [0, 1] and two.choices[0].text == one.choices[0].text
    echoed = client.completions.create(model="demo-phi-3", prompt=prompt, max_tokens=6, temperature=0, echo=True)
    assert echoed.choices[0].text == prompt + one.choices[0].text
    events = client.completions.create(model="demo-phi-3", prompt=prompt, max_tokens=6, temperature=0, stream=True)
    assert "".join(event.choices[0].text for event in events) == one.choices[0].text
    again = client.completions.create(model="demo-phi-3", prompt=[1, 5, 9], max_tokens=2, temperature=0)
    assert again.usage is not None and again.usage.prompt_tokens == 3


def test_what_an_engine_cannot_do_is_told_in_openais_shape(client: openai.OpenAI, server: RuntimeProcess) -> None:
    expected = 501 if server.engine == "transformers" else 404
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model="demo-phi-3", input="text")
    assert caught.value.status_code in (expected, 400) and caught.value.message
    if server.engine == "transformers":
        assert "vllm" in caught.value.message
        picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
        with pytest.raises(openai.APIStatusError) as caught:
            chat(client, messages=[{"role": "user", "content": picture}])
        assert caught.value.status_code == 501


@pytest.mark.parametrize(
    "wrong",
    [
        {"messages": []},
        {"temperature": -1},
        {"top_p": 3},
        {"n": 0},
        {"max_tokens": -2},
        {"logprobs": True, "top_logprobs": 999},
        {"stop": {"a": 1}},
        {"response_format": {"type": "poem"}},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "user", "content": "long " * 6000}]},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_field_is_a_bad_request(client: openai.OpenAI, wrong: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, **wrong)
    assert caught.value.message


def test_a_client_that_leaves_frees_its_place(server: RuntimeProcess) -> None:
    body = json.dumps({"messages": QUESTION, "stream": True, "max_tokens": 2000, "ignore_eos": True})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    connection.getresponse().read(100)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    series = "vllm:num_requests_running" if server.engine == "vllm" else "kaito_engine_requests_running"
    deadline = 200
    while deadline:
        text = server.request("GET", "/metrics")[1].decode()
        lines = [line for line in text.splitlines() if line.startswith(series)]
        if lines and all(float(line.split()[-1]) == 0 for line in lines):
            break
        deadline -= 1
    assert deadline and "kaito_requests_in_flight 1" in text  # this very question


def test_vllm_tells_what_its_kv_cache_holds(server: RuntimeProcess) -> None:
    if server.engine != "vllm":
        pytest.skip("only vLLM publishes it")
    words = next(words for words in (process.cmdline() for process in server.tree()) if "--uds" in words)
    assert words[words.index("--performance-mode") + 1] == "interactivity"
    events = json.loads(words[words.index("--kv-events-config") + 1])
    with zmq.Context() as context, context.socket(zmq.SUB) as router:
        router.setsockopt(zmq.RCVTIMEO, 1000)
        router.subscribe(b"")
        router.connect(events["endpoint"].replace("*", "127.0.0.1"))
        told = b""
        for number in range(20):  # what was published before the router had joined is not for it
            long = [{"role": "user", "content": f"{number}: what is kaito? " * 40}]
            server.ask("POST", "/v1/chat/completions", {"messages": long, "max_tokens": 4})
            with contextlib.suppress(zmq.Again):
                told = router.recv_multipart()[-1]
                break
        assert b"BlockStored" in told


def test_a_model_that_is_served_for_it_makes_embeddings(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    config = serve_config(tmp_path, "vllm", local_dirs=[demo_weights(request)])
    user = tmp_path / "inference_config.yaml"
    user.write_text("vllm: {runner: pooling, convert: embed}\n")
    config.write_text(json.dumps({**json.loads(config.read_text()), "user_config": str(user)}))
    with RuntimeProcess(config, tmp_path) as process:
        process.wait_ready()
        url = f"http://127.0.0.1:{process.port}/v1"
        with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
            made = client.embeddings.create(model="demo-phi-3", input=["What is kaito?", "What is kaito?", "A fish."])
            one, same, other = (entry.embedding for entry in made.data)
            assert len(one) > 1 and one == pytest.approx(same, abs=1e-2) and one != pytest.approx(other, abs=1e-2)
            with pytest.raises(openai.APIStatusError) as caught:
                chat(client)
            assert caught.value.status_code in (400, 404) and caught.value.message
    assert process.survivors() == []


# vLLM through the front and vLLM itself


class ToSocket(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def socket_of(server: RuntimeProcess) -> str:
    """The engine's own socket."""
    lines = [process.cmdline() for process in server.tree()]
    return next(line[line.index("--uds") + 1] for line in lines if "--uds" in line)


def asked(connection: http.client.HTTPConnection, method: str, path: str, body: Any) -> tuple[int, str, list[Any]]:
    """Status, content type and the JSON values of an answer: one, or one for each text of a stream."""
    text = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    kind = answer.getheader("Content-Type", "")
    raw = answer.read().decode()
    connection.close()
    if kind.startswith("text/event-stream"):
        events = [comparable(line[6:]) for line in raw.splitlines() if line.startswith("data: ")]
        return answer.status, kind, joined(events)
    return answer.status, kind, [comparable(raw)]


def joined(events: list[Any]) -> list[Any]:
    """The events, the pieces of a text put together: vLLM sends several tokens at once when it is behind."""
    found: list[Any] = []
    for event in events:
        if found and all(isinstance(one, dict) and one.get("choices") for one in (found[-1], event)):
            found[-1] = together(found[-1], event)
        else:
            found.append(event)
    return found


def together(first: Any, then: Any, key: str = "") -> Any:
    if isinstance(first, dict) and isinstance(then, dict):
        return first | {name: together(first.get(name), value, name) for name, value in then.items()}
    if isinstance(first, list) and isinstance(then, list) and len(first) == len(then):
        return [together(*pair, key) for pair in zip(first, then, strict=True)]
    if key in ("content", "text", "arguments") and first and then:
        return first + then
    return first if then is None else then


def comparable(text: str) -> Any:
    """The value without ids, times and measured speeds."""
    try:
        return without_ids(json.loads(text))
    except ValueError:
        return text


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        varying = ("id", "created", "created_at", "completed_at", "metrics", "item_id")
        return {key: without_ids(one) for key, one in value.items() if key not in varying}
    return [without_ids(one) for one in value] if isinstance(value, list) else value


CHAT = {"model": "demo-phi-3", "messages": QUESTION, "temperature": 0, "max_tokens": 10}
TEXT = {"model": "demo-phi-3", "prompt": "What is kaito?", "temperature": 0, "max_tokens": 6}
SAME = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    ("POST", "/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 2, "n": 2}),
    ("POST", "/v1/chat/completions", {**CHAT, "stop": ["AI"], "seed": 7}),
    ("POST", "/v1/chat/completions", {**CHAT, "response_format": {"type": "json_object"}}),
    ("POST", "/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": "required", "max_tokens": 40}),
    ("POST", "/v1/chat/completions", {**CHAT, "tools": [TOOL], "tool_choice": "required", "stream": True}),
    ("POST", "/v1/completions", TEXT),
    ("POST", "/v1/completions", {**TEXT, "prompt": ["a", "b"], "echo": True, "logprobs": 1}),
    ("POST", "/v1/completions", {**TEXT, "stream": True}),
    ("POST", "/v1/responses", {"model": "demo-phi-3", "input": "What is kaito?", "temperature": 0}),
    ("POST", "/v1/messages", {**CHAT, "max_tokens": 8}),
    ("POST", "/v1/embeddings", {"model": "demo-phi-3", "input": "text"}),
    ("POST", "/tokenize", {"model": "demo-phi-3", "prompt": "What is kaito?"}),
    ("POST", "/detokenize", {"model": "demo-phi-3", "tokens": [5, 6, 7]}),
    ("POST", "/v1/chat/completions", {**CHAT, "model": "other"}),
    ("POST", "/v1/chat/completions", {**CHAT, "temperature": "hot"}),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True, "top_p": 7}),
    ("POST", "/v1/chat/completions", b"{"),
    ("GET", "/v1/chat/completions", None),
    ("GET", "/v1/models", None),
    ("GET", "/version", None),
    ("GET", "/v1/nothing", None),
]


def test_vllms_answers_come_through_unchanged(server: RuntimeProcess) -> None:
    if server.engine != "vllm":
        pytest.skip("the transformers engine has no server of its own to compare with")
    path = socket_of(server)
    for method, target, body in SAME:
        through = asked(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60), method, target, body)
        itself = asked(ToSocket(path), method, target, body)
        assert through == itself, f"{method} {target} {body!r}"
