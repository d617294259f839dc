# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whether sending something would change anything: a manifest or patch against the live object. Pure.

A server-side apply is needed when a wanted field is not so on the live object (somebody changed it), or when a field
that we own is no longer wanted (we dropped it). What we own, and which lists are merged by key and which are atomic,
stands in the object's own managedFields, so neither a schema nor a memory is needed, and a restarted operator knows it.
Where the server writes a value otherwise than we do ("0.5" becomes "500m") this says "not in sync";
`kaito.kube.apply` then remembers what the server made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kaito.kube.manifest import Manifest
from kaito.kube.store import FieldSet

_IDENTITY = frozenset({"apiVersion", "kind"})
_IDENTITY_META = frozenset({"name", "namespace", "uid", "resourceVersion"})


def is_in_sync(wanted: Manifest, live: Manifest, owned: FieldSet) -> bool:
    """Whether applying `wanted` would leave `live` as it is; `owned` is the field set that we applied before."""
    return _map_in_sync(desired(wanted), live, owned, ignored=frozenset())


def desired(manifest: Manifest) -> Manifest:
    """The manifest without what only names the object."""
    content = {key: value for key, value in manifest.items() if key not in _IDENTITY}
    meta = {key: value for key, value in manifest.get("metadata", {}).items() if key not in _IDENTITY_META}
    content.pop("metadata", None)
    return {"metadata": meta, **content} if meta else content


def projected(live: Any, wanted: Any) -> Any:
    """What `live` has at the fields of `wanted`: lists as a whole, missing fields left out."""
    if isinstance(wanted, dict) and isinstance(live, dict):
        return {key: projected(live[key], value) for key, value in wanted.items() if key in live}
    return live


def is_noop_merge(live: Manifest, patch: Manifest) -> bool:
    """Whether a JSON merge patch would leave `live` as it is (a resourceVersion in it is a condition, no change)."""
    meta = patch.get("metadata") or {}
    change = {**patch, "metadata": {key: value for key, value in meta.items() if key not in _IDENTITY_META}}
    return _is_noop(live, change)


def _is_noop(live: Any, patch: Any) -> bool:
    if not isinstance(patch, dict):
        return bool(live == patch)
    if not isinstance(live, dict):
        return False
    return all(
        live.get(key) is None if value is None else key in live and _is_noop(live[key], value)
        for key, value in patch.items()
    )


def _in_sync(wanted: Any, live: Any, owned: FieldSet | None) -> bool:
    if isinstance(wanted, dict):
        return isinstance(live, dict) and _map_in_sync(wanted, live, owned, ignored=frozenset())
    if isinstance(wanted, list):
        return isinstance(live, list) and _list_in_sync(wanted, live, owned)
    return type(wanted) is type(live) and bool(wanted == live)


def _map_in_sync(wanted: Manifest, live: Manifest, owned: FieldSet | None, *, ignored: frozenset[str]) -> bool:
    """`ignored`: the key fields of a list item, which the server may have added to what we own."""
    if owned is not None and not owned and wanted:
        return wanted == live  # owned as a whole: an atomic map
    for key, value in wanted.items():
        if value is None:
            continue
        if key not in live or not _in_sync(value, live[key], (owned or {}).get(f"f:{key}")):
            return False
    return all(
        entry[2:] in ignored or wanted.get(entry[2:]) is not None for entry in owned or {} if entry.startswith("f:")
    )


def _list_in_sync(wanted: list[Any], live: list[Any], owned: FieldSet | None) -> bool:
    if owned and any(entry.startswith("k:") for entry in owned):
        return _keyed_in_sync(wanted, live, owned)
    if owned and any(entry.startswith("v:") for entry in owned):
        ours = [msgspec.json.decode(entry[2:]) for entry in owned if entry.startswith("v:")]
        return all(value in live for value in wanted) and all(value in wanted for value in ours)
    if owned is not None:
        return wanted == live  # an atomic list
    return len(wanted) == len(live) and all(_in_sync(*pair, None) for pair in zip(wanted, live, strict=True))


def _keyed_in_sync(wanted: list[Any], live: list[Any], owned: FieldSet) -> bool:
    """A list merged by key: ours must be there as wanted, and nothing else of ours; other items are not ours."""
    claims = [(msgspec.json.decode(entry[2:]), entry) for entry in owned if entry.startswith("k:")]
    names = frozenset(claims[0][0])
    kept = set()
    for item in wanted:
        claim = next(((keys, entry) for keys, entry in claims if _has_keys(item, keys)), None)
        if claim is None:
            return False
        keys, entry = claim
        kept.add(entry)
        found = next((candidate for candidate in live if _has_keys(candidate, keys)), None)
        if found is None or not _map_in_sync(item, found, owned[entry], ignored=names):
            return False
    return len(kept) == len(claims)


def _has_keys(item: Any, keys: Mapping[str, Any]) -> bool:
    """Whether an item has these key fields; one that it leaves out is one that the server fills in."""
    return isinstance(item, dict) and all(item.get(name, value) == value for name, value in keys.items())
