# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The columns of everything else: configuration, Nodes, storage, access, events, the API's own kinds. Pure."""

from __future__ import annotations

from datetime import datetime

from kaito.engine.tables.columns import AGE, CREATED_AT, NAME, Cell, Column, at, count, joined, since, status
from kaito.kube.manifest import Manifest, labels_of

WEBHOOKS = Column(
    "Webhooks",
    count("webhooks"),
    "integer",
    description="Webhooks indicates the number of webhooks registered in this configuration",
)


def _node_status(obj: Manifest, now: datetime) -> str:
    conditions = {c["type"]: c["status"] for c in at("status", "conditions", default=[])(obj, now)}
    shown = {"True": "Ready", None: "Unknown"}.get(conditions.get("Ready"), "NotReady")
    return shown + (",SchedulingDisabled" if obj.get("spec", {}).get("unschedulable") else "")


def _node_roles(obj: Manifest, now: datetime) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = {key.removeprefix(prefix) for key in labels_of(obj) if key.startswith(prefix)}
    return joined(sorted(roles))


def _node_address(type_: str) -> Column:
    def cell(obj: Manifest, now: datetime) -> str:
        for entry in at("status", "addresses", default=[])(obj, now):
            if entry["type"] == type_:
                return str(entry["address"])
        return "<none>"

    title = type_.replace("IP", "-IP")
    return Column(title, cell, priority=1, documents="core.v1.NodeStatus.addresses")


def _node_info(title: str, name: str, *, priority: int = 1) -> Column:
    def cell(obj: Manifest, now: datetime) -> str:
        shown: str = at("status", "nodeInfo", name)(obj, now)
        return shown or ("<unknown>" if priority else "")

    return Column(title, cell, priority=priority, documents=f"core.v1.NodeSystemInfo.{name}")


_ACCESS = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _access_modes(*path: str) -> Cell:
    find = at(*path, default=())
    return lambda obj, now: ",".join(_ACCESS.get(mode, mode) for mode in find(obj, now))


def _volume_phase(obj: Manifest, now: datetime) -> str:
    return "Terminating" if obj["metadata"].get("deletionTimestamp") else str(status("phase", "")(obj, now))


def _claim(obj: Manifest, now: datetime) -> str:
    claim = obj["spec"].get("claimRef")
    return f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else ""


def _event_last_seen(obj: Manifest, now: datetime) -> str:
    series = obj.get("series") or {}
    stamp = (
        series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("eventTime") or obj.get("firstTimestamp")
    )
    return since(stamp, now)


def _event_object(obj: Manifest, now: datetime) -> str:
    about = obj.get("involvedObject") or {}
    return f"{about.get('kind', '').lower()}/{about.get('name', '')}"


def _event_source(obj: Manifest, now: datetime) -> str:
    source = obj.get("source") or {}
    component = source.get("component") or obj.get("reportingComponent", "")
    return ", ".join(part for part in (component, source.get("host", "")) if part)


def _role_ref(obj: Manifest, now: datetime) -> str:
    return f"{obj['roleRef']['kind']}/{obj['roleRef']['name']}"


def _subjects(kind: str) -> Cell:
    def cell(obj: Manifest, now: datetime) -> str:
        found = [s for s in obj.get("subjects") or [] if s.get("kind") == kind]
        names = [f"{s['namespace']}/{s['name']}" if s.get("namespace") else s["name"] for s in found]
        return ", ".join(names)

    return cell


def _binding_columns(kind: str) -> tuple[Column, ...]:
    where = f"{kind[0].lower()}{kind[1:]}"
    subjects = (
        Column(title, _subjects(subject), priority=1, description=f"{title} in the {where}")
        for title, subject in (("Users", "User"), ("Groups", "Group"), ("ServiceAccounts", "ServiceAccount"))
    )
    return (NAME, Column("Role", _role_ref, documents=f"rbac.v1.{kind}.roleRef"), AGE, *subjects)


def _storage_class_name(obj: Manifest, now: datetime) -> str:
    marks = obj["metadata"].get("annotations") or {}
    default = marks.get("storageclass.kubernetes.io/is-default-class") == "true"
    return f"{obj['metadata']['name']} (default)" if default else str(obj["metadata"]["name"])


def _quota_part(name: str) -> Cell:
    def cell(obj: Manifest, now: datetime) -> str:
        hard, used = status("hard", {})(obj, now), status("used", {})(obj, now)
        keys = [key for key in sorted(hard) if key.startswith("limits.") == (name == "limits")]
        return ", ".join(f"{key}: {used.get(key, '0')}/{hard[key]}" for key in keys)

    return cell


_CLAIM, _VOLUME = "core.v1.PersistentVolumeClaim", "core.v1.PersistentVolume"
_CLASS = "storage.v1.StorageClass"

CORE_COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "configmaps"): (
        NAME,
        Column(
            "Data",
            lambda o, n: len(o.get("data") or ()) + len(o.get("binaryData") or ()),
            documents="core.v1.ConfigMap.data",
        ),
        AGE,
    ),
    ("", "secrets"): (
        NAME,
        Column("Type", at("type"), documents="core.v1.Secret.type"),
        Column("Data", count("data"), documents="core.v1.Secret.data"),
        AGE,
    ),
    ("", "namespaces"): (NAME, Column("Status", status("phase", ""), description="The status of the namespace"), AGE),
    ("", "limitranges"): (NAME, CREATED_AT),
    ("", "serviceaccounts"): (
        NAME,
        Column("Secrets", count("secrets"), documents="core.v1.ServiceAccount.secrets"),
        AGE,
    ),
    ("", "nodes"): (
        NAME,
        Column("Status", _node_status, description="The status of the node"),
        Column("Roles", _node_roles, description="The roles of the node"),
        AGE,
        Column(
            "Version", at("status", "nodeInfo", "kubeletVersion"), documents="core.v1.NodeSystemInfo.kubeletVersion"
        ),
        _node_address("InternalIP"),
        _node_address("ExternalIP"),
        _node_info("OS-Image", "osImage"),
        _node_info("Kernel-Version", "kernelVersion"),
        _node_info("Container-Runtime", "containerRuntimeVersion"),
    ),
    ("", "events"): (
        Column("Last Seen", _event_last_seen, documents="core.v1.Event.lastTimestamp"),
        Column("Type", at("type"), documents="core.v1.Event.type"),
        Column("Reason", at("reason"), documents="core.v1.Event.reason"),
        Column("Object", _event_object, documents="core.v1.Event.involvedObject"),
        Column(
            "Subobject", at("involvedObject", "fieldPath"), priority=1, documents="core.v1.ObjectReference.fieldPath"
        ),
        Column("Source", _event_source, priority=1, documents="core.v1.Event.source"),
        Column("Message", lambda o, n: str(o.get("message", "")).strip(), documents="core.v1.Event.message"),
        Column(
            "First Seen",
            lambda o, n: since(o.get("firstTimestamp") or o.get("eventTime"), n),
            priority=1,
            documents="core.v1.Event.firstTimestamp",
        ),
        Column("Count", at("count", default=1), priority=1, documents="core.v1.Event.count"),
        Column("Name", at("metadata", "name"), priority=1),
    ),
    ("", "resourcequotas"): (
        NAME,
        Column(
            "Request",
            _quota_part("request"),
            description="Request represents a minimum amount of cpu/memory that a container may consume.",
        ),
        Column(
            "Limit",
            _quota_part("limits"),
            description="Limits control the maximum amount of cpu/memory that a container may use independent of "
            "contention on the node.",
        ),
        AGE,
    ),
}

STORAGE_COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "persistentvolumeclaims"): (
        NAME,
        Column("Status", _volume_phase, documents=f"{_CLAIM}Status.phase"),
        Column("Volume", at("spec", "volumeName"), documents=f"{_CLAIM}Spec.volumeName"),
        Column("Capacity", at("status", "capacity", "storage"), documents=f"{_CLAIM}Status.capacity"),
        Column("Access Modes", _access_modes("status", "accessModes"), documents=f"{_CLAIM}Status.accessModes"),
        Column("StorageClass", at("spec", "storageClassName"), description="StorageClass of the pvc"),
        Column(
            "VolumeAttributesClass",
            at("spec", "volumeAttributesClassName", default="<unset>"),
            description="VolumeAttributesClass of the pvc",
        ),
        AGE,
        Column("VolumeMode", at("spec", "volumeMode"), priority=1, documents=f"{_CLAIM}Spec.volumeMode"),
    ),
    ("", "persistentvolumes"): (
        NAME,
        Column("Capacity", at("spec", "capacity", "storage"), documents=f"{_VOLUME}Spec.capacity"),
        Column("Access Modes", _access_modes("spec", "accessModes"), documents=f"{_VOLUME}Spec.accessModes"),
        Column(
            "Reclaim Policy",
            at("spec", "persistentVolumeReclaimPolicy"),
            documents=f"{_VOLUME}Spec.persistentVolumeReclaimPolicy",
        ),
        Column("Status", _volume_phase, documents=f"{_VOLUME}Status.phase"),
        Column("Claim", _claim, documents=f"{_VOLUME}Spec.claimRef"),
        Column("StorageClass", at("spec", "storageClassName"), description="StorageClass of the pv"),
        Column(
            "VolumeAttributesClass",
            at("spec", "volumeAttributesClassName", default="<unset>"),
            description="VolumeAttributesClass of the pv",
        ),
        Column("Reason", at("status", "reason"), documents=f"{_VOLUME}Status.reason"),
        AGE,
        Column("VolumeMode", at("spec", "volumeMode"), priority=1, documents=f"{_VOLUME}Spec.volumeMode"),
    ),
    ("storage.k8s.io", "storageclasses"): (
        Column("Name", _storage_class_name),
        Column("Provisioner", at("provisioner"), documents=f"{_CLASS}.provisioner"),
        Column("ReclaimPolicy", at("reclaimPolicy", default="Delete"), documents=f"{_CLASS}.reclaimPolicy"),
        Column(
            "VolumeBindingMode", at("volumeBindingMode", default="Immediate"), documents=f"{_CLASS}.volumeBindingMode"
        ),
        Column(
            "AllowVolumeExpansion",
            at("allowVolumeExpansion", default=False),
            documents=f"{_CLASS}.allowVolumeExpansion",
        ),
        AGE,
    ),
    ("storage.k8s.io", "csinodes"): (
        NAME,
        Column(
            "Drivers",
            count("spec", "drivers"),
            "integer",
            description="Drivers indicates the number of CSI drivers registered on the node",
        ),
        AGE,
    ),
}

API_COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("rbac.authorization.k8s.io", "roles"): (NAME, CREATED_AT),
    ("rbac.authorization.k8s.io", "clusterroles"): (NAME, CREATED_AT),
    ("rbac.authorization.k8s.io", "rolebindings"): _binding_columns("RoleBinding"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"): _binding_columns("ClusterRoleBinding"),
    ("apiextensions.k8s.io", "customresourcedefinitions"): (NAME, CREATED_AT),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"): (NAME, WEBHOOKS, AGE),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): (NAME, WEBHOOKS, AGE),
    ("coordination.k8s.io", "leases"): (
        NAME,
        Column("Holder", at("spec", "holderIdentity"), documents="coordination.v1.LeaseSpec.holderIdentity"),
        AGE,
    ),
    ("node.k8s.io", "runtimeclasses"): (NAME, Column("Handler", at("handler")), AGE),
    ("scheduling.k8s.io", "priorityclasses"): (
        NAME,
        Column("Value", at("value", default=0), "integer", documents="scheduling.v1.PriorityClass.value"),
        Column(
            "Global-Default",
            at("globalDefault", default=False),
            "boolean",
            documents="scheduling.v1.PriorityClass.globalDefault",
        ),
        AGE,
        Column("PreemptionPolicy", at("preemptionPolicy"), documents="scheduling.v1.PriorityClass.preemptionPolicy"),
    ),
}
