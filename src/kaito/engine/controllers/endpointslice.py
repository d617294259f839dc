# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Services: which pods answer for them, as EndpointSlices and as the older Endpoints.

A pod event must wake the Services that select the pod, which only an index over Services can tell: `Selectors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kaito.engine.controllers import pods as pod
from kaito.kube.manifest import Key, Manifest, is_deleting, key_of, labels_of, owner_reference
from kaito.kube.plan import Controller, Create, Delete, Patch, Plan, Reader, Watch
from kaito.kube.resource import ENDPOINT_SLICES, PODS, SERVICES, Resource

ENDPOINTS = Resource("", "v1", "endpoints", "Endpoints")
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
ENDPOINTS_MANAGED_BY_LABEL = "endpoints.kubernetes.io/managed-by"
ENDPOINTS_MANAGER = "endpoint-controller"
HEADLESS_LABEL = "service.kubernetes.io/headless"
# Kubernetes' default for --max-endpoints-per-slice, and its limit for Endpoints
MAX_PER_SLICE = 100
MAX_ENDPOINTS = 1000


@dataclass(frozen=True, slots=True)
class Observed:
    """A Service (None when it is gone), the pods that it selects, and what stands for it now."""

    service: Manifest | None
    pods: tuple[Manifest, ...]
    slices: tuple[Manifest, ...]
    endpoints: Manifest | None


class Selectors:
    """The selectors of the Services that were seen. One for each controller, never shared."""

    def __init__(self) -> None:
        self._selectors: dict[Key, dict[str, str]] = {}
        self._by_label: dict[tuple[str, str, str], set[Key]] = {}
        """Services by namespace and one label that they select by: a pod is compared with few."""
        self._filed: dict[Key, tuple[str, str, str]] = {}
        self._labels: dict[Key, dict[str, str]] = {}

    def saw(self, service: Manifest) -> list[Key]:
        """Remember a Service's selector; wakes nothing by itself."""
        key, selector = key_of(service), service["spec"].get("selector") or {}
        if selector != self._selectors.get(key):
            self.forget(key)
            if selector:
                places = [(key.namespace, *item) for item in selector.items()]
                place = min(places, key=lambda place: len(self._by_label.get(place, ())))
                self._by_label.setdefault(place, set()).add(key)
                self._selectors[key], self._filed[key] = selector, place
        return []

    def forget(self, key: Key) -> None:
        """The Service is gone."""
        if self._selectors.pop(key, None) is not None:
            place = self._filed.pop(key)
            self._by_label[place].discard(key)
            if not self._by_label[place]:
                del self._by_label[place]

    def keys(self, p: Manifest) -> list[Key]:
        """The Services that select the pod, or did so when it was last seen."""
        key, labels = key_of(p), labels_of(p)
        before = self._labels.get(key, labels)
        self._labels[key] = labels
        if is_deleting(p):
            self._labels.pop(key)
        places = {(key.namespace, *item) for one in (labels, before) for item in one.items()}
        candidates = [service for place in places for service in self._by_label.get(place, ())]
        return [
            service
            for service in candidates
            if (selector := self._selectors[service]).items() <= labels.items() or selector.items() <= before.items()
        ]


def controller() -> Controller[Observed]:
    """The controller of EndpointSlices and Endpoints."""
    selectors = Selectors()

    def observe_and_forget(reader: Reader, key: Key) -> Observed | None:
        if reader.get(SERVICES, key.name, key.namespace) is None:
            selectors.forget(key)
        return observe(reader, key)

    return Controller(
        name="endpointslice-controller",
        resource=SERVICES,
        observe=observe_and_forget,
        plan=plan,
        watches=(
            Watch(SERVICES, selectors.saw),
            Watch(PODS, selectors.keys),
            Watch(ENDPOINT_SLICES, slice_keys),
            Watch(ENDPOINTS, lambda obj: [key_of(obj)]),
        ),
    )


def slice_keys(obj: Manifest) -> list[Key]:
    """The Service that a slice of ours belongs to."""
    name = labels_of(obj).get(SERVICE_NAME_LABEL)
    return [Key(obj["metadata"]["namespace"], name)] if name and _is_ours(obj) else []


def _is_ours(obj: Manifest) -> bool:
    return labels_of(obj).get(MANAGED_BY_LABEL) == MANAGER


def observe(reader: Reader, key: Key) -> Observed | None:
    """The Service with its pods and endpoints; None when nothing of it is left."""
    service = reader.get(SERVICES, key.name, key.namespace)
    labels = {SERVICE_NAME_LABEL: key.name, MANAGED_BY_LABEL: MANAGER}
    slices = tuple(reader.list(ENDPOINT_SLICES, key.namespace, labels=labels))
    endpoints = reader.get(ENDPOINTS, key.name, key.namespace)
    if service is None and not slices and endpoints is None:
        return None
    selector = (service["spec"].get("selector") or {}) if service else {}
    selected = reader.list(PODS, key.namespace, labels=selector) if selector else []
    return Observed(service, tuple(selected), slices, endpoints)


def plan(observed: Observed, now: datetime) -> Plan:
    """Slices and Endpoints that list the pods as they are; nothing for a Service without a selector."""
    service = observed.service
    if service is None or is_deleting(service):
        return _leave(observed)
    if not service["spec"].get("selector") or service["spec"].get("type") == "ExternalName":
        return Plan(delete=tuple(_delete(s) for s in observed.slices))
    wanted = _slices(service, observed.pods)
    have = {s["metadata"]["name"]: s for s in observed.slices}
    patches = [p for w in wanted if (p := _difference(ENDPOINT_SLICES, have.get(w["metadata"]["name"]), w))]
    names = {w["metadata"]["name"] for w in wanted}
    create = [Create(w) for w in wanted if w["metadata"]["name"] not in have]
    legacy = _endpoints(service, observed.pods)
    if observed.endpoints is None:
        create.append(Create(legacy))
    elif change := _difference(ENDPOINTS, observed.endpoints, legacy):
        patches.append(change)
    return Plan(
        patches=tuple(patches),
        create=tuple(create),
        delete=tuple(_delete(s) for name, s in have.items() if name not in names),
    )


def _leave(observed: Observed) -> Plan:
    """The Service is gone: its Endpoints go at once if they are ours, its slices are collected by their owner."""
    ours = observed.endpoints
    if ours is not None and labels_of(ours).get(ENDPOINTS_MANAGED_BY_LABEL) == ENDPOINTS_MANAGER:
        return Plan(delete=(Delete(ENDPOINTS, key_of(ours), ours["metadata"]["uid"]),))
    return Plan()


def _delete(obj: Manifest) -> Delete:
    return Delete(ENDPOINT_SLICES, key_of(obj), obj["metadata"]["uid"])


def _difference(resource: Resource, current: Manifest | None, wanted: Manifest) -> Patch | None:
    """A patch of the parts that differ; None when nothing does or there is nothing to patch."""
    if current is None:
        return None
    body: Manifest = {}
    for field in ("endpoints", "ports", "subsets"):
        if field in wanted and (current.get(field) or []) != wanted[field]:
            body[field] = wanted[field]
    if labels_of(current) != labels_of(wanted):
        dropped = {key: None for key in labels_of(current) if key not in labels_of(wanted)}
        body["metadata"] = {"labels": {**dropped, **labels_of(wanted)}}
    return Patch(resource, key_of(current), body) if body else None


def _labels(service: Manifest) -> dict[str, str]:
    headless = {HEADLESS_LABEL: ""} if service["spec"].get("clusterIP") == "None" else {}
    return {**labels_of(service), **headless}


def _candidates(pods: tuple[Manifest, ...]) -> list[Manifest]:
    """Pods with an address that have not ended."""
    return [p for p in pods if (p.get("status") or {}).get("podIP") and not pod.is_finished(p)]


def target_port(port: Manifest, p: Manifest) -> int | None:
    """The number of the pod's port that a Service port leads to; None when the pod has no port of that name."""
    target = port.get("targetPort", port["port"])
    if isinstance(target, int):
        return target
    for container in [*p["spec"]["containers"], *(p["spec"].get("initContainers") or [])]:
        for open_port in container.get("ports") or []:
            same_protocol = open_port.get("protocol", "TCP") == port.get("protocol", "TCP")
            if open_port.get("name") == target and same_protocol:
                return int(open_port["containerPort"])
    return None


def _ports(service: Manifest, p: Manifest) -> list[Manifest]:
    """The pod's ports for the Service, sorted so that equal sets are equal lists."""
    ports = []
    for port in service["spec"].get("ports") or []:
        number = target_port(port, p)
        if number is None:
            continue
        made = {"name": port.get("name") or "", "port": number, "protocol": port.get("protocol", "TCP")}
        ports.append({**made, **({"appProtocol": port["appProtocol"]} if port.get("appProtocol") else {})})
    return sorted(ports, key=lambda port: (port["name"], port["protocol"]))


def _endpoint(service: Manifest, p: Manifest) -> Manifest:
    """The pod as an EndpointSlice lists it."""
    serving, terminating = pod.is_ready(p), is_deleting(p)
    anyway = bool(service["spec"].get("publishNotReadyAddresses"))
    endpoint: Manifest = {
        "addresses": [p["status"]["podIP"]],
        "conditions": {
            "ready": anyway or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": _reference(p),
    }
    if p["spec"].get("nodeName"):
        endpoint["nodeName"] = p["spec"]["nodeName"]
    if p["spec"].get("hostname") and p["spec"].get("subdomain") == service["metadata"]["name"]:
        endpoint["hostname"] = p["spec"]["hostname"]
    return endpoint


def _reference(p: Manifest) -> Manifest:
    meta = p["metadata"]
    return {"kind": "Pod", "name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]}


def _slices(service: Manifest, pods: tuple[Manifest, ...]) -> list[Manifest]:
    """Slices of at most a hundred pods each, one row of slices for each set of port numbers; at least an empty one."""
    rows: dict[str, tuple[list[Manifest], list[Manifest]]] = {}
    for p in _candidates(pods):
        ports = _ports(service, p)
        rows.setdefault(repr(ports), (ports, []))[1].append(_endpoint(service, p))
    parts = [
        (ports, endpoints[first : first + MAX_PER_SLICE])
        for _, (ports, endpoints) in sorted(rows.items())
        for first in range(0, len(endpoints), MAX_PER_SLICE)
    ]
    return [_slice(service, n, ports, endpoints) for n, (ports, endpoints) in enumerate(parts or [([], [])])]


def _slice(service: Manifest, number: int, ports: list[Manifest], endpoints: list[Manifest]) -> Manifest:
    meta = service["metadata"]
    prefix = f"{meta['name']}-"
    families = service["spec"].get("ipFamilies") or ["IPv4"]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": next(pod.generated_names(prefix, meta["uid"], str(number))),
            "generateName": prefix,
            "namespace": meta["namespace"],
            "labels": {**_labels(service), SERVICE_NAME_LABEL: meta["name"], MANAGED_BY_LABEL: MANAGER},
            "ownerReferences": [owner_reference(service)],
        },
        "addressType": families[0],
        "ports": ports,
        "endpoints": endpoints,
    }


def _address(service: Manifest, p: Manifest) -> Manifest:
    address: Manifest = {"ip": p["status"]["podIP"], "targetRef": _reference(p)}
    if p["spec"].get("nodeName"):
        address["nodeName"] = p["spec"]["nodeName"]
    if p["spec"].get("hostname") and p["spec"].get("subdomain") == service["metadata"]["name"]:
        address["hostname"] = p["spec"]["hostname"]
    return address


def _endpoints(service: Manifest, pods: tuple[Manifest, ...]) -> Manifest:
    """The Service's Endpoints object: a subset for each set of port numbers, pods on their way out left out."""
    anyway = bool(service["spec"].get("publishNotReadyAddresses"))
    subsets: dict[str, Manifest] = {}
    for p in _candidates(pods)[:MAX_ENDPOINTS]:
        if is_deleting(p) and not anyway:
            continue
        ports = [{k: v for k, v in port.items() if k != "name" or v} for port in _ports(service, p)]
        subset = subsets.setdefault(repr(ports), {"ports": ports} if ports else {})
        place = "addresses" if anyway or pod.is_ready(p) else "notReadyAddresses"
        subset.setdefault(place, []).append(_address(service, p))
    meta = service["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": meta["name"],
            "namespace": meta["namespace"],
            "labels": {**_labels(service), ENDPOINTS_MANAGED_BY_LABEL: ENDPOINTS_MANAGER},
        },
        "subsets": [subsets[ports] for ports in sorted(subsets)],
    }
