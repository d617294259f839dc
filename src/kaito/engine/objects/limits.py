# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""LimitRanges: what a pod's containers get when they ask for nothing, and what may be asked for at all.

As Kubernetes' LimitRanger: defaults come before admission webhooks, the limits are checked right before a new object is
stored. Source of words: plugin/pkg/admission/limitranger.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from kaito.engine.kinds import Kind
from kaito.engine.objects.registry import Registry
from kaito.engine.schema.quantity import canonical, value_of
from kaito.engine.wire.status import forbidden
from kaito.kube.manifest import Manifest

ANNOTATION: Final = "kubernetes.io/limit-ranger"
_COLLECTION: Final = "/limitranges"


def fill_in(registry: Registry, kind: Kind, namespace: str, obj: Manifest) -> Manifest:
    """The pod with the defaults of its namespace's LimitRanges; any other object as it is."""
    if kind.collection != "/pods" or not registry.store.count(_COLLECTION):
        return obj
    ranges = [item for item in _items(registry, namespace) if item.get("type") == "Container"]
    limits = {name: value for item in ranges for name, value in (item.get("default") or {}).items()}
    requests = {name: value for item in ranges for name, value in (item.get("defaultRequest") or {}).items()}
    if not limits and not requests:
        return obj
    spec, told = dict(obj["spec"]), []
    for part in ("initContainers", "containers"):
        if spec.get(part):
            filled = [_filled(container, limits, requests) for container in spec[part]]
            told += [text for _, texts in filled for text in texts]
            spec[part] = [container for container, _ in filled]
    if not told:
        return obj
    notes = {**(obj["metadata"].get("annotations") or {}), ANNOTATION: "LimitRanger plugin set: " + "; ".join(told)}
    return {**obj, "metadata": {**obj["metadata"], "annotations": notes}, "spec": spec}


def _filled(container: Manifest, limits: Manifest, requests: Manifest) -> tuple[Manifest, list[str]]:
    resources = dict(container.get("resources") or {})
    told = []
    for field, word, defaults in (("requests", "request", requests), ("limits", "limit", limits)):
        own = resources.get(field) or {}
        # A limit of one's own stands for the request too.
        taken = {**own, **(container.get("resources") or {}).get("limits", {})} if field == "requests" else own
        added = {name: value for name, value in defaults.items() if name not in taken}
        if added:
            resources[field] = {**own, **added}
            told.append(f"{', '.join(sorted(added))} {word} for container {container['name']}")
    return {**container, "resources": resources}, told


def check_limits(registry: Registry, kind: Kind, namespace: str, obj: Manifest) -> None:
    """Raises StatusError 403 when a new pod or claim asks for more, or less, than a LimitRange allows."""
    if kind.collection not in ("/pods", "/persistentvolumeclaims") or not registry.store.count(_COLLECTION):
        return
    problems = [text for item in _items(registry, namespace) for text in _problems(item, kind, obj)]
    if problems:
        text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        raise forbidden(kind, obj["metadata"].get("name", ""), text)


def _items(registry: Registry, namespace: str) -> Iterator[Manifest]:
    for limit_range in registry.objects("", "limitranges", namespace):
        yield from limit_range["spec"].get("limits") or []


def _problems(item: Manifest, kind: Kind, obj: Manifest) -> Iterator[str]:
    what = item.get("type", "")
    if kind.collection == "/persistentvolumeclaims":
        asked = [obj["spec"].get("resources") or {}] if what == "PersistentVolumeClaim" else []
    elif what == "Container":
        asked = [container.get("resources") or {} for container in _containers(obj)]
    else:
        asked = [_summed(obj)] if what == "Pod" else []
    for resources in asked:
        for name, value in sorted((item.get("min") or {}).items()):
            yield from _too_little(name, value, what, resources)
        for name, value in sorted((item.get("max") or {}).items()):
            yield from _too_much(name, value, what, resources)
        for name, value in sorted((item.get("maxLimitRequestRatio") or {}).items()):
            yield from _too_far_apart(name, value, what, resources)


def _containers(pod: Manifest) -> list[Manifest]:
    return [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]


def _summed(pod: Manifest) -> Manifest:
    """What the pod's containers ask for together; a resource counts only where all of them name it."""
    found: Manifest = {}
    for field in ("requests", "limits"):
        parts = [(container.get("resources") or {}).get(field) or {} for container in pod["spec"]["containers"]]
        named = set.intersection(*(set(part) for part in parts))
        sums = {name: sum((value_of(part[name]) for part in parts), Decimal(0)) for name in named}
        found[field] = {name: canonical(format(amount, "f")) for name, amount in sums.items()}
    return found


def _too_little(name: str, least: str, what: str, resources: Manifest) -> Iterator[str]:
    request, limit = _named(resources, name)
    rule = f"minimum {name} usage per {what} is {least}"
    if request is None:
        yield f"{rule}.  No request is specified"
    elif value_of(request) < value_of(least):
        yield f"{rule}, but request is {request}"
    elif limit is not None and value_of(limit) < value_of(least):
        yield f"{rule}, but limit is {limit}"


def _too_much(name: str, most: str, what: str, resources: Manifest) -> Iterator[str]:
    request, limit = _named(resources, name)
    rule = f"maximum {name} usage per {what} is {most}"
    if what == "PersistentVolumeClaim":
        limit = limit or request
    if limit is None:
        yield f"{rule}.  No limit is specified"
    elif value_of(limit) > value_of(most):
        word = "request" if what == "PersistentVolumeClaim" else "limit"
        yield f"{rule}, but {word} is {limit}"
    elif request is not None and value_of(request) > value_of(most):
        yield f"{rule}, but request is {request}"


def _too_far_apart(name: str, most: str, what: str, resources: Manifest) -> Iterator[str]:
    request, limit = _named(resources, name)
    rule = f"{name} max limit to request ratio per {what} is {most}"
    if request is None or not value_of(request):
        yield f"{rule}, but no request is specified or request is 0"
    elif limit is None:
        yield f"{rule}, but no limit is specified or limit is 0"
    elif value_of(limit) / value_of(request) > value_of(most):
        yield f"{rule}, but provided ratio is {float(value_of(limit) / value_of(request)):f}"


def _named(resources: Manifest, name: str) -> tuple[str | None, str | None]:
    return (resources.get("requests") or {}).get(name), (resources.get("limits") or {}).get(name)
