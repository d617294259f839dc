# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The engine's API without HTTP, in memory: requests as values in, answers out. Nothing in it is a stand-in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from kaito.engine.kinds import Kinds
from kaito.engine.objects.admission import Admission
from kaito.engine.objects.definitions import Definitions
from kaito.engine.objects.deletion import Deletion
from kaito.engine.objects.registry import Registry
from kaito.engine.objects.resources import Resources
from kaito.engine.objects.strategy import Strategies
from kaito.engine.objects.webhookcall import CallFailed
from kaito.engine.objects.webhooks import Webhooks
from kaito.engine.storage.events import MemoryJournal
from kaito.engine.storage.store import Store
from kaito.engine.wire.context import SYSTEM_USER
from kaito.engine.wire.requests import Request, Response, parse_query, parse_target
from kaito.engine.wire.status import StatusError
from kaito.kube.clock import RealClock
from kaito.kube.manifest import Manifest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PATCHES = {
    "merge": "application/merge-patch+json",
    "json": "application/json-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class Webhook:
    """The other end of webhook calls: answers with what the test wants, by webhook name."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.reviews: list[tuple[str, Manifest]] = []

    async def call(self, spec: Manifest, review: Manifest) -> Manifest:
        self.reviews.append((spec["name"], review["request"]))
        answer = self.answers.get(spec["name"], {"allowed": True})
        if isinstance(answer, Exception):
            raise CallFailed(str(answer))
        answer = answer(review["request"]) if callable(answer) else answer
        return {"uid": review["request"]["uid"], **answer}


class Api:
    """One server with an empty store and the namespace `default`."""

    def __init__(self, *, ring_size: int = 1000) -> None:
        self.store = Store(MemoryJournal(), ring_size=ring_size)
        self.kinds = Kinds()
        self.registry = Registry(self.store, self.kinds, Strategies(self.kinds))
        self.webhook = Webhook()
        self.registry.admission = Admission(self.registry, Webhooks(self.registry, self.webhook))  # type: ignore[arg-type]
        deletion = Deletion(self.registry)
        Definitions(self.registry, deletion, RealClock())
        self.resources = Resources(self.registry, deletion, RealClock())
        self.last = Request("GET", "/", {}, [])

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Response:
        """The answer to a request. Raises StatusError for a refusal."""
        bare, _, query = path.partition("?")
        encoded = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        self.last = Request(method, bare, parse_query(query.encode()), pairs, encoded, SYSTEM_USER)
        target = parse_target(bare)
        assert target is not None, path
        kind = self.kinds.find(target.group, target.version, target.plural)
        assert kind is not None, path
        return await self.resources.handle(self.last, target, kind)

    async def do(self, method: str, path: str, body: Any = None, **headers: str) -> Manifest:
        """The object in the answer."""
        return dict(msgspec.json.decode((await self.ask(method, path, body, **headers)).body))

    async def patch(self, path: str, body: Any, kind: str = "merge", **headers: str) -> Manifest:
        return await self.do("PATCH", path, body, content_type=PATCHES[kind], **headers)

    async def refused(self, method: str, path: str, body: Any = None, **headers: str) -> StatusError:
        """The refusal of a request that must not succeed."""
        try:
            response = await self.ask(method, path, body, **headers)
        except StatusError as error:
            return error
        raise AssertionError(f"{method} {path} was answered {response.status}")


async def api(*, ring_size: int = 1000) -> Api:
    made = Api(ring_size=ring_size)
    await made.do("POST", "/api/v1/namespaces", {"metadata": {"name": "default"}})
    return made


CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


def config_map(name: str, **data: str) -> Manifest:
    return {"metadata": {"name": name}, "data": data}
