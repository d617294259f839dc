# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' own kinds: their published schemas, by apiVersion and kind.

The schemas come with the package `kubernetes-validate` (generated from Kubernetes' OpenAPI document, Apache-2.0). They
are read once, on first use. `decode.py` checks manifests against them; `openapi.py` publishes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

from kaito.engine.schema.shape import Shape
from kaito.kube.manifest import Manifest

RELEASE: Final = "v1.36.0"
_PREFIX: Final = "#/$defs/"
OBJECT_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_DELETE_OPTIONS: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"

_POD: Final[Manifest] = {"metadata": {}, "spec": {"containers": None}}
_WORKLOAD: Final[Manifest] = {"selector": None, "template": _POD}
# What an empty object of the kind holds: the struct fields that Kubernetes' Go types always write.
_ZERO: Final[Mapping[str, Manifest]] = {
    "Pod": {"spec": {"containers": None}, "status": {}},
    "PodTemplate": {"template": _POD},
    "ReplicationController": {"spec": {}, "status": {"replicas": 0}},
    "Deployment": {"spec": {**_WORKLOAD, "strategy": {}}, "status": {}},
    "ReplicaSet": {"spec": {"selector": None}, "status": {"replicas": 0}},
    "StatefulSet": {
        "spec": {**_WORKLOAD, "updateStrategy": {}},
        "status": {"replicas": 0, "availableReplicas": 0},
    },
    "DaemonSet": {
        "spec": {**_WORKLOAD, "updateStrategy": {}},
        "status": {"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0},
    },
    "ControllerRevision": {"revision": 0},
    "Job": {"spec": {"template": _POD}, "status": {}},
    "CronJob": {"spec": {"schedule": "", "jobTemplate": {"metadata": {}, "spec": {"template": _POD}}}, "status": {}},
    "Service": {"spec": {}, "status": {"loadBalancer": {}}},
    "Node": {"spec": {}, "status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": 0}}, "nodeInfo": {}}},
    "Namespace": {"spec": {}, "status": {}},
    "PersistentVolume": {"spec": {}, "status": {}},
    "PersistentVolumeClaim": {"spec": {"resources": {}}, "status": {}},
    "Event": {"involvedObject": {}, "source": {}, "reportingComponent": "", "reportingInstance": ""},
    "Lease": {"spec": {}},
    "EndpointSlice": {"endpoints": None, "ports": None, "addressType": ""},
    "Ingress": {"spec": {}, "status": {"loadBalancer": {}}},
    "NetworkPolicy": {"spec": {}},
    "PodDisruptionBudget": {
        "spec": {},
        "status": {"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0},
    },
    "ResourceQuota": {"spec": {}, "status": {}},
    "LimitRange": {"spec": {"limits": None}},
    "Role": {"rules": None},
    "ClusterRole": {"rules": None},
    "RoleBinding": {"roleRef": {"apiGroup": "", "kind": "", "name": ""}},
    "ClusterRoleBinding": {"roleRef": {"apiGroup": "", "kind": "", "name": ""}},
    "StorageClass": {"provisioner": ""},
    "HorizontalPodAutoscaler": {
        "spec": {"scaleTargetRef": {"kind": "", "name": ""}, "maxReplicas": 0},
        "status": {"currentMetrics": None, "desiredReplicas": 0},
    },
    "CustomResourceDefinition": {
        "spec": {"group": "", "names": {"plural": "", "kind": ""}, "scope": "", "versions": None},
        "status": {"conditions": None, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": None},
    },
    "PriorityClass": {"value": 0},
    "Scale": {"spec": {}, "status": {"replicas": 0}},
}


@cache
def definitions() -> Mapping[str, Manifest]:
    """All published schemas by definition name, e.g. `io.k8s.api.core.v1.Pod`."""
    # Found without importing the package: its validator, which is not used here, takes longer to load than the schemas.
    spec = find_spec("kubernetes_validate")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "kubernetes-json-schema" / f"{RELEASE}-local"
    document = msgspec.json.decode((folder / "_definitions.json").read_bytes())
    found: dict[str, Manifest] = document["$defs"]
    return found


@cache
def _names() -> Mapping[tuple[str, str], str]:
    found = {}
    for name, schema in definitions().items():
        kinds = schema.get("x-kubernetes-group-version-kind") or []
        if len(kinds) == 1:
            kind = kinds[0]
            version = f"{kind['group']}/{kind['version']}" if kind["group"] else kind["version"]
            found[version, kind["kind"]] = name
    return found


def knows(api_version: str, kind: str) -> bool:
    """Whether the kind is one of Kubernetes' own."""
    return (api_version, kind) in _names()


def definition_name(api_version: str, kind: str) -> str:
    """The name of the kind's definition. Raises KeyError for a kind that is not built in."""
    return _names()[api_version, kind]


def resolve(ref: str) -> Manifest:
    """The schema that a `$ref` of the published schemas names."""
    return definitions()[ref.removeprefix(_PREFIX)]


def field_description(definition: str, field: str) -> str:
    """What the published schemas say about a field; nothing for one that they do not have."""
    schema = definitions().get(definition) or {}
    return str(((schema.get("properties") or {}).get(field) or {}).get("description", ""))


@cache
def shape_of(api_version: str, kind: str) -> Shape:
    """The kind's shape. Raises KeyError for a kind that is not built in."""
    return Shape({"$ref": _PREFIX + definition_name(api_version, kind)}, resolve)


def posted_shape(api_version: str, kind: str) -> Shape:
    """The shape of any body of Kubernetes' own, options included. Raises KeyError for a kind that is not built in."""
    if kind == "DeleteOptions":  # one kind that every group has
        return Shape({"$ref": _PREFIX + _DELETE_OPTIONS}, resolve)
    return shape_of(api_version, kind)


@cache
def object_meta() -> Shape:
    """The shape of `metadata`, the same for every kind."""
    return Shape({"$ref": _PREFIX + OBJECT_META}, resolve)


def zero(kind: str) -> Manifest:
    """What an empty object of the kind holds; nothing for a custom kind (see `apply.track_update`)."""
    return {"metadata": {}, **deepcopy(_ZERO.get(kind, {}))}
