# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Validation of what governs access and admission: RBAC, webhook configurations, disruption budgets, quotas."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from kaito.engine.schema import cel, syntax
from kaito.engine.schema.celtypes import Types
from kaito.engine.schema.field import FieldError, duplicate, forbidden, invalid, required, unsupported
from kaito.engine.schema.quantity import value_of
from kaito.kube.manifest import Manifest

_RBAC: Final = "rbac.authorization.k8s.io"
_SUBJECTS: Final = ("Group", "ServiceAccount", "User")
_OPERATIONS: Final = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")


def validate_role(obj: Manifest) -> list[FieldError]:
    """What is wrong with a Role: rules about URLs belong into ClusterRoles."""
    return _rules(obj, namespaced=True)


def validate_cluster_role(obj: Manifest) -> list[FieldError]:
    """What is wrong with a ClusterRole."""
    return _rules(obj, namespaced=False)


def _rules(obj: Manifest, *, namespaced: bool) -> list[FieldError]:
    errors = []
    for index, rule in enumerate(obj.get("rules") or []):
        at = f"rules[{index}]"
        if not rule.get("verbs"):
            errors.append(required(f"{at}.verbs", "verbs must contain at least one value"))
        urls = rule.get("nonResourceURLs") or []
        if urls:
            if namespaced:
                path = f"{at}.nonResourceURLs"
                errors.append(invalid(path, urls, "namespaced rules cannot apply to non-resource URLs"))
            continue
        if not rule.get("apiGroups"):
            detail = "resource rules must supply at least one api group"
            errors.append(required(f"{at}.apiGroups", detail))
        if not rule.get("resources"):
            detail = "resource rules must supply at least one resource"
            errors.append(required(f"{at}.resources", detail))
    return errors


def validate_role_binding(obj: Manifest) -> list[FieldError]:
    """What is wrong with a RoleBinding or ClusterRoleBinding."""
    reference = obj.get("roleRef") or {}
    kinds = ("ClusterRole",) if obj.get("kind") == "ClusterRoleBinding" else ("ClusterRole", "Role")
    errors = []
    if reference.get("apiGroup") != _RBAC:
        errors.append(unsupported("roleRef.apiGroup", reference.get("apiGroup") or "", (_RBAC,)))
    if reference.get("kind") not in kinds:
        errors.append(unsupported("roleRef.kind", reference.get("kind") or "", kinds))
    if not reference.get("name"):
        errors.append(required("roleRef.name"))
    for index, subject in enumerate(obj.get("subjects") or []):
        errors += _subject(subject, f"subjects[{index}]", needs_namespace=True)
    return errors


def _subject(subject: Manifest, path: str, *, needs_namespace: bool) -> list[FieldError]:
    errors = []
    if not subject.get("name"):
        errors.append(required(f"{path}.name"))
    kind = subject.get("kind")
    if kind not in _SUBJECTS:
        return [*errors, unsupported(f"{path}.kind", kind or "", ("ServiceAccount", "User", "Group"))]
    if kind == "ServiceAccount" and needs_namespace and not subject.get("namespace"):
        errors.append(required(f"{path}.namespace"))
    return errors


def validate_role_binding_update(obj: Manifest, old: Manifest) -> list[FieldError]:
    """The role that a binding refers to may not change."""
    new = obj.get("roleRef") or {}
    if new == (old.get("roleRef") or {}):
        return []
    shown = {"APIGroup": new.get("apiGroup") or "", "Kind": new.get("kind") or "", "Name": new.get("name") or ""}
    return [invalid("roleRef", shown, "cannot change roleRef")]


def validate_webhooks(obj: Manifest) -> list[FieldError]:
    """What is wrong with a Validating- or MutatingWebhookConfiguration."""
    errors = []
    names: set[str] = set()
    for index, hook in enumerate(obj.get("webhooks") or []):
        at, name = f"webhooks[{index}]", hook.get("name") or ""
        errors += _webhook_name(name, f"{at}.name")
        if name and name in names:
            errors.append(duplicate(f"{at}.name", name))
        names.add(name)
        errors += _webhook(hook, at)
    return errors


def _webhook_name(name: str, path: str) -> list[FieldError]:
    if not name:
        return [required(path)]
    problems = [invalid(path, name, problem) for problem in syntax.dns_subdomain_problems(name)]
    if not problems and name.count(".") < 2:
        problems.append(invalid(path, name, "should be a domain with at least three segments separated by dots"))
    return problems


def _webhook(hook: Manifest, path: str) -> list[FieldError]:
    errors = _review_versions(hook.get("admissionReviewVersions") or [], f"{path}.admissionReviewVersions")
    effects = hook.get("sideEffects")
    if effects is None:
        errors.append(required(f"{path}.sideEffects", "must specify one of None, NoneOnDryRun"))
    elif effects not in ("None", "NoneOnDryRun"):
        errors.append(unsupported(f"{path}.sideEffects", effects, ("None", "NoneOnDryRun")))
    if not 1 <= hook.get("timeoutSeconds", 10) <= 30:
        detail = "the timeout value must be between 1 and 30 seconds"
        errors.append(invalid(f"{path}.timeoutSeconds", hook["timeoutSeconds"], detail))
    for name, values in (("failurePolicy", ("Fail", "Ignore")), ("matchPolicy", ("Equivalent", "Exact"))):
        if hook.get(name) not in (None, *values):
            errors.append(unsupported(f"{path}.{name}", hook[name], values))
    errors += _client_config(hook.get("clientConfig") or {}, f"{path}.clientConfig")
    for index, rule in enumerate(hook.get("rules") or []):
        errors += _webhook_rule(rule, f"{path}.rules[{index}]")
    return errors + _match_conditions(hook.get("matchConditions") or [], f"{path}.matchConditions")


def _review_versions(versions: list[str], path: str) -> list[FieldError]:
    if not versions:
        return [required(path, "must specify one of v1, v1beta1")]
    if not {"v1", "v1beta1"} & set(versions):
        return [invalid(path, versions, "must include at least one of v1, v1beta1")]
    return []


def _client_config(config: Manifest, path: str) -> list[FieldError]:
    url, service = config.get("url"), config.get("service")
    if (url is None) == (service is None):
        return [required(path, "exactly one of url or service is required")]
    if url is not None:
        return _url(url, f"{path}.url")
    found = service or {}
    errors = [required(f"{path}.service.{name}") for name in ("name", "namespace") if not found.get(name)]
    port = found.get("port", 443)
    if syntax.port_number_problems(port):
        errors.append(
            invalid(f"{path}.service.port", port, "port is not valid: must be between 1 and 65535, inclusive")
        )
    return errors


def _url(url: str, path: str) -> list[FieldError]:
    form = "desired format: https://host[/path]"
    parts = urlsplit(url)
    errors = []
    if parts.scheme != "https":
        errors.append(invalid(path, parts.scheme, f"'https' is the only allowed URL scheme; {form}"))
    if not parts.netloc:
        errors.append(invalid(path, parts.netloc, f"host must be specified; {form}"))
    if parts.username is not None:
        errors.append(invalid(path, "", "user information is not permitted in the URL"))
    if parts.fragment:
        errors.append(invalid(path, parts.fragment, "fragments are not permitted in the URL"))
    if parts.query:
        errors.append(invalid(path, parts.query, "query parameters are not permitted in the URL"))
    return errors


def _webhook_rule(rule: Manifest, path: str) -> list[FieldError]:
    errors = [
        required(f"{path}.{name}")
        for name in ("apiGroups", "apiVersions", "resources", "operations")
        if not rule.get(name)
    ]
    for index, operation in enumerate(rule.get("operations") or []):
        if operation not in _OPERATIONS:
            errors.append(unsupported(f"{path}.operations[{index}]", operation, _OPERATIONS))
    if rule.get("scope") not in (None, "*", "Cluster", "Namespaced"):
        errors.append(unsupported(f"{path}.scope", rule["scope"], ("*", "Cluster", "Namespaced")))
    return errors


def _match_conditions(conditions: list[Manifest], path: str) -> list[FieldError]:
    errors = []
    names: set[str] = set()
    for index, condition in enumerate(conditions):
        at, name, expression = f"{path}[{index}]", condition.get("name") or "", condition.get("expression") or ""
        if not name:
            errors.append(required(f"{at}.name"))
        elif name in names:
            errors.append(duplicate(f"{at}.name", name))
        names.add(name)
        if not expression.strip():
            errors.append(required(f"{at}.expression"))
            continue
        problem = _condition_problem(expression)
        if problem:
            errors.append(invalid(f"{at}.expression", expression, problem))
    return errors


def _condition_problem(expression: str) -> str:
    check = cel.checker(object=None, oldObject=None, authorizer=None, request=Types(_REQUEST))
    try:
        found = check(expression)
    except cel.CelError as error:
        return f"compilation failed: {error}"
    return "" if found in ("BOOL", "DYN") else "must evaluate to bool"


_TEXT: Final[Manifest] = {"type": "string"}
_ANY: Final[Manifest] = {"x-kubernetes-int-or-string": True}
_KIND: Final[Manifest] = {"type": "object", "properties": dict.fromkeys(("group", "version", "kind"), _TEXT)}
_RESOURCE: Final[Manifest] = {"type": "object", "properties": dict.fromkeys(("group", "version", "resource"), _TEXT)}
_TEXTS: Final[Manifest] = {"type": "array", "items": _TEXT}
_USER: Final[Manifest] = {
    "type": "object",
    "properties": {
        "username": _TEXT,
        "uid": _TEXT,
        "groups": _TEXTS,
        "extra": {"type": "object", "additionalProperties": _TEXTS},
    },
}
_REQUEST: Final[Manifest] = {
    "type": "object",
    "properties": {
        "kind": _KIND,
        "resource": _RESOURCE,
        "subResource": _TEXT,
        "requestKind": _KIND,
        "requestResource": _RESOURCE,
        "requestSubResource": _TEXT,
        "name": _TEXT,
        "namespace": _TEXT,
        "operation": _TEXT,
        "userInfo": _USER,
        "dryRun": {"type": "boolean"},
        "options": _ANY,
    },
}
"""What a condition may ask of a request: an AdmissionRequest without its objects."""


_PERCENT_RULE: Final = (
    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for "
    "validation is '[0-9]+%')"
)


def validate_disruption_budget(obj: Manifest) -> list[FieldError]:
    """What is wrong with a PodDisruptionBudget."""
    spec = obj.get("spec") or {}
    if spec.get("minAvailable") is not None and spec.get("maxUnavailable") is not None:
        return [forbidden("spec", "minAvailable and maxUnavailable cannot be both set")]
    errors = []
    for name in ("minAvailable", "maxUnavailable"):
        value = spec.get(name)
        if isinstance(value, int) and value < 0:
            errors.append(invalid(f"spec.{name}", value, "must be greater than or equal to 0"))
        elif isinstance(value, str) and not (value.endswith("%") and value[:-1].isdigit()):
            errors.append(
                invalid(
                    f"spec.{name}",
                    value,
                    _PERCENT_RULE,
                )
            )
    return errors


def validate_quota(obj: Manifest) -> list[FieldError]:
    """What is wrong with a ResourceQuota."""
    hard = (obj.get("spec") or {}).get("hard") or {}
    errors: list[FieldError] = []
    for name, amount in hard.items():
        path = f"spec.hard[{name}]"
        if "/" not in name and name not in _QUOTA_NAMES:
            errors.append(invalid(path, name, "must be a standard resource type or fully qualified"))
            errors.append(invalid(path, name, "must be a standard resource for quota"))
        if value_of(amount) < 0:
            errors.append(invalid(path, amount, "must be greater than or equal to 0"))
    return errors


_QUOTA_NAMES: Final = frozenset(
    (
        *("cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory", "requests.storage"),
        *("requests.ephemeral-storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage"),
        *("pods", "services", "services.nodeports", "services.loadbalancers", "replicationcontrollers", "secrets"),
        *("configmaps", "persistentvolumeclaims", "resourcequotas"),
    )
)
"""The names without a domain that a quota may limit."""
