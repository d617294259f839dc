# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""CustomResourceDefinitions as objects: defaults, validity, which names they get, what conditions they show.

The rules for the schemas inside are in `crd_schema.py`. Installing the kinds is the registry's business. Source:
apiextensions-apiserver/pkg/apis/apiextensions/validation, 1.36.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from kaito.engine.schema import syntax
from kaito.engine.schema.crd_schema import schema_errors
from kaito.engine.schema.field import FieldError, forbidden, invalid, required, unsupported
from kaito.engine.schema.validation import validate_metadata, validate_metadata_update
from kaito.kube.manifest import Manifest, merged_conditions

_APPROVED: Final = "api-approved.kubernetes.io"
_APPROVAL_RULE: Final = (
    f'protected groups must have approval annotation "{_APPROVED}", '
    "see https://github.com/kubernetes/enhancements/pull/1111"
)
_COLUMN_TYPES: Final = ("boolean", "date", "integer", "number", "string")
_GO_VERSION: Final = (
    "Name",
    "Served",
    "Storage",
    "Deprecated",
    "DeprecationWarning",
    "Schema",
    "Subresources",
    "AdditionalPrinterColumns",
    "SelectableFields",
)


def apply_defaults(crd: Manifest) -> None:
    """Fill in the defaults of a CustomResourceDefinition, in place."""
    spec = crd.setdefault("spec", {})
    names = spec.setdefault("names", {})
    kind = names.get("kind")
    if kind:
        names.setdefault("singular", kind.lower())
        names.setdefault("listKind", f"{kind}List")
    conversion = spec.setdefault("conversion", {})
    conversion.setdefault("strategy", "None")
    service = ((conversion.get("webhook") or {}).get("clientConfig") or {}).get("service")
    if service:
        service.setdefault("port", 443)


def initial_status(crd: Manifest) -> Manifest:
    """The status of a CRD on creation: the storage version counts as stored."""
    stored = [version["name"] for version in _versions(crd) if version.get("storage")]
    return {"conditions": None, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored[:1]}


def updated_status(crd: Manifest, old: Manifest) -> Manifest:
    """The status to keep when the spec changes: a new storage version is added to the stored ones."""
    status = dict(old.get("status") or {})
    stored = list(status.get("storedVersions") or [])
    stored += [
        version["name"] for version in _versions(crd) if version.get("storage") and version["name"] not in stored
    ]
    return {**status, "storedVersions": stored}


def _versions(crd: Manifest) -> list[Manifest]:
    return list((crd.get("spec") or {}).get("versions") or [])


def validate(crd: Manifest, old: Manifest | None = None) -> list[FieldError]:
    """What is wrong with a defaulted CRD; with `old`, also what may not change."""
    spec, meta = crd.get("spec") or {}, crd.get("metadata") or {}
    errors = validate_metadata(crd) if old is None else validate_metadata_update(crd, old)
    group, names = spec.get("group") or "", spec.get("names") or {}
    if old is None:
        errors += _group(group, meta)
        wanted = f"{names.get('plural') or ''}.{group}"
        if meta.get("name") != wanted:
            detail = 'must be spec.names.plural+"."+spec.group'
            errors.append(invalid("metadata.name", meta.get("name") or "", detail))
    else:
        errors += _immutable(crd, old)
    scope = spec.get("scope") or ""
    if not scope:
        errors.append(required("spec.scope"))
    elif scope not in ("Cluster", "Namespaced"):
        errors.append(unsupported("spec.scope", scope, ("Cluster", "Namespaced")))
    errors += _version_list(crd) + _names(names) + _conversion(spec.get("conversion") or {})
    return list(dict.fromkeys(errors))


def _group(group: str, meta: Manifest) -> list[FieldError]:
    if not group:
        return [required("spec.group")]
    errors = [invalid("spec.group", group, problem) for problem in syntax.dns_subdomain_problems(group)]
    if not errors and "." not in group:
        errors.append(invalid("spec.group", group, "should be a domain with at least one dot"))
    approved = (meta.get("annotations") or {}).get(_APPROVED)
    if group.endswith((".k8s.io", ".kubernetes.io")) and not approved:
        errors.append(required(f"metadata.annotations[{_APPROVED}]", _APPROVAL_RULE))
    return errors


def _immutable(crd: Manifest, old: Manifest) -> list[FieldError]:
    spec, before = crd.get("spec") or {}, old.get("spec") or {}
    errors = []
    for name in ("group", "scope"):
        if spec.get(name) != before.get(name):
            errors.append(invalid(f"spec.{name}", spec.get(name), "field is immutable"))
    for name in ("kind", "plural"):
        value = (spec.get("names") or {}).get(name)
        if value != (before.get("names") or {}).get(name):
            errors.append(invalid(f"spec.names.{name}", value, "field is immutable"))
    return errors


def _version_list(crd: Manifest) -> list[FieldError]:
    versions = _versions(crd)
    if not versions:
        return [required("spec.versions", "must have at least one version")]
    errors = []
    names = [version.get("name") or "" for version in versions]
    for index, name in enumerate(names):
        problems = [invalid("", name, problem) for problem in syntax.dns_1035_problems(name)]
        for error in problems:
            errors.append(FieldError(f"spec.versions[{index}].name", error.reason, error.message))
            if index == 0:
                errors.append(FieldError("spec.version", error.reason, error.message))
    if len(set(names)) < len(names):
        errors.append(_bad_versions(versions, "must contain unique version names"))
    errors += _stored(crd, versions)
    shared = len({repr(version.get("schema")) for version in versions}) == 1
    for index, version in enumerate(versions):
        errors += _version(version, f"spec.versions[{index}]", shared=shared)
        if shared and (version.get("schema") or {}).get("openAPIV3Schema"):
            break
    return errors


def _stored(crd: Manifest, versions: list[Manifest]) -> list[FieldError]:
    storage = [version.get("name") for version in versions if version.get("storage")]
    errors = []
    if len(storage) != 1:
        errors.append(_bad_versions(versions, "must have exactly one version marked as storage version"))
    stored = (crd.get("status") or {}).get("storedVersions") or []
    if not stored:
        errors.append(invalid("status.storedVersions", None, "must have at least one stored version"))
    elif storage and storage[-1] not in stored:
        errors.append(invalid("status.storedVersions", stored, f"must have the storage version {storage[-1]}"))
    known = {version.get("name") for version in versions}
    for index, name in enumerate(stored):
        if name not in known:
            detail = (
                f"missing from spec.versions; {name} was previously a storage version, and must remain in "
                f"spec.versions until a storage migration ensures no data remains persisted in {name} and "
                f"removes {name} from status.storedVersions"
            )
            errors.append(invalid(f"status.storedVersions[{index}]", name, detail))
    return errors


def _bad_versions(versions: list[Manifest], detail: str) -> FieldError:
    """The server's message shows the versions as Go fields: names and flags; shared schemas stand elsewhere there."""
    shown = []
    for version in versions:
        flags = (bool(version.get(name)) for name in ("served", "storage", "deprecated"))
        shown.append(dict(zip(_GO_VERSION, (version.get("name"), *flags, *[None] * 5), strict=True)))
    text = json.dumps(shown, separators=(",", ":"))
    return FieldError("spec.versions", "FieldValueInvalid", f"Invalid value: {text}: {detail}")


def _version(version: Manifest, path: str, *, shared: bool) -> list[FieldError]:
    schema = (version.get("schema") or {}).get("openAPIV3Schema")
    if schema is None:
        return [required(f"{path}.schema.openAPIV3Schema")]
    at = "spec.validation.openAPIV3Schema" if shared else f"{path}.schema.openAPIV3Schema"
    base = "spec" if shared else path
    errors = schema_errors(schema, at)
    scale = (version.get("subresources") or {}).get("scale")
    if scale is not None:
        errors += _scale(scale, f"{base}.subresources.scale")
    for index, column in enumerate(version.get("additionalPrinterColumns") or []):
        errors += _column(column, f"{base}.additionalPrinterColumns[{index}]")
    return errors


def _scale(scale: Manifest, path: str) -> list[FieldError]:
    errors = []
    for name, root in (("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")):
        value = scale.get(name) or ""
        if not value:
            errors.append(required(f"{path}.{name}"))
        elif not value.startswith("."):
            errors.append(invalid(f"{path}.{name}", value, "must be a simple json path starting with ."))
        elif not value.startswith(root):
            errors.append(invalid(f"{path}.{name}", value, f"should be a json path under {root[:-1]}"))
    selector = scale.get("labelSelectorPath")
    if selector and not selector.startswith((".spec.", ".status.")):
        errors.append(
            invalid(f"{path}.labelSelectorPath", selector, "should be a json path under either .status or .spec")
        )
    return errors


def _column(column: Manifest, path: str) -> list[FieldError]:
    errors = [required(f"{path}.{name}") for name in ("name", "type") if not column.get(name)]
    if column.get("type") and column["type"] not in _COLUMN_TYPES:
        errors.append(invalid(f"{path}.type", column["type"], f"must be one of {','.join(_COLUMN_TYPES)}"))
    json_path = column.get("jsonPath") or ""
    if not json_path:
        errors.append(required(f"{path}.JSONPath"))
    elif not json_path.startswith("."):
        errors.append(
            invalid(f"{path}.JSONPath", json_path, "is an invalid path: must be a simple json path starting with .")
        )
    return errors


def _names(names: Manifest) -> list[FieldError]:
    errors = []
    for name in ("plural", "singular", "kind", "listKind"):
        value = names.get(name) or ""
        if not value:
            errors.append(required(f"spec.names.{name}"))
            continue
        mixed = name in ("kind", "listKind")
        prefix = "may have mixed case, but should otherwise match: " if mixed else ""
        problems = syntax.dns_1035_problems(value.lower() if mixed else value)
        errors += [invalid(f"spec.names.{name}", value, prefix + problem) for problem in problems]
    for group in ("shortNames", "categories"):
        for index, value in enumerate(names.get(group) or []):
            problems = syntax.dns_1035_problems(value)
            errors += [invalid(f"spec.names.{group}[{index}]", value, problem) for problem in problems]
    if names.get("kind") and names["kind"] == names.get("listKind"):
        errors.append(invalid("spec.names.listKind", names["listKind"], "kind and listKind may not be the same"))
    return errors


def _conversion(conversion: Manifest) -> list[FieldError]:
    strategy, webhook = conversion.get("strategy") or "", conversion.get("webhook") or {}
    if strategy not in ("None", "Webhook"):
        return [unsupported("spec.conversion.strategy", strategy, ("None", "Webhook"))]
    versions, client = webhook.get("conversionReviewVersions"), webhook.get("clientConfig")
    if strategy == "None":
        if client:
            return [
                forbidden(
                    "spec.conversion.webhookClientConfig", "should not be set when strategy is not set to Webhook"
                )
            ]
        return []
    errors = []
    if client is None:
        errors.append(required("spec.conversion.webhookClientConfig", "required when strategy is set to Webhook"))
    elif (client.get("url") is None) == (client.get("service") is None):
        errors.append(required("spec.conversion.webhookClientConfig", "exactly one of url or service is required"))
    if not versions:
        errors.append(required("spec.conversion.conversionReviewVersions"))
    elif not {"v1", "v1beta1"} & set(versions):
        detail = "must include at least one of v1, v1beta1"
        errors.append(invalid("spec.conversion.conversionReviewVersions", versions, detail))
    return errors


def accepted_status(crd: Manifest, others: Iterable[Manifest], now: datetime) -> Manifest:
    """The status that shows which names the CRD gets beside `others` of its group, and whether it is served.

    A name that another CRD holds already is not accepted; then the kind is not established.
    """
    status = dict(crd.get("status") or {})
    wanted = (crd.get("spec") or {}).get("names") or {}
    conflict = _conflict(wanted, others)
    before: list[Any] = status.get("conditions") or []
    established = any(item.get("type") == "Established" and item.get("status") == "True" for item in before)
    if conflict is None:
        accepted = _condition("NamesAccepted", True, "NoConflicts", "no conflicts found")
        served = _condition("Established", True, "InitialNamesAccepted", "the initial names have been accepted")
        status["acceptedNames"] = dict(wanted)
    else:
        accepted = _condition("NamesAccepted", False, *conflict)
        served = _condition("Established", established, "NotAccepted", "not all names are accepted")
        status.setdefault("acceptedNames", {"plural": "", "kind": ""})
    status["conditions"] = merged_conditions(before, [accepted, served], now)
    return status


def _condition(type_: str, holds: bool, reason: str, message: str) -> Manifest:
    return {"type": type_, "status": "True" if holds else "False", "reason": reason, "message": message}


def _conflict(wanted: Manifest, others: Iterable[Manifest]) -> tuple[str, str] | None:
    taken_names: set[str] = set()
    taken_kinds: set[str] = set()
    for other in others:
        names = (other.get("status") or {}).get("acceptedNames") or {}
        taken_names |= {names.get("plural") or "", names.get("singular") or "", *(names.get("shortNames") or [])}
        taken_kinds |= {names.get("kind") or "", names.get("listKind") or ""}
    checks = (
        ("PluralConflict", [wanted.get("plural")], taken_names),
        ("SingularConflict", [wanted.get("singular")], taken_names),
        ("ShortNamesConflict", wanted.get("shortNames") or [], taken_names),
        ("KindConflict", [wanted.get("kind")], taken_kinds),
        ("ListKindConflict", [wanted.get("listKind")], taken_kinds),
    )
    for reason, values, taken in reversed(checks):
        for value in values:
            if value and value in taken:
                return reason, f'"{value}" is already in use'
    return None
