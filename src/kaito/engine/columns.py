# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The columns that `kubectl get` shows for the built-in kinds, as Kubernetes' own printers define them.

Pure: each column is a name, a type, a priority (1 shows with `-o wide` only) and a function from object and time to the
cell. Pods, the one kind with a state machine in its Status column, are in `kaito.engine.podcolumns`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kaito.kube.manifest import Manifest, is_true, labels_of, parse_time

Cell = Callable[[Manifest, datetime], Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    cell: Cell
    type: str = "string"
    priority: int = 0
    description: str = ""
    format: str = ""


def duration(seconds: float) -> str:
    """A span as kubectl writes it: 5s, 3m20s, 7m, 3h5m, 2d4h, 12d, 1y30d."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    if total < 120:
        return f"{total}s"
    minutes = total // 60
    if minutes < 10:
        return _pair(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    if hours < 8:
        return _pair(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 192:
        return _pair(days, "d", hours % 24, "h")
    if days < 365 * 2:
        return f"{days}d"
    years = days // 365
    return _pair(years, "y", days % 365, "d") if years < 8 else f"{years}y"


def _pair(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


def since(stamp: str | None, now: datetime) -> str:
    """How long ago a time stamp was."""
    if not stamp:
        return "<unknown>"
    try:
        return duration((now - parse_time(stamp)).total_seconds())
    except (ValueError, TypeError):
        return "<unknown>"


def age(obj: Manifest, now: datetime) -> str:
    """How old the object is."""
    return since(obj["metadata"].get("creationTimestamp"), now)


def at(*path: str, default: Any = "") -> Cell:
    """The value at a path of keys; `default` where it is absent."""

    def cell(obj: Manifest, now: datetime) -> Any:
        value: Any = obj
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return default if value is None else value

    return cell


def count(*path: str) -> Cell:
    """How many entries the value at a path has."""
    find = at(*path, default=())
    return lambda obj, now: len(find(obj, now))


def ratio(have: Cell, wanted: Cell) -> Cell:
    return lambda obj, now: f"{have(obj, now)}/{wanted(obj, now)}"


def joined(values: list[str] | tuple[str, ...]) -> str:
    return ",".join(values) or "<none>"


def label_text(labels: dict[str, str] | None) -> str:
    """Labels as `a=b,c=d`, in order of their keys."""
    return joined([f"{key}={value}" for key, value in sorted((labels or {}).items())])


def selector_text(selector: Manifest | None) -> str:
    """A label selector as kubectl writes it."""
    if not selector or not (selector.get("matchLabels") or selector.get("matchExpressions")):
        return "<none>"
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for entry in selector.get("matchExpressions") or []:
        key, values = entry["key"], ",".join(entry.get("values") or [])
        form = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": "!" + key,
        }
        parts.append(form.get(entry["operator"], key))
    return ",".join(parts)


def _containers(obj: Manifest, now: datetime) -> list[Manifest]:
    spec = at("spec", "jobTemplate", "spec", "template", "spec", default=None)(obj, now)
    spec = spec or at("spec", "template", "spec", default={})(obj, now)
    return spec.get("containers") or []


NAME = Column("Name", at("metadata", "name"))
AGE = Column("Age", age)
CONTAINERS = Column("Containers", lambda o, n: ",".join(c["name"] for c in _containers(o, n)), priority=1)
IMAGES = Column("Images", lambda o, n: ",".join(c.get("image", "") for c in _containers(o, n)), priority=1)
SELECTOR = Column("Selector", lambda o, n: selector_text(at("spec", "selector", default=None)(o, n)), priority=1)
OTHER_COLUMNS = (NAME, Column("Age", age))


def _replicas(obj: Manifest, now: datetime) -> int:
    value = at("spec", "replicas", default=1)(obj, now)
    return int(value)


def _status(name: str, default: Any = 0) -> Cell:
    return at("status", name, default=default)


def _service_ports(obj: Manifest, now: datetime) -> str:
    parts = []
    for port in obj["spec"].get("ports") or []:
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        parts.append(f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}")
    return joined(parts)


def _external_ip(obj: Manifest, now: datetime) -> str:
    spec = obj["spec"]
    ips = list(spec.get("externalIPs") or [])
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    if spec.get("type") == "LoadBalancer":
        ingress = at("status", "loadBalancer", "ingress", default=[])(obj, now)
        ips = [entry.get("ip") or entry.get("hostname", "") for entry in ingress] + ips
        return ",".join(ips) or "<pending>"
    return joined(ips)


def _node_status(obj: Manifest, now: datetime) -> str:
    conditions = {c["type"]: c["status"] for c in at("status", "conditions", default=[])(obj, now)}
    status = {"True": "Ready", None: "Unknown"}.get(conditions.get("Ready"), "NotReady")
    return status + (",SchedulingDisabled" if obj.get("spec", {}).get("unschedulable") else "")


def _node_roles(obj: Manifest, now: datetime) -> str:
    prefix = "node-role.kubernetes.io/"
    roles = {key.removeprefix(prefix) for key in labels_of(obj) if key.startswith(prefix)}
    return joined(sorted(roles))


def _node_address(type_: str) -> Cell:
    def cell(obj: Manifest, now: datetime) -> str:
        for entry in at("status", "addresses", default=[])(obj, now):
            if entry["type"] == type_:
                return str(entry["address"])
        return "<none>"

    return cell


def _node_info(name: str) -> Cell:
    return lambda obj, now: at("status", "nodeInfo", name)(obj, now) or "<unknown>"


_ACCESS = {"ReadWriteOnce": "RWO", "ReadOnlyMany": "ROX", "ReadWriteMany": "RWX", "ReadWriteOncePod": "RWOP"}


def _access_modes(*path: str) -> Cell:
    find = at(*path, default=())
    return lambda obj, now: ",".join(_ACCESS.get(mode, mode) for mode in find(obj, now))


def _volume_phase(obj: Manifest, now: datetime) -> str:
    return "Terminating" if obj["metadata"].get("deletionTimestamp") else str(_status("phase", "")(obj, now))


def _claim(obj: Manifest, now: datetime) -> str:
    claim = obj["spec"].get("claimRef")
    return f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else ""


def _job_status(obj: Manifest, now: datetime) -> str:
    for type_, shown in (("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended")):
        if is_true(obj, type_):
            return shown
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if is_true(obj, "FailureTarget"):
        return "FailureTarget"
    return "SuccessCriteriaMet" if is_true(obj, "SuccessCriteriaMet") else "Running"


def _job_completions(obj: Manifest, now: datetime) -> str:
    succeeded, completions = _status("succeeded")(obj, now), obj["spec"].get("completions")
    if completions is not None:
        return f"{succeeded}/{completions}"
    parallelism = obj["spec"].get("parallelism", 0)
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _job_duration(obj: Manifest, now: datetime) -> str:
    start, end = _status("startTime", "")(obj, now), _status("completionTime", "")(obj, now)
    if not start:
        return ""
    return duration(((parse_time(end) if end else now) - parse_time(start)).total_seconds())


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


def _first(items: list[Any], limit: int = 3) -> str:
    more = f" + {len(items) - limit} more..." if len(items) > limit else ""
    return joined([str(item) for item in items[:limit]]) + more


def _endpoints(obj: Manifest, now: datetime) -> str:
    found = []
    for subset in obj.get("subsets") or []:
        ports = [port["port"] for port in subset.get("ports") or []]
        for address in subset.get("addresses") or []:
            found += [f"{address['ip']}:{port}" for port in ports] or [address["ip"]]
    return _first(found)


def _slice_ports(obj: Manifest, now: datetime) -> str:
    ports = obj.get("ports")
    return _first([port.get("port", "*") for port in ports]) if ports else "<unset>"


def _slice_endpoints(obj: Manifest, now: datetime) -> str:
    endpoints = obj.get("endpoints")
    return _first([a for e in endpoints for a in e.get("addresses", ())]) if endpoints else "<unset>"


def _role_ref(obj: Manifest, now: datetime) -> str:
    return f"{obj['roleRef']['kind']}/{obj['roleRef']['name']}"


def _subjects(kind: str) -> Cell:
    def cell(obj: Manifest, now: datetime) -> str:
        found = [s for s in obj.get("subjects") or [] if s.get("kind") == kind]
        names = [f"{s['namespace']}/{s['name']}" if s.get("namespace") else s["name"] for s in found]
        return ", ".join(names)

    return cell


_SUBJECT_COLUMNS = tuple(
    Column(title, _subjects(kind), priority=1)
    for title, kind in (("Users", "User"), ("Groups", "Group"), ("ServiceAccounts", "ServiceAccount"))
)


def _storage_class_name(obj: Manifest, now: datetime) -> str:
    marks = obj["metadata"].get("annotations") or {}
    default = marks.get("storageclass.kubernetes.io/is-default-class") == "true"
    return f"{obj['metadata']['name']} (default)" if default else str(obj["metadata"]["name"])


def _owner(obj: Manifest, now: datetime) -> str:
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            group = reference["apiVersion"].partition("/")[0] if "/" in reference["apiVersion"] else ""
            kind = reference["kind"].lower()
            return f"{kind}.{group}/{reference['name']}" if group else f"{kind}/{reference['name']}"
    return "<none>"


def _quota_part(name: str) -> Cell:
    def cell(obj: Manifest, now: datetime) -> str:
        hard, used = _status("hard", {})(obj, now), _status("used", {})(obj, now)
        keys = [key for key in sorted(hard) if key.startswith("limits.") == (name == "limits")]
        return ", ".join(f"{key}: {used.get(key, '0')}/{hard[key]}" for key in keys)

    return cell


BUILT_IN_COLUMNS: dict[tuple[str, str], tuple[Column, ...]] = {
    ("", "configmaps"): (
        NAME,
        Column("Data", lambda o, n: len(o.get("data") or ()) + len(o.get("binaryData") or ())),
        AGE,
    ),
    ("", "secrets"): (NAME, Column("Type", at("type")), Column("Data", count("data")), AGE),
    ("", "namespaces"): (NAME, Column("Status", _status("phase", "")), AGE),
    ("", "serviceaccounts"): (NAME, Column("Secrets", count("secrets")), AGE),
    ("", "endpoints"): (NAME, Column("Endpoints", _endpoints), AGE),
    ("", "services"): (
        NAME,
        Column("Type", at("spec", "type")),
        Column("Cluster-IP", lambda o, n: o["spec"].get("clusterIP") or "<none>"),
        Column("External-IP", _external_ip),
        Column("Port(s)", _service_ports),
        AGE,
        Column("Selector", lambda o, n: label_text(o["spec"].get("selector")), priority=1),
    ),
    ("", "nodes"): (
        NAME,
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        AGE,
        Column("Version", at("status", "nodeInfo", "kubeletVersion")),
        Column("Internal-IP", _node_address("InternalIP"), priority=1),
        Column("External-IP", _node_address("ExternalIP"), priority=1),
        Column("OS-Image", _node_info("osImage"), priority=1),
        Column("Kernel-Version", _node_info("kernelVersion"), priority=1),
        Column("Container-Runtime", _node_info("containerRuntimeVersion"), priority=1),
    ),
    ("", "persistentvolumeclaims"): (
        NAME,
        Column("Status", _volume_phase),
        Column("Volume", at("spec", "volumeName")),
        Column("Capacity", at("status", "capacity", "storage")),
        Column("Access Modes", _access_modes("status", "accessModes")),
        Column("StorageClass", at("spec", "storageClassName")),
        Column("VolumeAttributesClass", at("spec", "volumeAttributesClassName", default="<unset>")),
        AGE,
        Column("VolumeMode", at("spec", "volumeMode"), priority=1),
    ),
    ("", "persistentvolumes"): (
        NAME,
        Column("Capacity", at("spec", "capacity", "storage")),
        Column("Access Modes", _access_modes("spec", "accessModes")),
        Column("Reclaim Policy", at("spec", "persistentVolumeReclaimPolicy")),
        Column("Status", _volume_phase),
        Column("Claim", _claim),
        Column("StorageClass", at("spec", "storageClassName")),
        Column("VolumeAttributesClass", at("spec", "volumeAttributesClassName", default="<unset>")),
        Column("Reason", at("status", "reason")),
        AGE,
        Column("VolumeMode", at("spec", "volumeMode"), priority=1),
    ),
    ("", "events"): (
        Column("Last Seen", _event_last_seen),
        Column("Type", at("type")),
        Column("Reason", at("reason")),
        Column("Object", _event_object),
        Column("Subobject", at("involvedObject", "fieldPath"), priority=1),
        Column("Source", _event_source, priority=1),
        Column("Message", lambda o, n: str(o.get("message", "")).strip()),
        Column("First Seen", lambda o, n: since(o.get("firstTimestamp") or o.get("eventTime"), n), priority=1),
        Column("Count", at("count", default=1), priority=1),
        Column("Name", at("metadata", "name"), priority=1),
    ),
    ("", "resourcequotas"): (
        NAME,
        Column("Request", _quota_part("request")),
        Column("Limit", _quota_part("limits")),
        AGE,
    ),
    ("apps", "deployments"): (
        NAME,
        Column("Ready", ratio(_status("readyReplicas"), _replicas)),
        Column("Up-to-date", _status("updatedReplicas")),
        Column("Available", _status("availableReplicas")),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ),
    ("apps", "statefulsets"): (
        NAME,
        Column("Ready", ratio(_status("readyReplicas"), _replicas)),
        AGE,
        CONTAINERS,
        IMAGES,
    ),
    ("apps", "replicasets"): (
        NAME,
        Column("Desired", _replicas, "integer"),
        Column("Current", _status("replicas"), "integer"),
        Column("Ready", _status("readyReplicas"), "integer"),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ),
    ("apps", "daemonsets"): (
        NAME,
        Column("Desired", _status("desiredNumberScheduled"), "integer"),
        Column("Current", _status("currentNumberScheduled"), "integer"),
        Column("Ready", _status("numberReady"), "integer"),
        Column("Up-to-date", _status("updatedNumberScheduled"), "integer"),
        Column("Available", _status("numberAvailable"), "integer"),
        Column(
            "Node Selector", lambda o, n: label_text(at("spec", "template", "spec", "nodeSelector", default={})(o, n))
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ),
    ("apps", "controllerrevisions"): (
        NAME,
        Column("Controller", _owner),
        Column("Revision", at("revision", default=0)),
        AGE,
    ),
    ("batch", "jobs"): (
        NAME,
        Column("Status", _job_status),
        Column("Completions", _job_completions),
        Column("Duration", _job_duration),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ),
    ("batch", "cronjobs"): (
        NAME,
        Column("Schedule", at("spec", "schedule")),
        Column("Timezone", at("spec", "timeZone", default="<none>")),
        Column("Suspend", lambda o, n: str(bool(o["spec"].get("suspend")))),
        Column("Active", count("status", "active"), "integer"),
        Column(
            "Last Schedule",
            lambda o, n: since(_status("lastScheduleTime", None)(o, n), n).replace("<unknown>", "<none>"),
        ),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ),
    ("coordination.k8s.io", "leases"): (NAME, Column("Holder", at("spec", "holderIdentity")), AGE),
    ("discovery.k8s.io", "endpointslices"): (
        NAME,
        Column("AddressType", at("addressType")),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
        AGE,
    ),
    ("rbac.authorization.k8s.io", "roles"): (NAME, Column("Created At", at("metadata", "creationTimestamp"), "date")),
    ("rbac.authorization.k8s.io", "clusterroles"): (
        NAME,
        Column("Created At", at("metadata", "creationTimestamp"), "date"),
    ),
    ("rbac.authorization.k8s.io", "rolebindings"): (NAME, Column("Role", _role_ref), AGE, *_SUBJECT_COLUMNS),
    ("rbac.authorization.k8s.io", "clusterrolebindings"): (NAME, Column("Role", _role_ref), AGE, *_SUBJECT_COLUMNS),
    ("storage.k8s.io", "storageclasses"): (
        Column("Name", _storage_class_name),
        Column("Provisioner", at("provisioner")),
        Column("ReclaimPolicy", at("reclaimPolicy", default="Delete")),
        Column("VolumeBindingMode", at("volumeBindingMode", default="Immediate")),
        Column("AllowVolumeExpansion", at("allowVolumeExpansion", default=False)),
        AGE,
    ),
    ("apiextensions.k8s.io", "customresourcedefinitions"): (
        NAME,
        Column("Created At", at("metadata", "creationTimestamp"), "date"),
    ),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"): (
        NAME,
        Column("Webhooks", count("webhooks")),
        AGE,
    ),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"): (
        NAME,
        Column("Webhooks", count("webhooks")),
        AGE,
    ),
    ("scheduling.k8s.io", "priorityclasses"): (
        NAME,
        Column("Value", at("value", default=0)),
        Column("Global-Default", at("globalDefault", default=False)),
        AGE,
        Column("PreemptionPolicy", at("preemptionPolicy")),
    ),
}
