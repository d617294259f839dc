# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Objects over real HTTP against a real engine process: verbs, watches, restarts."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from kaito.kube.client import Client
from kaito.kube.config import load_kubeconfig
from kaito.kube.errors import AlreadyExists, Conflict, Gone, Invalid, NotFound
from kaito.kube.manifest import Manifest
from kaito.kube.resource import CONFIG_MAPS, NAMESPACES, SERVICES
from tests.contract.conftest import ApiServer
from tests.engine_process import EngineProcess


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineProcess]:
    with EngineProcess(tmp_path, "--no-node", "--no-controllers") as process:
        yield process


def config_map(name: str, namespace: str = "default", **data: str) -> Manifest:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


async def test_an_object_lives_through_its_verbs(api_server: ApiServer) -> None:
    namespace = api_server.namespace
    async with Client(load_kubeconfig(api_server.kubeconfig)) as client:
        made = await client.create(CONFIG_MAPS, config_map("a", namespace, k="v"))
        with pytest.raises(AlreadyExists):
            await client.create(CONFIG_MAPS, config_map("a", namespace))
        patched = await client.patch(CONFIG_MAPS, "a", namespace, {"data": {"k": "w"}})
        assert patched["data"] == {"k": "w"}
        with pytest.raises(Conflict):
            await client.replace(CONFIG_MAPS, {**made, "data": {"k": "late"}})
        with pytest.raises(Invalid):
            await client.create(CONFIG_MAPS, config_map("Not_Valid", namespace))
        await client.delete(CONFIG_MAPS, "a", namespace)
        with pytest.raises(NotFound):
            await client.get(CONFIG_MAPS, "a", namespace)


async def test_a_service_gets_an_address_of_its_own(engine: EngineProcess) -> None:
    async with Client(load_kubeconfig(engine.kubeconfig)) as client:
        found = []
        for name in ("a", "b"):
            meta = {"name": name, "namespace": "default"}
            spec = {"ports": [{"port": 80}]}
            manifest = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}
            found.append((await client.create(SERVICES, manifest, namespace="default"))["spec"]["clusterIP"])
        assert len(set(found)) == 2
        assert all(IPv4Address(address) in IPv4Network("127.96.0.0/11") for address in found)


async def test_a_killed_engine_forgets_nothing_but_old_watches(engine: EngineProcess) -> None:
    async with Client(load_kubeconfig(engine.kubeconfig)) as client:
        first = await client.create(CONFIG_MAPS, config_map("a"), namespace="default")
        for number in range(20):
            await client.create(CONFIG_MAPS, config_map(f"cm-{number}"), namespace="default")
    engine.kill()
    engine.start()
    async with Client(load_kubeconfig(engine.kubeconfig)) as client:
        items, version = await client.list_objects(CONFIG_MAPS, "default")
        assert len([item for item in items if item["metadata"]["name"].startswith("cm-")]) == 20
        assert int(version) > int(first["metadata"]["resourceVersion"])
        with pytest.raises(Gone):
            async for _ in client.watch(CONFIG_MAPS, "default", resource_version=first["metadata"]["resourceVersion"]):
                break
        namespaces, _ = await client.list_objects(NAMESPACES)
        assert {"default", "kube-system"} <= {item["metadata"]["name"] for item in namespaces}
