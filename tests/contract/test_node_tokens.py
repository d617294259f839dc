# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Pods that talk to the API with the token they are given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.node_cluster import NodeCluster, cluster, shell

FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
HERE = "https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"
ASK = (
    f'curl -s --noproxy "*" --cacert {FOLDER}/ca.crt -H "Authorization: Bearer $(cat {FOLDER}/token)" '
    f"{HERE}/api/v1/namespaces/$(cat {FOLDER}/namespace)/configmaps/kube-root-ca.crt"
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeCluster]:
    with cluster(tmp_path_factory.mktemp("tokens")) as running:
        yield running


def test_a_pod_reads_what_its_account_may_read(node: NodeCluster) -> None:
    node.kubectl("create", "namespace", "team")
    node.kubectl("-n", "team", "create", "serviceaccount", "reader")
    node.kubectl("-n", "team", "create", "role", "reader", "--verb=get", "--resource=configmaps")
    node.kubectl("-n", "team", "create", "rolebinding", "reader", "--role=reader", "--serviceaccount=team:reader")
    for account in ("reader", "default"):
        asking = shell(account, ASK, restartPolicy="Never", serviceAccountName=account)
        asking["metadata"]["namespace"] = "team"
        node.apply(asking)
        node.kubectl("-n", "team", "wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{account}")
    assert '"name":"kube-root-ca.crt"' in node.kubectl("-n", "team", "logs", "reader").stdout
    refusal = node.kubectl("-n", "team", "logs", "default").stdout
    assert 'User \\"system:serviceaccount:team:default\\" cannot get resource \\"configmaps\\"' in refusal


def test_the_token_names_its_pod_and_ends_with_it(node: NodeCluster) -> None:
    node.apply(shell("holder", f"cat {FOLDER}/token; exec sleep 600"))
    node.ready("holder")
    token = node.kubectl("logs", "holder").stdout
    who = node.kubectl("auth", "whoami", f"--token={token}").stdout
    assert "system:serviceaccount:default:default" in who
    assert node.get("pod", "holder")["metadata"]["uid"] in who
    node.kubectl("delete", "pod", "holder", "--now")
    gone = node.kubectl("get", "pods", f"--token={token}", check=False)
    assert "Unauthorized" in gone.stderr


def test_a_pod_without_a_token_is_told_where_the_api_is_all_the_same(node: NodeCluster) -> None:
    script = f"echo $KUBERNETES_SERVICE_PORT; ls {FOLDER}"
    node.apply(shell("bare", script, restartPolicy="Never", automountServiceAccountToken=False))
    node.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/bare")
    assert node.kubectl("logs", "bare").stdout.startswith(f"{node.port}\n")


def test_a_token_is_bound_only_to_what_is_there(node: NodeCluster) -> None:
    node.kubectl("create", "serviceaccount", "other")
    node.apply(shell("bound", "exec sleep 600"))
    pod = ("--bound-object-kind=Pod", "--bound-object-name=bound")
    assert node.kubectl("create", "token", "default", *pod).stdout.startswith("ey")
    refused = node.kubectl("create", "token", "other", *pod, check=False).stderr
    assert "to pod running with different serviceaccount name" in refused
    refused = node.kubectl("create", "token", "default", *pod[:1], "--bound-object-name=none", check=False).stderr
    assert 'pods "none" not found' in refused
    refused = node.kubectl("create", "token", "default", *pod, "--bound-object-uid=1", check=False).stderr
    assert "does not match the UID in record" in refused
