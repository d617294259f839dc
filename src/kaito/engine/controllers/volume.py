# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Claims and volumes: every claim of our storage class gets a volume that is a folder below the data directory.

Volumes made by hand are matched first. A claim whose class waits for its first consumer is bound when a pod names it.
The folders themselves are made by the node agent (`hostPath` of type DirectoryOrCreate); nothing here touches a disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from kaito.engine.controllers import pods as pod
from kaito.engine.controllers.quantities import quantity
from kaito.engine.controllers.selection import matches
from kaito.engine.controllers.status import status_patch
from kaito.kube.manifest import Key, Manifest, annotations_of, is_deleting, key_of, labels_of
from kaito.kube.plan import Controller, Create, Delete, Event, Patch, Plan, Reader, Watch
from kaito.kube.resource import (
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    STORAGE_CLASSES,
)

PROVISIONER = "engine.kaito.sh/folder"
DEFAULT_CLASS = "standard"
IS_DEFAULT = "storageclass.kubernetes.io/is-default-class"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
CLAIM_PROTECTION = "kubernetes.io/pvc-protection"
VOLUME_PROTECTION = "kubernetes.io/pv-protection"


def default_class() -> Manifest:
    """The StorageClass `standard`: folders on this machine, made when a pod first needs them."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": DEFAULT_CLASS, "annotations": {IS_DEFAULT: "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def class_installer() -> Controller[Manifest]:
    """The controller that puts the default StorageClass where it is missing."""

    def observe(reader: Reader, key: Key) -> Manifest | None:
        missing = key.name == "default" and reader.get(STORAGE_CLASSES, DEFAULT_CLASS) is None
        return default_class() if missing else None

    return Controller(
        name="storageclass-installer",
        resource=NAMESPACES,
        observe=observe,
        plan=lambda manifest, now: Plan(create=(Create(manifest),)),
        watches=(Watch(STORAGE_CLASSES, lambda obj: [Key("", "default")]),),
    )


@dataclass(frozen=True, slots=True)
class Observed:
    """A claim, its class, its volume or those that it could have, and the pods that use it."""

    claim: Manifest
    storage_class: Manifest | None
    class_name: str
    volume: Manifest | None
    free: tuple[Manifest, ...]
    users: tuple[Manifest, ...]
    root: str


def binder(root: str) -> Controller[Observed]:
    """The controller that gives claims their volumes; `root` is the folder under which new ones lie."""
    return Controller(
        name="persistentvolume-controller",
        resource=PERSISTENT_VOLUME_CLAIMS,
        observe=partial(_observe, root=root.rstrip("/")),
        plan=plan,
        watches=(
            Watch(PERSISTENT_VOLUMES, claim_of_volume),
            Watch(PODS, claims_of_pod),
            Watch(STORAGE_CLASSES, _nobody),
        ),
    )


def _nobody(obj: Manifest) -> list[Key]:
    return []


def claim_of_volume(volume: Manifest) -> list[Key]:
    """The claim that a volume is meant for."""
    reference = volume["spec"].get("claimRef")
    return [Key(reference["namespace"], reference["name"])] if reference else []


def claims_of_pod(p: Manifest) -> list[Key]:
    """The claims that a pod uses."""
    volumes = p["spec"].get("volumes") or []
    names = [v["persistentVolumeClaim"]["claimName"] for v in volumes if "persistentVolumeClaim" in v]
    return [Key(p["metadata"]["namespace"], name) for name in names]


def _observe(reader: Reader, key: Key, *, root: str) -> Observed | None:
    claim = reader.get(PERSISTENT_VOLUME_CLAIMS, key.name, key.namespace)
    if claim is None:
        return None
    classes = reader.list(STORAGE_CLASSES)
    name = claim["spec"].get("storageClassName")
    if name is None:
        name = next((c["metadata"]["name"] for c in classes if annotations_of(c).get(IS_DEFAULT) == "true"), "")
    bound = claim["spec"].get("volumeName")
    is_pending = (claim.get("status") or {}).get("phase") != "Bound"
    free = reader.list(PERSISTENT_VOLUMES) if is_pending and not bound else []
    users = [p for p in reader.list(PODS, key.namespace) if key in claims_of_pod(p) and not pod.is_finished(p)]
    return Observed(
        claim=claim,
        storage_class=next((c for c in classes if c["metadata"]["name"] == name), None),
        class_name=name,
        volume=reader.get(PERSISTENT_VOLUMES, bound or volume_name(claim)),
        free=tuple(free),
        users=tuple(users),
        root=root,
    )


def volume_name(claim: Manifest) -> str:
    """The name of the volume that is made for a claim."""
    return f"pvc-{claim['metadata']['uid']}"


def plan(observed: Observed, now: datetime) -> Plan:
    """Binds the claim to a volume, makes one, or says why it has to wait."""
    claim = observed.claim
    if is_deleting(claim):
        in_use = any(p["spec"].get("nodeName") or not is_deleting(p) for p in observed.users)
        return Plan() if in_use else _unprotected(claim)
    if claim["spec"].get("volumeName"):
        return _complete(observed)
    if observed.volume is not None:
        return _bind(claim, observed.volume)
    fitting = [v for v in observed.free if fits(v, claim, observed.class_name)]
    if fitting:
        smallest = min(fitting, key=lambda v: (_capacity(v), v["metadata"]["name"]))
        return _bind(claim, smallest)
    return _provision(observed)


def _unprotected(claim: Manifest) -> Plan:
    finalizers = claim["metadata"].get("finalizers") or []
    if CLAIM_PROTECTION not in finalizers:
        return Plan()
    left = [name for name in finalizers if name != CLAIM_PROTECTION]
    body = {"metadata": {"finalizers": left or None, "resourceVersion": claim["metadata"]["resourceVersion"]}}
    return Plan(patches=(Patch(PERSISTENT_VOLUME_CLAIMS, key_of(claim), body),))


def _capacity(volume: Manifest) -> object:
    return quantity((volume["spec"].get("capacity") or {}).get("storage"))


def fits(volume: Manifest, claim: Manifest, class_name: str) -> bool:
    """Whether an existing volume can serve the claim: reserved for it, or free and of the right kind and size."""
    spec, reference = volume["spec"], volume["spec"].get("claimRef")
    if reference:
        same = (reference.get("namespace"), reference.get("name")) == tuple(key_of(claim))
        return same and reference.get("uid") in (None, "", claim["metadata"]["uid"])
    wanted = claim["spec"]
    modes = set(wanted.get("accessModes") or [])
    size = quantity(((wanted.get("resources") or {}).get("requests") or {}).get("storage"))
    selector = wanted.get("selector")
    return (
        not is_deleting(volume)
        and (volume.get("status") or {}).get("phase", "Available") in ("Available", "Pending")
        and (spec.get("storageClassName") or "") == class_name
        and spec.get("volumeMode", "Filesystem") == wanted.get("volumeMode", "Filesystem")
        and modes <= set(spec.get("accessModes") or [])
        and quantity((spec.get("capacity") or {}).get("storage")) >= size
        and (selector is None or matches(selector, labels_of(volume)))
    )


def _reference(claim: Manifest) -> Manifest:
    meta = claim["metadata"]
    reference = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    return {**reference, "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]}


def _bind(claim: Manifest, volume: Manifest) -> Plan:
    """The volume is reserved for the claim, then the claim names the volume."""
    patches = []
    if (volume["spec"].get("claimRef") or {}).get("uid") != claim["metadata"]["uid"]:
        meta = {
            "resourceVersion": volume["metadata"]["resourceVersion"],
            "annotations": {BOUND_BY_CONTROLLER: "yes"},
        }
        body = {"metadata": meta, "spec": {"claimRef": _reference(claim)}}
        patches.append(Patch(PERSISTENT_VOLUMES, key_of(volume), body))
    body = {
        "metadata": {"annotations": {BIND_COMPLETED: "yes", BOUND_BY_CONTROLLER: "yes"}},
        "spec": {"volumeName": volume["metadata"]["name"]},
    }
    patches.append(Patch(PERSISTENT_VOLUME_CLAIMS, key_of(claim), body))
    return Plan(patches=tuple(patches))


def _complete(observed: Observed) -> Plan:
    """A claim that names its volume: Bound if the volume is its own, Lost if there is none any more."""
    claim, volume = observed.claim, observed.volume
    if volume is None:
        if (claim.get("status") or {}).get("phase") != "Bound":
            return Plan()
        status = {**(claim.get("status") or {}), "phase": "Lost"}
        event = Event(
            claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!", "Warning"
        )
        return Plan(patches=status_patch(PERSISTENT_VOLUME_CLAIMS, claim, status), events=(event,))
    if (volume["spec"].get("claimRef") or {}).get("uid") != claim["metadata"]["uid"]:
        return _bind(claim, volume) if fits(volume, claim, observed.class_name) else Plan()
    status = {
        **(claim.get("status") or {}),
        "phase": "Bound",
        "accessModes": volume["spec"].get("accessModes") or [],
        "capacity": volume["spec"].get("capacity") or {},
    }
    return Plan(patches=status_patch(PERSISTENT_VOLUME_CLAIMS, claim, status))


def _provision(observed: Observed) -> Plan:
    """A new volume, if the class is ours and nothing has to be waited for."""
    claim, storage_class = observed.claim, observed.storage_class
    if storage_class is None:
        return _waiting(observed, *_no_class(observed.class_name))
    if storage_class.get("volumeBindingMode") == "WaitForFirstConsumer" and not observed.users:
        text = "waiting for first consumer to be created before binding"
        return _waiting(observed, "WaitForFirstConsumer", text, warn=False)
    if storage_class["provisioner"] != PROVISIONER:
        who = storage_class["provisioner"]
        text = f"Waiting for a volume to be created either by the external provisioner '{who}' or manually"
        return _waiting(observed, "ExternalProvisioning", text, warn=False)
    made = volume_for(claim, storage_class, observed.root)
    said = f"Successfully provisioned volume {made['metadata']['name']}"
    return Plan(create=(Create(made),), events=(Event(claim, "ProvisioningSucceeded", said),))


def _no_class(name: str) -> tuple[str, str]:
    if name:
        return "ProvisioningFailed", f'storageclass.storage.k8s.io "{name}" not found'
    return "FailedBinding", "no persistent volumes available for this claim and no storage class is set"


def _waiting(observed: Observed, reason: str, message: str, *, warn: bool = True) -> Plan:
    """The claim stays Pending. Said once: the next change of anything that matters wakes this controller again."""
    claim = observed.claim
    status = {**(claim.get("status") or {}), "phase": "Pending"}
    event = Event(claim, reason, message, "Warning" if warn else "Normal")
    return Plan(patches=status_patch(PERSISTENT_VOLUME_CLAIMS, claim, status), events=(event,))


def volume_for(claim: Manifest, storage_class: Manifest, root: str) -> Manifest:
    """The volume of a claim: a folder named after it."""
    meta = claim["metadata"]
    folder = f"{root}/{meta['namespace']}-{meta['name']}-{meta['uid']}"
    spec = claim["spec"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume_name(claim), "annotations": {PROVISIONED_BY: PROVISIONER}},
        "spec": {
            "accessModes": spec.get("accessModes") or ["ReadWriteOnce"],
            "capacity": {"storage": spec["resources"]["requests"]["storage"]},
            "claimRef": _reference(claim),
            "hostPath": {"path": folder, "type": "DirectoryOrCreate"},
            "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy", "Delete"),
            "storageClassName": storage_class["metadata"]["name"],
            "volumeMode": spec.get("volumeMode", "Filesystem"),
        },
    }


@dataclass(frozen=True, slots=True)
class Kept:
    """A volume and the claim that it is reserved for, if that still exists."""

    volume: Manifest
    claim: Manifest | None


def reclaimer() -> Controller[Kept]:
    """The controller of the volumes' own life: their phase, and their end when their claim has gone."""
    return Controller(
        name="persistentvolume-reclaimer",
        resource=PERSISTENT_VOLUMES,
        observe=_observe_volume,
        plan=_reclaim,
        watches=(Watch(PERSISTENT_VOLUME_CLAIMS, _volume_of_claim),),
    )


def _volume_of_claim(claim: Manifest) -> list[Key]:
    return [Key("", claim["spec"].get("volumeName") or volume_name(claim))]


def _observe_volume(reader: Reader, key: Key) -> Kept | None:
    volume = reader.get(PERSISTENT_VOLUMES, key.name)
    if volume is None:
        return None
    reference = volume["spec"].get("claimRef") or {}
    claim = None
    if reference:
        claim = reader.get(PERSISTENT_VOLUME_CLAIMS, reference["name"], reference["namespace"])
    if claim is not None and reference.get("uid") not in (None, "", claim["metadata"]["uid"]):
        claim = None
    return Kept(volume, claim)


def _reclaim(observed: Kept, now: datetime) -> Plan:
    volume, claim = observed.volume, observed.claim
    if is_deleting(volume):
        return Plan() if claim is not None else _unprotected_volume(volume)
    reference = volume["spec"].get("claimRef") or {}
    before = (volume.get("status") or {}).get("phase")
    if claim is not None:
        phase = "Bound" if reference.get("uid") else "Available"
    else:
        phase = "Released" if reference.get("uid") and before in ("Bound", "Released") else "Available"
        if reference.get("uid") and before not in ("Bound", "Released") and before is not None:
            phase = before
    patches = status_patch(PERSISTENT_VOLUMES, volume, {**(volume.get("status") or {}), "phase": phase})
    ours = annotations_of(volume).get(PROVISIONED_BY) == PROVISIONER
    dies = volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
    if before == phase == "Released" and ours and dies:
        return Plan(delete=(Delete(PERSISTENT_VOLUMES, key_of(volume), volume["metadata"]["uid"]),))
    return Plan(patches=patches)


def _unprotected_volume(volume: Manifest) -> Plan:
    finalizers = volume["metadata"].get("finalizers") or []
    if VOLUME_PROTECTION not in finalizers:
        return Plan()
    left = [name for name in finalizers if name != VOLUME_PROTECTION]
    body = {"metadata": {"finalizers": left or None, "resourceVersion": volume["metadata"]["resourceVersion"]}}
    return Plan(patches=(Patch(PERSISTENT_VOLUMES, key_of(volume), body),))
