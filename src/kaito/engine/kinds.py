# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which kinds the engine serves: the built-in ones as a table, custom ones as values made from their definitions.

A `Kind` says what discovery says of it and where its objects are stored; nothing about behaviour.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kaito.engine.schema.conversion import SHARED_COLLECTIONS, STORED_AS
from kaito.kube.manifest import Manifest

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
SCALE = ("autoscaling", "v1", "Scale")


@dataclass(frozen=True)
class Kind:
    """One kind in one served version. What follows from its fields is asked several times a request: found out once."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    singular: str = ""
    list_kind: str = ""
    definition: Manifest | None = field(default=None, compare=False, repr=False)
    """For a custom kind: its CustomResourceDefinition as stored."""
    schema: Any = field(default=None, compare=False, repr=False)
    """For a custom kind: what `kaito.engine.schema.structural` made of the version's schema."""

    @cached_property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @cached_property
    def qualified(self) -> str:
        """`plural.group`, as messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @cached_property
    def collection(self) -> str:
        """Where the objects are stored, whatever the version."""
        place = f"{self.group}/{self.plural}"
        return SHARED_COLLECTIONS.get(place, place)

    @cached_property
    def is_converted(self) -> bool:
        """Whether what is stored is another version of this built-in kind."""
        return (self.api_version, self.kind) in STORED_AS

    @property
    def list_kind_name(self) -> str:
        return self.list_kind or self.kind + "List"

    @property
    def singular_name(self) -> str:
        return self.singular or self.kind.lower()

    @cached_property
    def version_spec(self) -> Manifest:
        """For a custom kind: this version's entry of the definition."""
        assert self.definition is not None
        versions: list[Manifest] = self.definition["spec"]["versions"]
        return next(entry for entry in versions if entry["name"] == self.version)

    @cached_property
    def is_custom(self) -> bool:
        return self.definition is not None


def _kinds(api_version: str, *rows: tuple[Any, ...]) -> tuple[Kind, ...]:
    group, _, version = api_version.rpartition("/")
    return tuple(Kind(group, version, *row) for row in rows)


_POD_PARTS = (
    "attach",
    "binding",
    "ephemeralcontainers",
    "eviction",
    "exec",
    "log",
    "portforward",
    "proxy",
    "resize",
    "status",
)

BUILT_IN: tuple[Kind, ...] = (
    *_kinds(
        "v1",
        ("configmaps", "ConfigMap", True, ("cm",)),
        ("endpoints", "Endpoints", True, ("ep",)),
        ("events", "Event", True, ("ev",)),
        ("limitranges", "LimitRange", True, ("limits",)),
        (
            "namespaces",
            "Namespace",
            False,
            ("ns",),
            (),
            ("finalize", "status"),
            tuple(v for v in ALL_VERBS if v != "deletecollection"),
        ),
        ("nodes", "Node", False, ("no",), (), ("status",)),
        ("persistentvolumeclaims", "PersistentVolumeClaim", True, ("pvc",), (), ("status",)),
        ("persistentvolumes", "PersistentVolume", False, ("pv",), (), ("status",)),
        ("pods", "Pod", True, ("po",), ("all",), _POD_PARTS),
        ("podtemplates", "PodTemplate", True),
        ("replicationcontrollers", "ReplicationController", True, ("rc",), ("all",), ("scale", "status")),
        ("resourcequotas", "ResourceQuota", True, ("quota",), (), ("status",)),
        ("secrets", "Secret", True),
        ("serviceaccounts", "ServiceAccount", True, ("sa",), (), ("token",)),
        ("services", "Service", True, ("svc",), ("all",), ("proxy", "status")),
    ),
    *_kinds(
        "apiregistration.k8s.io/v1",
        ("apiservices", "APIService", False, (), ("api-extensions",), ("status",)),
    ),
    *_kinds(
        "apps/v1",
        ("controllerrevisions", "ControllerRevision"),
        ("daemonsets", "DaemonSet", True, ("ds",), ("all",), ("status",)),
        ("deployments", "Deployment", True, ("deploy",), ("all",), ("scale", "status")),
        ("replicasets", "ReplicaSet", True, ("rs",), ("all",), ("scale", "status")),
        ("statefulsets", "StatefulSet", True, ("sts",), ("all",), ("scale", "status")),
    ),
    *_kinds("events.k8s.io/v1", ("events", "Event", True, ("ev",))),
    *_kinds(
        "autoscaling/v2",
        ("horizontalpodautoscalers", "HorizontalPodAutoscaler", True, ("hpa",), ("all",), ("status",)),
    ),
    *_kinds(
        "autoscaling/v1",
        ("horizontalpodautoscalers", "HorizontalPodAutoscaler", True, ("hpa",), ("all",), ("status",)),
    ),
    *_kinds(
        "batch/v1",
        ("cronjobs", "CronJob", True, ("cj",), ("all",), ("status",)),
        ("jobs", "Job", True, (), ("all",), ("status",)),
    ),
    *_kinds(
        "networking.k8s.io/v1",
        ("ingressclasses", "IngressClass", False),
        ("ingresses", "Ingress", True, ("ing",), (), ("status",)),
        ("networkpolicies", "NetworkPolicy", True, ("netpol",)),
    ),
    *_kinds("policy/v1", ("poddisruptionbudgets", "PodDisruptionBudget", True, ("pdb",), (), ("status",))),
    *_kinds(
        "rbac.authorization.k8s.io/v1",
        ("clusterrolebindings", "ClusterRoleBinding", False),
        ("clusterroles", "ClusterRole", False),
        ("rolebindings", "RoleBinding"),
        ("roles", "Role"),
    ),
    *_kinds(
        "storage.k8s.io/v1",
        ("csidrivers", "CSIDriver", False),
        ("csinodes", "CSINode", False),
        ("storageclasses", "StorageClass", False, ("sc",)),
        ("volumeattachments", "VolumeAttachment", False, (), (), ("status",)),
    ),
    *_kinds(
        "admissionregistration.k8s.io/v1",
        ("mutatingwebhookconfigurations", "MutatingWebhookConfiguration", False, (), ("api-extensions",)),
        ("validatingwebhookconfigurations", "ValidatingWebhookConfiguration", False, (), ("api-extensions",)),
    ),
    *_kinds(
        "apiextensions.k8s.io/v1",
        (
            "customresourcedefinitions",
            "CustomResourceDefinition",
            False,
            ("crd", "crds"),
            ("api-extensions",),
            ("status",),
        ),
    ),
    *_kinds("scheduling.k8s.io/v1", ("priorityclasses", "PriorityClass", False, ("pc",))),
    *_kinds("coordination.k8s.io/v1", ("leases", "Lease")),
    *_kinds("node.k8s.io/v1", ("runtimeclasses", "RuntimeClass", False)),
    *_kinds("discovery.k8s.io/v1", ("endpointslices", "EndpointSlice")),
)

REVIEWS: tuple[Kind, ...] = tuple(
    Kind(group, version, plural, kind, namespaced, verbs=("create",))
    for group, version, plural, kind, namespaced in (
        ("", "v1", "bindings", "Binding", True),
        ("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", False),
        ("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", False),
        ("authorization.k8s.io", "v1", "localsubjectaccessreviews", "LocalSubjectAccessReview", True),
        ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False),
        ("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", False),
        ("authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", False),
    )
)
"""Kinds that are only posted and answered, never stored."""

METRICS_GROUP = "metrics.k8s.io"
METRICS: tuple[Kind, ...] = (
    Kind(METRICS_GROUP, "v1beta1", "nodes", "NodeMetrics", False, verbs=("get", "list")),
    Kind(METRICS_GROUP, "v1beta1", "pods", "PodMetrics", verbs=("get", "list")),
)
"""Kinds that are measured, never stored; served where a node runs."""

DEPRECATED: dict[tuple[str, str], str] = {
    ("v1", "ComponentStatus"): "v1 ComponentStatus is deprecated in v1.19+",
    ("v1", "Endpoints"): "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
}
"""What users of built-in kinds that are going out of use are warned with."""

SUBRESOURCE_KINDS: dict[str, tuple[str, str, str]] = {
    "scale": SCALE,
    "eviction": ("policy", "v1", "Eviction"),
    "token": ("authentication.k8s.io", "v1", "TokenRequest"),
    "binding": ("", "", "Binding"),
    "exec": ("", "", "PodExecOptions"),
    "attach": ("", "", "PodAttachOptions"),
    "portforward": ("", "", "PodPortForwardOptions"),
}
"""The kind that a subresource speaks, where it is not the object's own; `proxy` differs by owner."""

SUBRESOURCE_VERBS: dict[str, tuple[str, ...]] = {
    "log": ("get",),
    "binding": ("create",),
    "eviction": ("create",),
    "token": ("create",),
    "finalize": ("update",),
    "exec": ("create", "get"),
    "attach": ("create", "get"),
    "portforward": ("create", "get"),
    "proxy": ("create", "delete", "get", "patch", "update"),
}
"""What can be done with a subresource where it is not get, patch, update."""

STANDARD_SUBRESOURCE_VERBS = ("get", "patch", "update")


class Kinds:
    """The served kinds, looked up by URL parts or by apiVersion and kind. Custom kinds come and go."""

    def __init__(self, built_in: tuple[Kind, ...] = BUILT_IN + REVIEWS) -> None:
        self._built_in = built_in
        self._custom: dict[str, tuple[Kind, ...]] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self.generation = 0
        """Moves with every change, for those who cache documents made from the kinds."""
        self._by_path: dict[tuple[str, str, str], Kind] = {}
        self._by_kind: dict[tuple[str, str], Kind] = {}
        self._index()

    def _index(self) -> None:
        self.generation += 1
        self._by_path = {(k.group, k.version, k.plural): k for k in self.all()}
        self._by_kind = {(k.api_version, k.kind): k for k in reversed(self.all())}

    def all(self) -> list[Kind]:
        """Every served kind and version: built-in ones first, then custom ones by definition name and order."""
        custom = [kind for name in sorted(self._custom) for kind in self._custom[name]]
        return [*self._built_in, *custom]

    def stored(self) -> list[Kind]:
        """One kind for each collection that can be listed: of a custom one the version that is stored, if it is served,
        so that nothing has to be converted for those who read them all."""
        seen: dict[str, Kind] = {}
        for kind in self.all():
            if "list" in kind.verbs and kind.group != METRICS_GROUP and kind.api_version != "events.k8s.io/v1":
                first = seen.setdefault(kind.collection, kind)
                if first is not kind and kind.is_custom and kind.version_spec.get("storage"):
                    seen[kind.collection] = kind
        return list(seen.values())

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        return self._by_path.get((group, version, plural))

    def named(self, api_version: str, kind: str) -> Kind | None:
        return self._by_kind.get((api_version, kind))

    def groups(self) -> dict[str, list[str]]:
        """Served groups and their versions, preferred version first."""
        groups: dict[str, list[str]] = {}
        for kind in self.all():
            versions = groups.setdefault(kind.group, [])
            if kind.version not in versions:
                versions.append(kind.version)
        custom_groups = {kind.group for kinds in self._custom.values() for kind in kinds}
        return {
            group: sorted(versions, key=version_priority) if group in custom_groups else versions
            for group, versions in groups.items()
        }

    def serve(self, definition_name: str, kinds: tuple[Kind, ...]) -> None:
        """Serve these kinds for a definition in place of what it had before; none means not at all."""
        if kinds:
            self._custom[definition_name] = kinds
        else:
            self._custom.pop(definition_name, None)
        self._index()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self) -> None:
        """Return after the next change of the served kinds."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def custom(self, definition_name: str) -> tuple[Kind, ...]:
        return self._custom.get(definition_name, ())


def version_priority(version: str) -> tuple[int, int, int, str]:
    """Kubernetes' order of versions: v10, v2, v1, v11beta2, v3beta1, v12alpha1, then others by name."""
    digits = version[1:]
    for rank, mark in ((1, "beta"), (2, "alpha")):
        major, found, minor = digits.partition(mark)
        if found and version.startswith("v") and major.isdigit() and minor.isdigit():
            return (rank, -int(major), -int(minor), "")
    if version.startswith("v") and digits.isdigit():
        return (0, -int(digits), 0, "")
    return (3, 0, 0, version)
