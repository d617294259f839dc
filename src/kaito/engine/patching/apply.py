# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Server-side apply, and who owns which field after any write.

Pure: the time is handed in, objects are never changed in place. The order of steps is that of structured-merge-diff's
`merge.Updater` and apiserver's `managedfields` package. The walks are in `merge.py`, the entries in `managed.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from kaito.engine.patching import fieldset, managed, merge
from kaito.engine.patching.fieldset import FieldSet
from kaito.engine.patching.managed import Managed, Manager
from kaito.engine.schema.shape import Shape
from kaito.kube.manifest import Manifest

Path = tuple[str, ...]

# Never owned: what the server itself sets (apiserver's stripmeta).
_NEVER_OWNED: Final = frozenset({"f:apiVersion", "f:kind", "f:metadata"})
_NEVER_OWNED_METADATA: Final = frozenset(
    {
        ".",
        "f:name",
        "f:namespace",
        "f:creationTimestamp",
        "f:selfLink",
        "f:uid",
        "f:clusterName",
        "f:generation",
        "f:managedFields",
        "f:resourceVersion",
    }
)
_BEFORE_FIRST_APPLY: Final = "before-first-apply"


class ApplyError(Exception):
    """The applied manifest cannot be merged; `status` is the HTTP status of the answer, the text its message."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class ApplyConflict(Exception):
    """Other managers own fields that the apply would change; `causes` are the Status causes (409 Conflict)."""

    def __init__(self, conflicts: list[tuple[Manager, str]]) -> None:
        super().__init__(_conflict_message(conflicts))
        self.causes = [
            {"reason": "FieldManagerConflict", "message": f"conflict with {manager.shown}", "field": path}
            for manager, path in conflicts
        ]


def _conflict_message(conflicts: list[tuple[Manager, str]]) -> str:
    if len(conflicts) == 1:
        manager, path = conflicts[0]
        return f"Apply failed with 1 conflict: conflict with {manager.shown}: {path}"
    lines: list[str] = []
    for manager in dict.fromkeys(manager for manager, _ in conflicts):
        lines.append(f"conflicts with {manager.shown}:")
        lines += [f"- {path}" for other, path in conflicts if other == manager]
    return f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines)


def apply(
    live: Manifest | None,
    config: Manifest,
    shape: Shape,
    *,
    manager: str,
    now: datetime,
    force: bool = False,
    subresource: str = "",
    reset: Iterable[Path] = (),
    zero: Manifest | None = None,
) -> Manifest:
    """The object after `manager` applied `config` to `live` (None: it does not exist yet), managedFields included.

    Defaulting and validation come after. `reset` names fields that this (sub)resource must not touch:
    `("status",)`.
    `zero` is what an empty object of the kind holds (`builtin.zero`). An apply that changes nothing returns an object
    equal to `live`. Raises ApplyConflict and ApplyError.
    """
    if (config.get("metadata") or {}).get("managedFields"):
        raise ApplyError("metadata.managedFields must be nil", 400)
    _check(config, shape)
    before = live if live is not None else _skeleton(config)
    owners = managed.read(before)
    if live is not None and not owners.fields:
        owners = _first_owners(live, shape, zero or {}, now)
    plain = _without_managed(before)
    wanted = _without_paths(config, reset)
    me = Manager(manager, "Apply", "", subresource)
    last = owners.fields.get(me)
    sets = merge.fields_of(wanted, shape)
    merged = merge.merge(plain, wanted, shape)
    if last:
        merged = _pruned(merged, last, (*owners.others(me), sets), shape)
    fields = {**owners.fields, me: _stripped(sets, reset)}
    fields = _yielded(plain, merged, fields, me, shape, force=force, reset=reset)
    times = dict(owners.times)
    if merged != plain or live is None:
        times[me] = now
    return managed.written(merged, Managed(fields, times, {**owners.versions, me: config["apiVersion"]}))


def track_update(
    live: Manifest | None,
    new: Manifest,
    shape: Shape,
    *,
    manager: str,
    now: datetime,
    subresource: str = "",
    reset: Iterable[Path] = (),
    zero: Manifest | None = None,
) -> list[Manifest]:
    """The managedFields of `new` after `manager` created, replaced or patched it (operation Update).

    Call it with the defaulted object. For a create, `live` is None and `zero` is what an empty object of the kind holds
    (`builtin.zero`): fields that are always there are not owned for being there.
    """
    before = live if live is not None else (zero or {})
    me = Manager(manager, "Update", new["apiVersion"], subresource)
    if live is None and not (new.get("metadata") or {}).get("managedFields"):
        owned = _stripped(merge.compare(before, new, shape)[0], reset)
        return managed.entries(Managed({me: owned}, {me: now}, {me: new["apiVersion"]})) if owned else []
    owners = managed.read(before) if subresource else managed.read_requested(new, before)
    plain, after = _without_managed(before), _without_managed(new)
    changed, removed = merge.compare(plain, after, shape)
    changed, removed = _stripped(changed, reset), _stripped(removed, reset)
    fields = {}
    for other, owned in owners.fields.items():
        rest = fieldset.difference(fieldset.difference(owned, changed), removed)
        if rest or not owned:
            fields[other] = rest
    times, versions = dict(owners.times), dict(owners.versions)
    if changed:
        fields[me] = fieldset.union(fields.get(me, {}), changed)
        times[me] = now
        versions[me] = new["apiVersion"]
    return managed.entries(managed.capped(Managed(fields, times, versions)))


def _check(config: Manifest, shape: Shape) -> None:
    found = merge.problems(config, shape)
    if found:
        meta = config.get("metadata") or {}
        version = config.get("apiVersion", "")
        version = version if "/" in version else f"/{version}"
        which = f"({meta.get('namespace', '')}/{meta.get('name', '')}; {version}, Kind={config.get('kind', '')})"
        detail = found[0] if len(found) == 1 else "errors:\n" + "\n".join(f"  {line}" for line in found)
        raise ApplyError(f"failed to create typed patch object {which}: {detail}")


def _skeleton(config: Manifest) -> Manifest:
    return {"apiVersion": config["apiVersion"], "kind": config["kind"], "metadata": {}}


def _first_owners(live: Manifest, shape: Shape, zero: Manifest, now: datetime) -> Managed:
    """Owners of an object that nobody tracked so far: one manager for all that is there."""
    me = Manager(_BEFORE_FIRST_APPLY, "Update", live["apiVersion"], "")
    owned = _stripped(merge.compare(zero, _without_managed(live), shape)[0], ())
    return Managed({me: owned}, {me: now}, {me: live["apiVersion"]})


def _pruned(merged: Manifest, last: FieldSet, owned: Iterable[FieldSet], shape: Shape) -> Manifest:
    """The merged object without what the manager applied before and nobody owns now."""
    gone = merge.with_parents(last, shape)
    for fields in owned:
        gone = fieldset.difference(gone, merge.with_parents(fields, shape))
        if not gone:
            return merged
    rest: Manifest = merge.remove(merged, gone, shape) or {}
    return rest


def _yielded(
    plain: Manifest,
    merged: Manifest,
    fields: dict[Manager, FieldSet],
    me: Manager,
    shape: Shape,
    *,
    force: bool,
    reset: Iterable[Path],
) -> dict[Manager, FieldSet]:
    """The owners after the change: others lose what was changed or removed. Raises ApplyConflict unless forced."""
    changed, removed = merge.compare(plain, merged, shape)
    changed = _stripped(changed, reset)
    conflicts: list[tuple[Manager, str]] = []
    out = {me: fields[me]}
    for other in sorted(fields, key=lambda manager: manager.name):
        if other == me:
            continue
        owned = fields[other]
        taken = fieldset.intersection(owned, changed)
        conflicts += [(other, path) for path in fieldset.paths(taken)]
        rest = fieldset.difference(fieldset.difference(owned, taken), removed)
        if rest or not owned:
            out[other] = rest
    if conflicts and not force:
        raise ApplyConflict(conflicts)
    return out


def _stripped(fields: FieldSet, reset: Iterable[Path]) -> FieldSet:
    out = {key: node for key, node in fields.items() if key not in _NEVER_OWNED}
    metadata = {key: node for key, node in fields.get("f:metadata", {}).items() if key not in _NEVER_OWNED_METADATA}
    if metadata:
        out["f:metadata"] = metadata
    for path in reset:
        out = fieldset.without(out, path)
    return out


def _without_managed(obj: Manifest) -> Manifest:
    meta = obj.get("metadata")
    if not meta or "managedFields" not in meta:
        return obj
    return {**obj, "metadata": {key: value for key, value in meta.items() if key != "managedFields"}}


def _without_paths(obj: Manifest, paths: Iterable[Path]) -> Manifest:
    for path in paths:
        obj = _without_path(obj, path)
    return obj


def _without_path(obj: Any, path: Path) -> Any:
    if not isinstance(obj, dict) or path[0] not in obj:
        return obj
    rest = {key: value for key, value in obj.items() if key != path[0]}
    if len(path) > 1:
        rest[path[0]] = _without_path(obj[path[0]], path[1:])
    return rest
