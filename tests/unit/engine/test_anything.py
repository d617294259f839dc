# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever is thrown at the engine: no internal error, no lost write, and a watch that tells the exact state.

Sequences of valid and broken objects, patches and applies, by several managers, over built-in and custom kinds. Checked
after each step: a refusal is the fault of the client (4xx), an answered write is what a reader finds, a dry run and a
refusal change nothing. At the end a watch from the beginning must rebuild the list.
"""

from __future__ import annotations

import asyncio
import random
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.engine.wire.requests import Response
from kaito.engine.wire.status import StatusError
from kaito.kube.manifest import Manifest
from tests.unit.engine.api import PATCHES, Api, api

KUBERNETES_OWN: Final = ("failed to create typed patch object", "Timeout: Too large resource version", "strconv.Parse")
"""What Kubernetes, too, answers with 500 (an ill-typed apply, a version that is no number) and 504."""
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS: Final[Manifest] = {
    "metadata": {"name": "widgets.x.example.com"},
    "spec": {
        "group": "x.example.com",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"},
                },
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "x-kubernetes-validations": [{"rule": "!has(self.n) || self.n < 5"}],
                                "properties": {
                                    "n": {"type": "integer", "default": 1},
                                    "list": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "map",
                                        "x-kubernetes-list-map-keys": ["k"],
                                        "items": {
                                            "type": "object",
                                            "required": ["k"],
                                            "properties": {"k": {"type": "string"}, "v": {"type": "integer"}},
                                        },
                                    },
                                    "set": {
                                        "type": "array",
                                        "x-kubernetes-list-type": "set",
                                        "items": {"type": "string"},
                                    },
                                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                },
                            },
                            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                        },
                    }
                },
            }
        ],
    },
}
POD: Final[Manifest] = {
    "metadata": {"labels": {"app": "a"}},
    "spec": {
        "containers": [
            {"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 80}]}
        ]
    },
}
DEPLOYMENT: Final[Manifest] = {"selector": {"matchLabels": {"app": "a"}}, "replicas": 1, "template": POD}
BASES: Final[dict[str, Manifest]] = {
    "/api/v1/namespaces/default/configmaps": {"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"}},
    "/api/v1/namespaces/default/services": {
        "apiVersion": "v1",
        "kind": "Service",
        "spec": {"ports": [{"port": 80, "name": "http"}], "selector": {"app": "a"}},
    },
    "/apis/apps/v1/namespaces/default/deployments": {"apiVersion": "apps/v1", "kind": "Deployment", "spec": DEPLOYMENT},
    "/apis/batch/v1/namespaces/default/cronjobs": {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "spec": {
            "schedule": "* * * * *",
            "jobTemplate": {"spec": {"template": {"spec": {**POD["spec"], "restartPolicy": "Never"}}}},
        },
    },
    "/apis/x.example.com/v1/namespaces/default/widgets": {
        "apiVersion": "x.example.com/v1",
        "kind": "Widget",
        "spec": {"list": [{"k": "a", "v": 1}], "set": ["x"], "free": {"any": 1}},
    },
}
NAMES: Final = ("a", "b", "c")
BAD_NAMES: Final = ("", "A", "x" * 300, "é", "a b", "-a")
WORDS: Final = (
    *(
        "metadata",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "managedFields",
        "name",
        "namespace",
        "uid",
    ),
    *("resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "spec", "status", "data", "template"),
    *(
        "containers",
        "env",
        "ports",
        "selector",
        "replicas",
        "list",
        "set",
        "free",
        "k",
        "v",
        "n",
        "app",
        "0",
        "-",
        "kind",
    ),
    *("apiVersion", "$patch", "$retainKeys", "$setElementOrder/list", "~1", ""),
)
VERBS: Final = (
    *("create", "create", "update", "update", "merge", "strategic", "json", "apply", "apply", "apply", "delete"),
    *("collect", "list"),
)
QUERIES: Final = (
    *("", "", "", "", "dryRun=All", "fieldValidation=Strict", "fieldManager=two&force=true", "limit=1", "limit=x"),
    *("labelSelector=app%3Da", "labelSelector=!!", "fieldSelector=metadata.name%3Da", "fieldSelector=what%3Da"),
    *("continue=abc", "resourceVersion=1", "resourceVersion=99999", "propagationPolicy=Foreground"),
    *("propagationPolicy=Orphan", "propagationPolicy=Odd", "gracePeriodSeconds=-1", "fieldManager=" + "m" * 200),
)
SCALARS: Final = (
    *(None, True, False, 0, 1, -1, 2**63, -(2**65), 1.5, -7.5e262, 1e-300, "", "a", "x", "1", "\x01", "\U00060996è"),
    *("merge", "replace", "delete", "orphan", "example.com/f", "2026-01-01T00:00:00Z", "a" * 300),
)


@dataclass(frozen=True)
class Step:
    """One request, before the server's state fills it in."""

    verb: str
    path: str
    name: str
    changes: list[tuple[list[str], Any, bool]]
    body: Any
    query: str
    is_current: bool
    subresource: str


class Chance:
    """Draws steps; the same seed draws the same ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._pick = self._random.choice

    def step(self) -> Step:
        verb = self._pick(VERBS)
        return Step(
            verb,
            self._pick(tuple(BASES)),
            self._pick(BAD_NAMES) if self._random.random() < 0.1 else self._pick(NAMES),
            [(self._path(), self._value(2), self._random.random() < 0.3) for _ in range(self._random.randint(0, 2))],
            [self._operation() for _ in range(self._random.randint(0, 3))] if verb == "json" else self._value(4),
            self._pick(QUERIES),
            self._random.random() < 0.7,
            self._pick(("", "", "", "", "/status", "/scale", "/nothing")),
        )

    def _path(self) -> list[str]:
        return [self._pick(WORDS) for _ in range(self._random.randint(1, 4))]

    def _value(self, depth: int) -> Any:
        kind = self._random.random() if depth else 0.0
        if kind < 0.4:
            return self._pick(SCALARS)
        count = self._random.randint(0, 3)
        if kind < 0.6:
            return [self._value(depth - 1) for _ in range(count)]
        return {self._pick(WORDS): self._value(depth - 1) for _ in range(count)}

    def _operation(self) -> Any:
        found = {"op": self._pick(("add", "remove", "replace", "test", "move", "copy", "odd"))}
        optional = {
            "path": "/" + "/".join(self._path()),
            "from": "/" + "/".join(self._path()),
            "value": self._value(2),
        }
        return found | {name: value for name, value in optional.items() if self._random.random() < 0.8}


def changed(obj: Manifest, step: Step) -> Manifest:
    """The object with some values set or removed, wherever their paths lead."""
    found = deepcopy(obj)
    for path, value, is_removed in step.changes:
        holder: Any = found
        for part in path[:-1]:
            following = holder.get(part) if isinstance(holder, dict) else None
            holder = following if isinstance(following, dict) else holder
        if is_removed:
            holder.pop(path[-1], None)
        else:
            holder[path[-1]] = value
    return found


class Run:
    """A server, and what was said about its objects."""

    def __init__(self, server: Api) -> None:
        self.server = server
        self.start = server.store.revision

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Response | None:
        """The answer; None for a refusal, which must be the client's fault."""
        try:
            response = await self.server.ask(method, path, body, **headers)
        except StatusError as error:
            assert 400 <= error.code < 500 or str(error).startswith(KUBERNETES_OWN), (method, path, body, error)
            return None
        assert response.status < 500, (method, path, body, response.body)
        return response

    async def take(self, step: Step) -> None:
        """Carry out a step and check what it left."""
        before = self.server.store.revision
        response = await self._send(step)
        if response is None or "dryRun" in step.query:
            assert self.server.store.revision == before, step
        elif step.verb not in ("delete", "collect", "list") and not step.subresource:
            answered = msgspec.json.decode(response.body)
            meta = answered["metadata"]
            kept = await self.ask("GET", f"{step.path}/{meta['name']}")
            if kept is not None:
                assert msgspec.json.decode(kept.body) == answered, step
            else:
                assert meta.get("deletionTimestamp"), step  # the last finalizer went with this very write

    async def _send(self, step: Step) -> Response | None:
        at = f"{step.path}/{step.name}{step.subresource}?{step.query}"
        base = {**BASES[step.path], "metadata": {"name": step.name}}
        match step.verb:
            case "create":
                return await self.ask("POST", f"{step.path}?{step.query}", changed(base, step))
            case "update":
                stored = await self.ask("GET", f"{step.path}/{step.name}") if step.is_current else None
                found = msgspec.json.decode(stored.body) if stored else base
                return await self.ask("PUT", at, changed(found, step))
            case "merge" | "strategic":
                return await self.ask("PATCH", at, step.body, content_type=PATCHES[step.verb])
            case "json":
                return await self.ask("PATCH", at, step.body, content_type=PATCHES["json"])
            case "apply":
                where = at if "fieldManager" in step.query else f"{at}&fieldManager=one"
                return await self.ask("PATCH", where, changed(base, step), content_type=PATCHES["apply"])
            case "delete":
                return await self.ask("DELETE", at)
            case "collect":
                return await self.ask("DELETE", f"{step.path}?{step.query}")
            case _:
                return await self.ask("GET", f"{step.path}?{step.query}")

    async def check_watch(self, path: str) -> None:
        """A watch from the beginning rebuilds the list."""
        last = {**BASES[path], "metadata": {"name": "last"}}
        assert await self.ask("POST", path, last)
        listed = await self.ask("GET", path)
        assert listed is not None
        wanted = msgspec.json.decode(listed.body)
        response = await self.ask("GET", f"{path}?watch=true&resourceVersion={self.start}&timeoutSeconds=5")
        assert response is not None
        assert response.chunks is not None
        state: dict[str, Manifest] = {}
        async for chunk in response.chunks:
            for line in chunk.splitlines():
                event = msgspec.json.decode(line)
                name = event["object"]["metadata"]["name"]
                assert (name in state) is (event["type"] != "ADDED"), event
                state.pop(name, None)
                if event["type"] != "DELETED":
                    state[name] = event["object"]
            if "last" in state:
                break
        await response.chunks.aclose()  # type: ignore[attr-defined]
        plain = [{k: v for k, v in state[name].items() if k not in ("apiVersion", "kind")} for name in sorted(state)]
        assert [{k: v for k, v in item.items() if k not in ("apiVersion", "kind")} for item in wanted["items"]] == plain


async def run(seed: int, count: int) -> None:
    server = await api(ring_size=5000)
    await server.do("POST", CRDS, WIDGETS)
    while server.kinds.find("x.example.com", "v1", "widgets") is None:
        await asyncio.sleep(0.01)
    session = Run(server)
    chance = Chance(seed)
    for _ in range(count):
        await session.take(chance.step())
    for path in BASES:
        await session.check_watch(path)


@settings(max_examples=40, derandomize=True)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 60))
def test_whatever_is_thrown_at_it_nothing_breaks_and_nothing_is_lost(seed: int, count: int) -> None:
    asyncio.run(run(seed, count))
