# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""From a PATCH request to a change of an object: the four patch types, decoded and carried out.

The arithmetic is in `kaito.engine.patching`; here is which of it, and what its failures mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from kaito.engine.kinds import Kind
from kaito.engine.objects.strategy import Strategy
from kaito.engine.patching import apply as ssa
from kaito.engine.patching import patch as patches
from kaito.engine.schema.builtin import OBJECT_META
from kaito.engine.schema.field import invalid as invalid_field
from kaito.engine.schema.gotypes import in_struct_order
from kaito.engine.schema.shape import compact
from kaito.engine.wire.codec import Decoded, decode_json, decode_yaml, is_too_deep, media_type
from kaito.engine.wire.context import WriteContext
from kaito.engine.wire.requests import Request, is_true
from kaito.engine.wire.status import StatusError, bad_request, conflict, invalid, unsupported_media_type
from kaito.kube.manifest import Manifest

PatchType = Literal["json", "merge", "strategic", "apply"]

TYPES: dict[str, PatchType] = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/apply-patch+yaml": "apply",
}


@dataclass(frozen=True, slots=True)
class PatchRequest:
    """A decoded patch."""

    type: PatchType
    body: Any
    duplicates: tuple[str, ...] = ()
    force: bool = False


def patch_type(request: Request, kind: Kind) -> PatchType:
    """Which patch the Content-Type means. Raises StatusError 415."""
    found = TYPES.get(media_type(request.header("content-type")))
    if found is None:
        raise StatusError(415, "UnsupportedMediaType", "415: Unsupported Media Type", details={})
    if found == "strategic" and kind.is_custom:
        accepted = ", ".join(name for name, type_ in TYPES.items() if type_ != "strategic")
        raise unsupported_media_type(
            f"the body of the request was in an unknown format - accepted media types include: {accepted}"
        )
    return found


def parse_patch(request: Request, type_: PatchType) -> PatchRequest:
    """The patch in the body. Raises StatusError 400."""
    try:
        decoded: Decoded = decode_yaml(request.body) if type_ == "apply" else decode_json(request.body)
    except ValueError as error:
        text = f"error decoding YAML: {error}" if type_ == "apply" else str(error)
        raise bad_request(text) from None
    return PatchRequest(type_, decoded.value, tuple(decoded.duplicates), is_true(request.param("force")))


_TOO_DEEP = "the patched object exceeds the maximum depth"


def patched(live: Manifest, patch: PatchRequest, strategy: Strategy, ctx: WriteContext) -> Manifest:
    """The object after a JSON, merge or strategic patch, decoded and defaulted. Raises StatusError."""
    try:
        match patch.type:
            case "json":
                result = patches.json_patch(live, patch.body)
                if is_too_deep(result):
                    raise bad_request(_TOO_DEEP)
            case "merge":
                result = patches.merge_patch(live, patch.body)
            case _:
                result = patches.strategic_merge_patch(live, patch.body, strategy.shape)
    except patches.PatchError as error:
        raise StatusError(error.status, error.reason, str(error), details=error.details) from None
    except RecursionError:
        raise bad_request(_TOO_DEEP) from None
    if not isinstance(result, dict):
        raise bad_request("the patched object is not an object")
    _check_kind(patch, result, strategy.kind)
    try:
        return strategy.decoded(result, ctx, duplicates=list(patch.duplicates))
    except StatusError as error:
        if error.reason != "BadRequest":
            raise
        raise _does_not_fit(patch, result, error) from None


def _check_kind(patch: PatchRequest, result: Manifest, kind: Kind) -> None:
    """Raises StatusError 422 when a patch makes another kind of a built-in object."""
    found, version = result.get("kind"), result.get("apiVersion")
    if kind.is_custom or patch.type == "strategic" or (found, version) == (kind.kind, kind.api_version):
        return
    scheme = 'scheme "pkg/api/legacyscheme/scheme.go:30"'
    raise _does_not_fit(
        patch, result, bad_request(f'no kind "{found}" is registered for version "{version}" in {scheme}')
    )


def _does_not_fit(patch: PatchRequest, result: Manifest, error: StatusError) -> StatusError:
    """422 for a patch whose result is no such object. Kubernetes shows the result, or a strategic patch's own text."""
    shown = _go_map(patch.body) if patch.type == "strategic" else _as_printed(result)
    detail = error.message.partition(": ")[2] or error.message
    return invalid("", "", "", [invalid_field("patch", shown, detail)], kind_in_details=False)


def _as_printed(result: Manifest) -> str:
    """The object as JSON with sorted keys, but for the metadata, whose fields stand in the order of their struct."""
    metadata = result.get("metadata")
    parts = []
    for key in sorted(result):
        value = result[key]
        if value is metadata and isinstance(metadata, dict):
            value = in_struct_order(metadata, OBJECT_META)
            parts.append(f"{compact(key)}:{msgspec.json.encode(value).decode()}")
        else:
            parts.append(f"{compact(key)}:{compact(value)}")
    return "{" + ",".join(parts) + "}"


def _go_map(value: Any) -> str:
    """A value as Go prints it with %v."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_go_map(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(_go_map, value)) + "]"
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)


def applied(
    live: Manifest | None,
    config: Manifest,
    patch: PatchRequest,
    strategy: Strategy,
    ctx: WriteContext,
    *,
    subresource: str = "",
) -> Manifest:
    """The object after a server-side apply, field owners included. Raises StatusError."""
    try:
        result = ssa.apply(
            live,
            config,
            strategy.shape,
            manager=ctx.manager,
            now=ctx.now,
            force=patch.force,
            subresource=subresource,
            reset=strategy.reset(subresource),
        )
    except ssa.ApplyConflict as found:
        raise StatusError(409, "Conflict", str(found), details={"causes": found.causes}) from None
    except ssa.ApplyError as error:
        reason = "BadRequest" if error.status == 400 else ""
        raise StatusError(error.status, reason, str(error)) from None
    return strategy.from_apply(result, ctx)


def applied_config(patch: PatchRequest, kind: Kind, name: str) -> Manifest:
    """The applied manifest with what the URL says filled in. Raises StatusError 400."""
    config = patch.body
    if patch.duplicates:
        raise bad_request(f"error decoding YAML: error converting YAML to JSON: {patch.duplicates[0]}")
    if not isinstance(config, dict):
        raise bad_request("error decoding YAML: the applied configuration must be an object")
    if not config.get("apiVersion") or not config.get("kind"):
        raise bad_request("invalid object type: /, Kind=" if not config.get("kind") else "invalid object type")
    if config["kind"] != kind.kind or config["apiVersion"] != kind.api_version:
        wanted = f"{kind.api_version}, Kind={kind.kind}"
        raise bad_request(f"invalid object type: {config['apiVersion']}, Kind={config['kind']} (expected {wanted})")
    meta = config.setdefault("metadata", {})
    if not isinstance(meta, dict):
        raise bad_request("metadata must be an object")
    if meta.setdefault("name", name) != name:
        raise bad_request(f"the name of the object ({meta['name']}) does not match the name on the URL ({name})")
    return config


def refuse_stale(kind: Kind, live: Manifest, config: Manifest) -> None:
    """Raises StatusError 409 when the config was made from another state than the live one."""
    version = config["metadata"].get("resourceVersion")
    if version and version != live["metadata"]["resourceVersion"]:
        raise conflict(
            kind,
            live["metadata"]["name"],
            "the object has been modified; please apply your changes to the latest version and try again",
        )
