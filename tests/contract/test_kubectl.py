# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The kubectl binary against a real engine process: what people type, and what they must see."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from tests.contract.conftest import ApiServer

KUBECTL = shutil.which("kubectl")
pytestmark = pytest.mark.skipif(KUBECTL is None, reason="there is no kubectl here")

Kubectl = list[str]


@pytest.fixture
def engine(api_server: ApiServer) -> ApiServer:
    return api_server


def kubectl(engine: ApiServer, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """One kubectl run with a home of its own, so that nothing is cached between tests and users."""
    assert KUBECTL is not None
    environment = {"PATH": os.environ["PATH"], "HOME": str(engine.folder), "KUBECONFIG": str(engine.kubeconfig)}
    argv = [KUBECTL, *arguments]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, env=environment, timeout=60, check=False)


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("create deployment web --image=app:1 --replicas=0 --port=80", "deployment.apps/web created"),
        ("expose deployment web --port=80 --target-port=http", "service/web exposed"),
        ("autoscale deployment web --min=1 --max=3 --cpu-percent=50", "horizontalpodautoscaler.autoscaling/web"),
        ("create quota q --hard=cpu=1,pods=9,secrets=20", "resourcequota/q created"),
        ("create poddisruptionbudget b --selector=app=web --min-available=50%", "poddisruptionbudget.policy/b created"),
        ("create priorityclass p --value=-5 --description=x", "priorityclass.scheduling.k8s.io/p created"),
        ("create ingress i --rule=a.b/c*=web:http,tls=s --class=nginx", "ingress.networking.k8s.io/i created"),
        ("create job j --image=app:1 -- run", "job.batch/j created"),
        ("create cronjob c --image=app:1 --schedule=0_0_*_*_*", "cronjob.batch/c created"),
        ("create role r --verb=get --resource=pods,deployments.apps", "role.rbac.authorization.k8s.io/r created"),
        ("create clusterrole cr --aggregation-rule=a=b", "clusterrole.rbac.authorization.k8s.io/cr created"),
        ("create rolebinding rb --role=r --serviceaccount=default:x", "rolebinding.rbac.authorization.k8s.io/rb"),
        ("create secret docker-registry d --docker-username=u --docker-password=p", "secret/d created"),
        ("create service nodeport n --tcp=80:http --node-port=30099", "service/n created"),
        ("create service externalname e --external-name=a.b", "service/e created"),
        ("create token default --duration=1h", "ey"),
        ("run p --image=app:1 --env=A=b --labels=x=y", "forbidden: failed quota: q: must specify cpu for: p"),
        ("auth can-i create pods", "yes"),
    ],
)
def test_what_kubectl_makes_without_a_file(engine: ApiServer, command: str, answer: str) -> None:
    done = kubectl(engine, *(part.replace("_", " ") for part in command.split()))
    assert answer in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "texts"),
    [
        ("pod.spec.containers", ["KIND:       Pod", "FIELD: containers <[]Container>", "image\t<string>"]),
        ("deployment.spec.strategy.type", ["GROUP:      apps", "FIELD: type <string>", "Recreate"]),
        ("widgets.spec", ["GROUP:      example.com", "FIELD: spec <Object>", "How wide it is."]),
    ],
)
def test_kubectl_explains_kinds(engine: ApiServer, path: str, texts: list[str]) -> None:
    kubectl(engine, "apply", "-f", "-", stdin=WIDGETS)
    kubectl(engine, "wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s")
    done = kubectl(engine, "explain", path)
    assert not done.stderr
    assert [text for text in texts if text not in done.stdout] == []


def test_an_applied_widget_is_shown_with_its_columns(engine: ApiServer) -> None:
    kubectl(engine, "apply", "-f", "-", stdin=WIDGETS)
    kubectl(engine, "wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s")
    widget = json.dumps(
        {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"width": 3}}
    )
    assert kubectl(engine, "apply", "-f", "-", stdin=widget).stdout == "widget.example.com/w created\n"
    assert kubectl(engine, "apply", "-f", "-", stdin=widget).stdout == "widget.example.com/w unchanged\n"
    head, row = kubectl(engine, "get", "wd").stdout.splitlines()
    assert (head.split(), row.split()[:2]) == (["NAME", "WIDTH"], ["w", "3"])
    wrong = kubectl(engine, "apply", "-f", "-", stdin=widget.replace("3", '"many"'))
    assert "spec.width: Invalid value" in wrong.stderr


def test_an_unknown_kind_is_told_as_one(engine: ApiServer) -> None:
    manifest = json.dumps({"apiVersion": "none.example.com/v1", "kind": "No", "metadata": {"name": "x"}})
    done = kubectl(engine, "apply", "-f", "-", stdin=manifest)
    assert 'no matches for kind "No" in version "none.example.com/v1"' in done.stderr


WIDGETS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns:
    - {name: Width, type: integer, jsonPath: .spec.width}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              width: {type: integer, description: How wide it is.}
"""
