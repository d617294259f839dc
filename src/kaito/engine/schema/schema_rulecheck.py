# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the rules (`x-kubernetes-validations`) inside a CustomResourceDefinition are sound: they compile against the
types of their schema, are true or false, and speak of an old value only where there can be one.

Source: ValidateCustomResourceDefinitionOpenAPISchema in apiextensions-apiserver's validation.go, and
pkg/apiserver/schema/cel/compilation.go.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from kaito.engine.schema import cel
from kaito.engine.schema.celtypes import Types
from kaito.engine.schema.field import FieldError, forbidden, invalid, required, unsupported
from kaito.engine.schema.schema_rules import uses_old
from kaito.kube.manifest import Manifest

_RULES: Final = "x-kubernetes-validations"
_REASONS: Final = ("FieldValueRequired", "FieldValueForbidden", "FieldValueInvalid", "FieldValueDuplicate")
_STEP: Final = re.compile(r"\.([A-Za-z_]\w*)|\['((?:[^'\\]|\\.)*)'\]")
_NOTHING: Final = "rule is not specified"


def rule_errors(schema: Manifest, path: str) -> list[FieldError]:
    """What is wrong with the rules of an `openAPIV3Schema` at `path`."""
    return list(_walk(schema, path, unrelated=None, is_resource=True))


def _walk(schema: Any, path: str, *, unrelated: str | None, is_resource: bool = False) -> Iterator[FieldError]:
    """`unrelated` is the path of the part around this one whose values cannot be told from their older ones."""
    if not isinstance(schema, dict):
        return
    rules = schema.get(_RULES) or []
    if rules:
        yield from _plain_errors(rules, schema, f"{path}.{_RULES}")
        yield from _checked(rules, schema, f"{path}.{_RULES}", unrelated=unrelated, is_resource=is_resource)
    for name, below in (schema.get("properties") or {}).items():
        yield from _walk(below, f"{path}.properties[{name}]", unrelated=unrelated)
    at = f"{path}.items"
    is_related = schema.get("x-kubernetes-list-type") == "map"
    yield from _walk(schema.get("items"), at, unrelated=unrelated if is_related else (unrelated or at))
    yield from _walk(schema.get("additionalProperties"), f"{path}.additionalProperties", unrelated=unrelated)


def _plain_errors(rules: list[Manifest], schema: Manifest, path: str) -> Iterator[FieldError]:
    for index, rule in enumerate(rules):
        at = f"{path}[{index}]"
        text, message = rule.get("rule") or "", rule.get("message") or ""
        if not text.strip():
            yield required(f"{at}.rule", _NOTHING)
        if "message" in rule and not message.strip() and message:
            yield invalid(f"{at}.message", message, "message must be non-empty if specified")
        elif "\n" in message.strip():
            yield invalid(f"{at}.message", message, "message must not contain line breaks")
        elif "\n" in text.strip() and not message.strip():
            yield required(f"{at}.message", "message must be specified if rule contains line breaks")
        if rule.get("reason") and rule["reason"] not in _REASONS:
            yield unsupported(f"{at}.reason", rule["reason"], _REASONS)
        if rule.get("fieldPath") and not _names_field(rule["fieldPath"], schema):
            yield invalid(f"{at}.fieldPath", rule["fieldPath"], f"fieldPath must be a valid path: {_why(rule)}")


def _why(rule: Manifest) -> str:
    return f"does not refer to a valid field: {rule['fieldPath']}"


def _names_field(path: str, schema: Manifest) -> bool:
    """Whether a JSON path of names leads to a declared field."""
    position, below = 0, schema
    while position < len(path):
        step = _STEP.match(path, position)
        if not step:
            return False
        name = step.group(1) or step.group(2)
        rest = below.get("additionalProperties")
        found = (below.get("properties") or {}).get(name, rest if isinstance(rest, dict) else None)
        if not isinstance(found, dict):
            return False
        position, below = step.end(), found
    return bool(path)


def _checked(
    rules: list[Manifest], schema: Manifest, path: str, *, unrelated: str | None, is_resource: bool
) -> Iterator[FieldError]:
    types = Types(schema, is_resource=is_resource)
    check = cel.checker(self=types, oldSelf=types)
    optional = cel.checker(self=types, previous=types)
    for index, rule in enumerate(rules):
        at = f"{path}[{index}]"
        if not (rule.get("rule") or "").strip():
            continue
        used = optional if rule.get("optionalOldSelf") else check
        yield from _expressions(rule, at, used)
        if uses_old(rule["rule"]) and unrelated:
            detail = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {unrelated}"
            yield invalid(f"{at}.rule", rule["rule"], detail)
        elif rule.get("optionalOldSelf") and unrelated:
            yield forbidden(f"{at}.optionalOldSelf", "may not be set on the uncorrelatable portion of the schema")


def _expressions(rule: Manifest, path: str, check: cel.Checker) -> Iterator[FieldError]:
    problem = _problem(rule, rule["rule"], check, wanted="BOOL", name="cel expression", kind="bool")
    if problem:
        yield FieldError(f"{path}.rule", "FieldValueInvalid", f"Invalid value: {_shown(rule)}: {problem}")
        return
    text = rule.get("messageExpression") or ""
    if not text:
        return
    if not text.strip():
        yield required(f"{path}.messageExpression", "messageExpression must be non-empty if specified")
        return
    problem = _problem(rule, text, check, wanted="STRING", name="messageExpression", kind="string")
    if problem:
        detail = problem if problem.startswith("messageExpression") else f"messageExpression {problem}"
        yield FieldError(f"{path}.messageExpression", "FieldValueInvalid", f"Invalid value: {_shown(rule)}: {detail}")


def _problem(rule: Manifest, expression: str, check: cel.Checker, *, wanted: str, name: str, kind: str) -> str:
    try:
        if rule.get("optionalOldSelf") and uses_old(expression):
            found = cel.check_with_optional(check, "oldSelf", "previous", expression)
        else:
            found = check(expression)
    except cel.CelError as error:
        return f"compilation failed: {error}"
    return "" if found == wanted else f"{name} must evaluate to a {kind}"


def _shown(rule: Manifest) -> str:
    """The whole rule, as Kubernetes prints its internal form."""
    names = ("rule", "message", "messageExpression")
    shown: Manifest = {name[0].upper() + name[1:]: rule.get(name) or "" for name in names}
    shown |= {"Reason": rule.get("reason"), "FieldPath": rule.get("fieldPath") or ""}
    return json.dumps(shown | {"OptionalOldSelf": rule.get("optionalOldSelf")}, separators=(",", ":"))
