# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What admission adds to a request's own rights: no granting of what one does not hold, and LimitRanges."""

from __future__ import annotations

from typing import Any, Final

import pytest

from kaito.engine.objects.escalation import check_escalation
from kaito.engine.wire.requests import User
from kaito.engine.wire.status import StatusError
from kaito.kube.manifest import Manifest
from tests.unit.engine.api import Api, api

GROUP: Final = "rbac.authorization.k8s.io"
RBAC: Final = f"/apis/{GROUP}/v1"
PODS: Final = "/api/v1/namespaces/default/pods"
BOB: Final = User("bob", ("dev", "system:authenticated"))


def rule(verbs: list[str], resources: list[str], *groups: str, **more: Any) -> Manifest:
    return {"apiGroups": list(groups) or [""], "resources": resources, "verbs": verbs, **more}


async def server_with(*rules: Manifest) -> Api:
    """A server on which Bob has these rules in every namespace."""
    server = await api()
    await server.do("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "bobs"}, "rules": list(rules)})
    reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": "bobs"}
    subject = {"apiGroup": GROUP, "kind": "User", "name": "bob"}
    binding = {"metadata": {"name": "bobs"}, "roleRef": reference, "subjects": [subject]}
    await server.do("POST", f"{RBAC}/clusterrolebindings", binding)
    return server


def refusal(server: Api, plural: str, obj: Manifest, old: Manifest | None = None, user: User = BOB) -> str:
    kind = server.registry.kind(GROUP, plural)
    meta = {"name": "x", "namespace": "default"}
    try:
        check_escalation(server.registry, kind, {"metadata": meta, **obj}, old, user)
    except StatusError as error:
        return error.message
    return ""


@pytest.mark.parametrize(
    ("held", "wanted", "missing"),
    [
        (rule(["get", "list"], ["pods"]), rule(["get"], ["pods"]), ""),
        (rule(["*"], ["*"], "*"), rule(["get"], ["secrets"]), ""),
        (rule(["get"], ["*/log"]), rule(["get"], ["pods/log"]), ""),
        (rule(["get"], ["pods"], resourceNames=["a"]), rule(["get"], ["pods"], resourceNames=["a"]), ""),
        (
            rule(["get"], ["pods"], resourceNames=["a"]),
            rule(["get"], ["pods"]),
            '{APIGroups:[""], Resources:["pods"], Verbs:["get"]}',
        ),
        (
            rule(["get"], ["pods"]),
            rule(["get", "delete", "watch"], ["pods"], resourceNames=["a"]),
            '{APIGroups:[""], Resources:["pods"], ResourceNames:["a"], Verbs:["delete" "watch"]}',
        ),
        (
            rule(["get"], ["pods"]),
            {"nonResourceURLs": ["/metrics"], "verbs": ["get"]},
            '{NonResourceURLs:["/metrics"], Verbs:["get"]}',
        ),
    ],
)
async def test_a_role_may_hold_only_what_its_writer_holds(held: Manifest, wanted: Manifest, missing: str) -> None:
    server = await server_with(held)
    found = refusal(server, "roles", {"rules": [wanted]})
    text = 'user "bob" (groups=["dev" "system:authenticated"]) is attempting to grant RBAC permissions '
    expected = f"{text}not currently held:\n{missing}" if missing else ""
    assert found.partition("is forbidden: ")[2] == expected


async def test_who_may_escalate_or_is_a_master_grants_what_he_likes() -> None:
    server = await server_with(rule(["escalate"], ["roles"], GROUP))
    wanted = {"rules": [rule(["*"], ["*"], "*")]}
    assert refusal(server, "roles", wanted) == ""
    assert refusal(server, "clusterroles", wanted)
    assert refusal(server, "clusterroles", wanted, user=User("root", ("system:masters",))) == ""


async def test_a_role_whose_rules_stay_may_be_changed() -> None:
    server = await server_with(rule(["get"], ["pods"]))
    wanted = {"rules": [rule(["*"], ["*"], "*")]}
    assert refusal(server, "roles", wanted, old=wanted) == ""


async def test_a_binding_may_lead_only_to_what_its_writer_holds() -> None:
    server = await server_with(rule(["get"], ["pods"]), rule(["bind"], ["clusterroles"], GROUP, resourceNames=["free"]))
    await server.do("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "free"}, "rules": [rule(["*"], ["*"], "*")]})
    await server.do("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "all"}, "rules": [rule(["*"], ["*"], "*")]})
    for name, is_refused in (("bobs", False), ("free", False), ("all", True)):
        reference = {"apiGroup": GROUP, "kind": "ClusterRole", "name": name}
        assert bool(refusal(server, "rolebindings", {"roleRef": reference, "subjects": []})) is is_refused
    gone = {"apiGroup": GROUP, "kind": "Role", "name": "gone"}
    assert refusal(server, "rolebindings", {"roleRef": gone, "subjects": []}) == f'roles.{GROUP} "gone" not found'


def pod(name: str = "p", **resources: Any) -> Manifest:
    return {
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]},
    }


async def limited(**item: Any) -> Api:
    server = await api()
    spec = {"limits": [{"type": "Container", **item}]}
    await server.do("POST", "/api/v1/namespaces/default/limitranges", {"metadata": {"name": "l"}, "spec": spec})
    return server


async def test_a_container_that_asks_for_nothing_gets_the_defaults() -> None:
    server = await limited(default={"cpu": "200m"}, defaultRequest={"memory": "1Mi"})
    made = await server.do("POST", PODS, pod())
    assert made["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "200m"},
        "requests": {"cpu": "200m", "memory": "1Mi"},
    }
    assert made["metadata"]["annotations"]["kubernetes.io/limit-ranger"] == (
        "LimitRanger plugin set: cpu, memory request for container c; cpu limit for container c"
    )
    own = await server.do("POST", PODS, pod("own", limits={"cpu": "1", "memory": "2Mi"}))
    assert own["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1", "memory": "2Mi"}


@pytest.mark.parametrize(
    ("item", "resources", "report"),
    [
        ({"max": {"cpu": "1"}}, {"limits": {"cpu": "2"}}, "maximum cpu usage per Container is 1, but limit is 2"),
        ({"min": {"cpu": "1"}}, {"requests": {"cpu": "1m"}}, "minimum cpu usage per Container is 1, but request is 1m"),
        (
            {"maxLimitRequestRatio": {"cpu": "2"}},
            {"requests": {"cpu": "1"}, "limits": {"cpu": "4"}},
            "cpu max limit to request ratio per Container is 2, but provided ratio is 4.000000",
        ),
    ],
)
async def test_what_a_limit_range_forbids_is_refused(item: Manifest, resources: Manifest, report: str) -> None:
    server = await limited(**item)
    refused = await server.refused("POST", PODS, pod(**resources))
    assert (refused.code, refused.message) == (403, f'pods "p" is forbidden: {report}')
