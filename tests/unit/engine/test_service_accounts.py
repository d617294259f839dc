# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a new pod gets from its ServiceAccount."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from kaito.engine.objects.admission import Admission
from kaito.engine.objects.serviceaccounts import MOUNT_PATH, VOLUME_PREFIX, without_token
from kaito.engine.objects.webhooks import Webhooks
from kaito.kube.manifest import Manifest
from tests.unit.engine.api import Api, api

PODS = "/api/v1/namespaces/default/pods"
ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"


async def server() -> Api:
    made = await api()
    webhooks = Webhooks(made.registry, made.webhook)  # type: ignore[arg-type]
    made.registry.admission = Admission(made.registry, webhooks, gives_tokens=True)
    return made


def pod(container: Manifest | None = None, **spec: Any) -> Manifest:
    containers = [{"name": "c", "image": "i", **(container or {})}]
    return {"metadata": {"name": "p"}, "spec": {"containers": containers, **spec}}


def tokens(made: Manifest) -> list[Manifest]:
    return [v for v in made["spec"].get("volumes") or [] if v["name"].startswith(VOLUME_PREFIX)]


async def test_a_pod_is_given_its_token_its_authority_and_its_namespace() -> None:
    made = await (await server()).do("POST", PODS, pod(initContainers=[{"name": "i", "image": "i"}]))
    [volume] = tokens(made)
    kinds = [next(iter(source)) for source in volume["projected"]["sources"]]
    assert kinds == ["serviceAccountToken", "configMap", "downwardAPI"]
    for part in ("initContainers", "containers"):
        [mount] = made["spec"][part][0]["volumeMounts"]
        assert (mount["name"], mount["mountPath"], mount["readOnly"]) == (volume["name"], MOUNT_PATH, True)
    assert made["spec"]["serviceAccountName"] == made["spec"]["serviceAccount"] == "default"


@pytest.mark.parametrize(
    ("account", "wish", "has_token"),
    [(None, None, True), (None, False, False), (False, None, False), (False, True, True), (True, False, False)],
)
async def test_the_pods_wish_comes_before_its_accounts(
    account: bool | None, wish: bool | None, has_token: bool
) -> None:
    running = await server()
    body: Manifest = {"metadata": {"name": "own"}}
    await running.do("POST", ACCOUNTS, body if account is None else {**body, "automountServiceAccountToken": account})
    spec: Manifest = {} if wish is None else {"automountServiceAccountToken": wish}
    made = await running.do("POST", PODS, pod(serviceAccountName="own", **spec))
    assert bool(tokens(made)) is has_token


async def test_something_else_at_the_tokens_place_stays() -> None:
    mine = {"volumeMounts": [{"name": "mine", "mountPath": MOUNT_PATH}]}
    made = await (await server()).do("POST", PODS, pod(mine, volumes=[{"name": "mine", "emptyDir": {}}]))
    assert not tokens(made)


async def test_a_volume_of_the_tokens_name_is_taken_as_the_token() -> None:
    known = {"name": f"{VOLUME_PREFIX}known", "emptyDir": {}}
    made = await (await server()).do("POST", PODS, pod(volumes=[known]))
    assert [v["name"] for v in made["spec"]["volumes"]] == [known["name"]]
    assert made["spec"]["containers"][0]["volumeMounts"][0]["name"] == known["name"]


async def test_pull_secrets_come_from_the_account_unless_the_pod_has_its_own() -> None:
    running = await server()
    await running.do("POST", ACCOUNTS, {"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "a"}]})
    assert (await running.do("POST", PODS, pod()))["spec"]["imagePullSecrets"] == [{"name": "a"}]
    own = pod(imagePullSecrets=[{"name": "b"}])
    own["metadata"]["name"] = "q"
    assert (await running.do("POST", PODS, own))["spec"]["imagePullSecrets"] == [{"name": "b"}]


async def test_an_account_that_is_not_there_is_told() -> None:
    refused = await (await server()).refused("POST", PODS, pod(serviceAccountName="none"))
    assert refused.code == 403
    assert 'error looking up service account default/none: serviceaccount "none" not found' in refused.message


async def test_without_its_token_a_pod_has_the_volumes_and_mounts_that_it_asked_for() -> None:
    mine = {"name": "mine", "mountPath": "/mine"}
    made = await (await server()).do(
        "POST", PODS, pod({"volumeMounts": [mine]}, volumes=[{"name": "mine", "emptyDir": {}}])
    )
    before = deepcopy(made)
    left = without_token(made)
    assert tokens(made) and made == before
    assert left["spec"]["volumes"] == [{"name": "mine", "emptyDir": {}}]
    assert left["spec"]["containers"][0]["volumeMounts"] == [mine]
    assert left["metadata"] == made["metadata"]


async def test_a_pod_without_a_token_is_left_as_it_is() -> None:
    made = await (await server()).do("POST", PODS, pod(automountServiceAccountToken=False))
    assert without_token(made) is made
