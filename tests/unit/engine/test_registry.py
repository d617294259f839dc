# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Object semantics: what writes keep, refuse and count, through the verbs that clients use."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.engine.api import CONFIG_MAPS, PATCHES, Api, api, config_map

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
QUOTAS = "/api/v1/namespaces/default/resourcequotas"


def deployment(name: str = "d", **spec: Any) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {"metadata": {"name": name}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec}}


async def test_empty_maps_and_zero_values_are_not_stored() -> None:
    server = await api()
    made = await server.do("POST", CONFIG_MAPS, {"metadata": {"name": "a", "labels": {}}, "data": {}})
    assert "data" not in made
    assert "labels" not in made["metadata"]
    container = {"name": "c", "image": "i", "stdin": False, "env": [{"name": "E", "value": ""}], "command": []}
    pod = await server.do("POST", PODS, {"metadata": {"name": "p"}, "spec": {"containers": [container]}})
    found = pod["spec"]["containers"][0]
    assert found["env"] == [{"name": "E"}]
    assert not {"stdin", "command"} & found.keys()
    scaled = await server.do("POST", DEPLOYMENTS, deployment(replicas=0))
    assert scaled["spec"]["replicas"] == 0


async def test_times_are_stored_in_utc() -> None:
    server = await api()
    spec = {"renewTime": "2026-01-01T02:00:00.5+02:00"}
    path = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    made = await server.do("POST", path, {"metadata": {"name": "l"}, "spec": spec})
    assert made["spec"] == {"renewTime": "2026-01-01T00:00:00.500000Z"}


async def test_the_generation_counts_changes_of_what_is_wanted() -> None:
    server = await api()
    made = await server.do("POST", DEPLOYMENTS, deployment())
    labelled = await server.patch(f"{DEPLOYMENTS}/d", {"metadata": {"labels": {"x": "y"}}})
    scaled = await server.patch(f"{DEPLOYMENTS}/d", {"spec": {"replicas": 3}})
    assert [obj["metadata"]["generation"] for obj in (made, labelled, scaled)] == [1, 1, 2]


async def test_a_write_that_changes_nothing_is_not_stored() -> None:
    server = await api()
    made = await server.do("POST", CONFIG_MAPS, config_map("a", k="v"))
    again = await server.patch(f"{CONFIG_MAPS}/a", {"data": {"k": "v"}})
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_what_the_server_owns_cannot_be_changed() -> None:
    server = await api()
    made = await server.do("POST", CONFIG_MAPS, config_map("a"))
    wish = {"creationTimestamp": "2000-01-01T00:00:00Z", "generation": 7, "deletionTimestamp": "2000-01-01T00:00:00Z"}
    patched = await server.patch(f"{CONFIG_MAPS}/a", {"metadata": wish})
    assert patched["metadata"] == made["metadata"]


async def test_a_finalizer_holds_an_object_until_it_is_taken_off() -> None:
    server = await api()
    await server.do("POST", CONFIG_MAPS, {"metadata": {"name": "a", "finalizers": ["x.y/z"]}})
    marked = await server.do("DELETE", f"{CONFIG_MAPS}/a")
    assert marked["metadata"]["deletionTimestamp"]
    assert (await server.refused("POST", CONFIG_MAPS, config_map("a"))).code == 409
    await server.patch(f"{CONFIG_MAPS}/a", {"metadata": {"finalizers": None}})
    assert (await server.refused("GET", f"{CONFIG_MAPS}/a")).code == 404


async def test_dry_runs_answer_and_leave_no_trace() -> None:
    server = await api()
    before = server.store.revision
    made = await server.do("POST", f"{CONFIG_MAPS}?dryRun=All", config_map("a", k="v"))
    assert made["data"] == {"k": "v"}
    assert "resourceVersion" not in made["metadata"]
    assert server.store.revision == before


@pytest.mark.parametrize(
    ("kind", "body", "code", "text"),
    [
        ("merge", {"metadata": {"name": "b"}}, 400, "the name of the object (b) does not match the name on the URL"),
        ("merge", {"metadata": {"uid": "x"}}, 422, "metadata.uid: Invalid value"),
        ("merge", {"kind": "Secret"}, 422, 'no kind "Secret" is registered for version "v1"'),
        ("merge", {"metadata": {"resourceVersion": "1"}}, 409, "the object has been modified"),
        ("merge", {"data": "text"}, 422, "cannot unmarshal string into Go struct field ConfigMap.data"),
        ("merge", [1], 400, "cannot unmarshal array into Go value of type map"),
        ("json", [{"op": "test", "path": "/data/k", "value": "w"}], 422, "the server rejected our request"),
        ("json", {"op": "add"}, 400, "cannot unmarshal object into Go value of type []"),
        ("strategic", {"$patch": "wild"}, 400, 'Unknown patch type found: "wild"'),
    ],
)
async def test_patches_that_do_not_fit_are_refused(kind: str, body: Any, code: int, text: str) -> None:
    server = await api()
    await server.do("POST", CONFIG_MAPS, config_map("a", k="v"))
    kinds = {"json": "json-patch", "merge": "merge-patch", "strategic": "strategic-merge-patch"}
    content_type = f"application/{kinds[kind]}+json"
    error = await server.refused("PATCH", f"{CONFIG_MAPS}/a", body, content_type=content_type)
    assert error.code == code
    assert text in error.message


async def test_a_service_that_changes_its_type_loses_what_only_the_old_type_had() -> None:
    server = await api()
    spec = {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}], "clusterIP": "10.0.0.1"}
    await server.do("POST", SERVICES, {"metadata": {"name": "s"}, "spec": {**spec, "clusterIPs": ["10.0.0.1"]}})
    plain = (await server.patch(f"{SERVICES}/s", {"spec": {"type": "ClusterIP"}}))["spec"]
    assert "externalTrafficPolicy" not in plain
    assert "nodePort" not in plain["ports"][0]
    assert plain["clusterIP"] == "10.0.0.1"
    outside = await server.patch(f"{SERVICES}/s", {"spec": {"type": "ExternalName", "externalName": "a.b"}})
    assert "clusterIP" not in outside["spec"]


async def with_quota(**hard: str) -> Api:
    server = await api()
    names = {name.replace("_", "."): amount for name, amount in hard.items()}
    await server.do("POST", QUOTAS, {"metadata": {"name": "q"}, "spec": {"hard": names}})
    return server


async def test_a_quota_has_room_for_so_many() -> None:
    server = await with_quota(configmaps="1")
    await server.do("POST", CONFIG_MAPS, config_map("a"))
    error = await server.refused("POST", CONFIG_MAPS, config_map("b"))
    text = "exceeded quota: q, requested: configmaps=1, used: configmaps=1, limited: configmaps=1"
    assert (error.code, error.message) == (403, f'configmaps "b" is forbidden: {text}')
    await server.do("DELETE", f"{CONFIG_MAPS}/a")
    await server.do("POST", CONFIG_MAPS, config_map("b"))


async def test_a_quota_counts_what_pods_ask_for() -> None:
    server = await with_quota(requests_cpu="1")

    def pod(name: str, **requests: str) -> dict[str, Any]:
        container = {"name": "c", "image": "i", "resources": {"requests": requests}}
        return {"metadata": {"name": name}, "spec": {"containers": [container]}}

    assert "must specify requests.cpu for: c" in (await server.refused("POST", PODS, pod("none"))).message
    await server.do("POST", PODS, pod("a", cpu="600m"))
    error = await server.refused("POST", PODS, pod("b", cpu="500m"))
    assert "requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1" in error.message
    await server.do("POST", PODS, pod("c", cpu="400m"))


async def test_events_are_one_collection_in_two_groups() -> None:
    server = await api()
    about = {"kind": "Pod", "name": "p", "namespace": "default"}
    event = {"metadata": {"name": "e"}, "involvedObject": about, "reason": "R", "message": "m", "count": 2}
    await server.do("POST", "/api/v1/namespaces/default/events", event)
    found = await server.do("GET", "/apis/events.k8s.io/v1/namespaces/default/events/e")
    assert (found["regarding"], found["note"], found["deprecatedCount"]) == (about, "m", 2)
    assert found["apiVersion"] == "events.k8s.io/v1"


async def test_an_autoscaler_is_the_same_in_both_versions() -> None:
    server = await api()
    path = "/apis/autoscaling/{}/namespaces/default/horizontalpodautoscalers"
    target = {"kind": "Deployment", "name": "d"}
    spec = {"scaleTargetRef": target, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50}
    made = await server.do("POST", path.format("v1"), {"metadata": {"name": "h"}, "spec": spec})
    assert made["spec"] == {**spec, "minReplicas": 1}
    assert made["status"] == {"currentReplicas": 0, "desiredReplicas": 0}
    newer = await server.do("GET", path.format("v2") + "/h")
    assert newer["spec"]["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 50}
    await server.patch(path.format("v2") + "/h", {"spec": {"maxReplicas": 5}})
    assert newer["status"] == {"currentMetrics": None, "desiredReplicas": 0}
    made = await server.do(
        "POST", path.format("v2"), {"metadata": {"name": "i"}, "spec": {"scaleTargetRef": target, "maxReplicas": 3}}
    )
    assert made["status"] == {"currentMetrics": None, "desiredReplicas": 0}
    again = await server.do("GET", path.format("v1") + "/h")
    assert again["spec"] == {**spec, "minReplicas": 1, "maxReplicas": 5}


async def test_an_object_may_not_outgrow_what_a_cluster_stores() -> None:
    server = await api()
    large = deployment()
    large["spec"]["template"]["spec"]["containers"][0]["args"] = ["x" * 1000] * 1600
    refusal = await server.refused("POST", DEPLOYMENTS, large)
    assert (refusal.code, refusal.reason) == (413, "RequestEntityTooLarge")


async def test_a_patch_cannot_nest_deeper_and_deeper() -> None:
    server = await api()
    await server.do("POST", CONFIG_MAPS, config_map("a"))
    path = "/data" + "/a" * 100
    deep: Any = {}
    for _ in range(240):
        deep = {"a": deep}
    steps = [{"op": "add", "path": "/data", "value": deep}, {"op": "add", "path": path, "value": deep}]
    refusal = await server.refused("PATCH", f"{CONFIG_MAPS}/a", steps, content_type=PATCHES["json"])
    assert refusal.code == 400
