# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Facts from a hub, over HTTP from a small server that answers as Hugging Face's does, in its bad moods too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from typer.testing import CliRunner

from kaito.catalog.hub import Answer, Hub, HubError, retry_after_s, web_fetch, weight_files
from kaito.cli.failure import UserError
from kaito.cli.main import application

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
FILES = {
    "README.md": 1000,
    "model-00001-of-00002.safetensors": 5 * 1024**3,
    "model-00002-of-00002.safetensors": 3 * 1024**3,
    "original/consolidated.00.pth": 8 * 1024**3,
    "onnx/model.safetensors": 8 * 1024**3,
    "pytorch_model.bin": 8 * 1024**3,
}


@dataclass
class FakeHub:
    """Repositories, and how it feels."""

    url: str = ""
    elsewhere: str = ""
    """Where files are redirected to; empty answers itself."""
    repositories: dict[str, dict[str, str]] = field(default_factory=dict)
    """The text of each file by repository."""
    sizes: dict[str, int] = field(default_factory=lambda: dict(FILES))
    renamed: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    commit: str = COMMIT
    etag: str = 'W/"one"'
    busy: dict[str, str] | None = None
    status: int = 200
    unchanged: int = 0
    """How often it said that nothing is new."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """Host, path and token of each request."""

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append((request.host, request.path, request.headers.get("Authorization", "")))
        if self.busy is not None:
            return web.Response(status=429, headers=self.busy)
        if self.status != 200:
            return web.Response(status=self.status)
        parts = request.path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self.about(request, "/".join(parts[2:4]), parts[5])
        return self.file(request, "/".join(parts[:2]), "/".join(parts[4:]))

    def about(self, request: web.Request, id_: str, revision: str) -> web.Response:
        if id_ in self.renamed:
            target = f"/api/models/{self.renamed[id_]}/revision/{revision}?blobs=true"
            return web.Response(status=307, headers={"Location": target})
        if id_ not in self.repositories:
            return web.Response(status=401, headers={"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", self.commit):
            return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        if request.headers.get("If-None-Match") == self.etag:
            self.unchanged += 1
            return web.Response(status=304, headers={"ETag": self.etag})
        body = {
            "id": id_,
            "sha": self.commit,
            "gated": "manual" if id_ in self.gated else False,
            "pipeline_tag": "text-generation",
            "cardData": {"license": "apache-2.0"},
            "siblings": [{"rfilename": name, "size": size} for name, size in self.sizes.items()],
        }
        return web.json_response(body, headers={"ETag": self.etag})

    def file(self, request: web.Request, id_: str, name: str) -> web.Response:
        if id_ in self.gated and "Bearer good" not in request.headers.get("Authorization", ""):
            return web.Response(status=401, headers={"X-Error-Code": "GatedRepo"})
        if name not in self.repositories.get(id_, {}):
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        if self.elsewhere and request.host in self.url:
            return web.Response(status=302, headers={"Location": f"{self.elsewhere}{request.path}"})
        return web.Response(text=self.repositories[id_][name])


@asynccontextmanager
async def served(hub: FakeHub) -> AsyncIterator[str]:
    """The hub on a loopback address; yields its URL."""
    app = web.Application()
    app.router.add_get("/{path:.*}", hub.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def fake() -> AsyncIterator[FakeHub]:
    hub = FakeHub(repositories={"org/model": {"config.json": json.dumps(CONFIG)}})
    async with served(hub) as url:
        hub.url = url
        yield hub


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def hub_of(fake: FakeHub, session: aiohttp.ClientSession, **more: object) -> Hub:
    return Hub(web_fetch(session, 5.0), fake.url, **more)  # type: ignore[arg-type]


async def test_a_model_is_sized_by_its_own_files_and_pinned_to_a_commit(
    fake: FakeHub, session: aiohttp.ClientSession
) -> None:
    facts = await hub_of(fake, session).facts("org/model")
    assert (facts.id, facts.revision, facts.weights_gib) == ("org/model", COMMIT, 8)
    assert (facts.license, facts.pipeline, facts.architecture) == ("apache-2.0", "text-generation", "LlamaForCausalLM")
    assert facts.shape is not None
    assert facts.shape.kv_heads == 8
    assert [path for _, path, _ in fake.asked] == [
        "/api/models/org/model/revision/main",
        f"/org/model/resolve/{COMMIT}/config.json",
    ]


async def test_a_renamed_repository_is_followed(fake: FakeHub, session: aiohttp.ClientSession) -> None:
    fake.renamed["old/name"] = "org/model"
    facts = await hub_of(fake, session).facts("old/name")
    assert (facts.id, facts.weights_gib) == ("old/name", 8)


async def test_the_token_stays_with_the_hub_when_files_come_from_elsewhere(
    fake: FakeHub, session: aiohttp.ClientSession
) -> None:
    async with served(fake) as elsewhere:
        fake.elsewhere = elsewhere
        await hub_of(fake, session, token="good").facts("org/model")
    tokens = {host: token for host, _, token in fake.asked}
    assert tokens == {fake.url.removeprefix("http://"): "Bearer good", elsewhere.removeprefix("http://"): ""}


async def test_a_gated_model_says_what_to_do(fake: FakeHub, session: aiohttp.ClientSession) -> None:
    fake.gated.add("org/model")
    with pytest.raises(HubError, match="org/model is gated: give a token") as without:
        await hub_of(fake, session).facts("org/model")
    with pytest.raises(HubError, match="accept its terms on the hub with the token's account") as refused:
        await hub_of(fake, session, token="other").facts("org/model")
    assert (without.value.why, refused.value.why) == ("gated", "gated")
    assert (await hub_of(fake, session, token="good").facts("org/model")).gated


async def test_a_model_that_is_not_there_is_missing(fake: FakeHub, session: aiohttp.ClientSession) -> None:
    with pytest.raises(HubError, match="no model org/other: it does not exist, or it is private") as raised:
        await hub_of(fake, session).facts("org/other")
    assert raised.value.why == "missing"
    with pytest.raises(HubError):
        await hub_of(fake, session).facts("org/model", revision="v2")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({"Retry-After": "7"}, 7), ({"RateLimit": '"api";r=0;t=55'}, 55), ({}, 60), ({"Retry-After": "soon"}, 60)],
)
async def test_a_busy_hub_says_for_how_long(
    fake: FakeHub, session: aiohttp.ClientSession, headers: dict[str, str], seconds: float
) -> None:
    fake.busy = headers
    with pytest.raises(HubError) as raised:
        await hub_of(fake, session).facts("org/model")
    assert (raised.value.why, raised.value.retry_after_s) == ("busy", seconds)


async def test_what_is_remembered_is_not_asked_again(
    fake: FakeHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    hub = hub_of(fake, session, cache=tmp_path / "facts")
    first = await hub.facts("org/model")
    asked = len(fake.asked)
    assert await hub.facts("org/model") == first
    assert await hub.facts("Org/Model") == first
    assert len(fake.asked) == asked
    offline = hub_of(fake, session, cache=tmp_path / "facts", offline=True)
    assert await offline.facts("org/model") == first
    with pytest.raises(HubError, match="nothing is known of org/other"):
        await offline.facts("org/other")


async def test_a_newer_commit_is_found_with_one_conditional_question(
    fake: FakeHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    hub = hub_of(fake, session, cache=tmp_path)
    first = await hub.refreshed("org/model")
    asked = len(fake.asked)
    assert await hub.refreshed("org/model") == first
    assert (len(fake.asked), fake.unchanged) == (asked + 1, 1)
    fake.commit, fake.etag = "f" * 40, 'W/"two"'
    assert (await hub.refreshed("org/model")).revision == "f" * 40
    assert (await hub.facts("org/model")).revision == "f" * 40


async def test_a_hub_that_is_away_leaves_what_is_remembered(
    fake: FakeHub, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    hub = hub_of(fake, session, cache=tmp_path)
    first = await hub.facts("org/model")
    fake.status = 500
    assert await hub.refreshed("org/model") == first
    with pytest.raises(HubError, match="answers with status 500") as raised:
        await hub_of(fake, session).facts("org/model")
    assert raised.value.why == "unreachable"
    nobody = Hub(web_fetch(session, 5.0), "http://127.0.0.1:9")
    with pytest.raises(HubError, match="does not answer") as silent:
        await nobody.facts("org/model")
    assert silent.value.why == "unreachable"


@pytest.mark.parametrize("text", ["{", "[]", '{"facts": {"weights_gib": "many"}}', ""])
async def test_a_broken_memory_is_asked_anew(
    fake: FakeHub, session: aiohttp.ClientSession, tmp_path: Path, text: str
) -> None:
    hub = hub_of(fake, session, cache=tmp_path)
    await hub.facts("org/model")
    (tmp_path / "org--model.json").write_text(text)
    assert (await hub.facts("org/model")).weights_gib == 8


async def test_mistrals_own_format_and_numbers_that_json_does_not_know(
    fake: FakeHub, session: aiohttp.ClientSession
) -> None:
    params = '{"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "limit": Infinity, "max_seq_len": 32768}'
    fake.repositories["mistral/model"] = {"params.json": params}
    fake.sizes = {"consolidated.safetensors": 1024**3, "model.safetensors": 1024**3}
    facts = await hub_of(fake, session).facts("mistral/model")
    assert (facts.format, facts.weights_gib, facts.token_limit) == ("mistral", 1, 32768)


@pytest.mark.parametrize(
    ("files", "sizes", "said"),
    [
        ({}, FILES, "neither config.json nor params.json"),
        ({"config.json": "{}"}, FILES, "cannot be sized: the configuration does not say hidden_size"),
        ({"config.json": json.dumps(CONFIG)}, {"README.md": 1}, "holds no weights"),
        ({"config.json": "<html>"}, FILES, "is not JSON"),
    ],
)
async def test_a_repository_without_a_model_is_unusable(
    fake: FakeHub, session: aiohttp.ClientSession, files: dict[str, str], sizes: dict[str, int], said: str
) -> None:
    fake.repositories["org/model"], fake.sizes = files, sizes
    with pytest.raises(HubError, match=said) as raised:
        await hub_of(fake, session).facts("org/model")
    assert raised.value.why == "unusable"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://[", "ftp://elsewhere/x"])
async def test_a_redirect_to_what_is_no_web_address_is_not_followed(
    fake: FakeHub, session: aiohttp.ClientSession, target: str
) -> None:
    async def sent_away(url: str, headers: Mapping[str, str]) -> Answer:
        return Answer(302, {"location": target}, b"")

    with pytest.raises(HubError, match="which is no web address"):
        await Hub(sent_away, fake.url).facts("org/model")


async def test_redirects_end(fake: FakeHub, session: aiohttp.ClientSession) -> None:
    fake.renamed["org/model"] = "org/model"
    with pytest.raises(HubError, match="redirects in a circle"):
        await hub_of(fake, session).facts("org/model")


async def test_the_command_line_asks_the_hub_that_the_environment_names(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{fake.url}/")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake.gated.add("org/model")
    words = ["models", "size", "org/model", "--gpu", "L4", "-o", "json"]
    refused = await asyncio.to_thread(CliRunner().invoke, application(), words)
    assert isinstance(refused.exception, UserError)
    assert "HF_TOKEN" in refused.exception.next_step
    monkeypatch.setenv("HF_TOKEN", "good")
    answered = await asyncio.to_thread(CliRunner().invoke, application(), words)
    assert json.loads(answered.stdout)["fit"]["fits"]
    # and again without a network, from what was remembered
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(fake.asked)
    assert (await asyncio.to_thread(CliRunner().invoke, application(), words)).stdout == answered.stdout
    assert len(fake.asked) == asked


def test_which_files_are_the_weights() -> None:
    assert weight_files({"a.safetensors": 1, "adapter_model.safetensors": 1}) == (["a.safetensors"], "hf")
    assert weight_files({"pytorch_model-1.bin": 1, "training_args.bin": 1}) == (["pytorch_model-1.bin"], "hf")
    assert weight_files({"consolidated-1.safetensors": 1, "model.safetensors": 1})[1] == "mistral"


def test_how_long_to_wait_is_bounded() -> None:
    assert retry_after_s({"retry-after": "86400"}) == 3600
    assert retry_after_s({"retry-after": "0"}) == 1
    assert retry_after_s({"retry-after": "nan"}) == 60
