# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Our admission rules behind Kubernetes' webhook: `kaito.api` judges, this translates the question and the answer.

Reads no cluster and no network, so that admission answers when either is slow. Also renders the configuration that
tells the API server where the webhook is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from kaito.api.changes import admission_errors
from kaito.api.meta import WORKSPACES, WORKSPACES_V1ALPHA1
from kaito.api.meta import FieldError as ApiFieldError
from kaito.api.rules import Policy
from kaito.catalog.models import catalogue
from kaito.kube.admission import AdmissionRequest, FieldError, FieldReason, Validator, Verdict
from kaito.kube.manifest import Manifest, is_deleting
from kaito.kube.resource import VALIDATING_WEBHOOKS

WEBHOOK_NAME = "validation.workspace.kaito.sh"
WORKSPACE_PATH = "/validate/workspace.kaito.sh"
"""As KAITO v0.12 has both."""
CONVERSION_PATH = "/convert"
TIMEOUT_S = 5
_PARTS = ("resource", "inference", "tuning")
WHEN_ASKED = (
    {"name": "not-being-deleted", "expression": "!has(object.metadata.deletionTimestamp)"},
    {
        "name": "asks-for-something-else",
        "expression": "oldObject == null || object.metadata.?annotations != oldObject.metadata.?annotations || "
        + " || ".join(f"object.?{part} != oldObject.?{part}" for part in _PARTS),
    },
)
"""What the API server itself can see, so that nothing waits for us, or fails with us, that we would let through anyway:
whatever happens to an object that is being deleted, and changes of labels, finalizers and owners."""
LONGEST_VALUE = 120


@dataclass(frozen=True, slots=True)
class Address:
    """Where the API server finds the webhook: a URL, or a Service of the cluster."""

    host: str = ""
    port: int = 443
    service: str = ""
    namespace: str = ""

    def names(self) -> tuple[str, ...]:
        """The names that the serving certificate is for."""
        if self.host:
            return (self.host,)
        return (f"{self.service}.{self.namespace}.svc", f"{self.service}.{self.namespace}.svc.cluster.local")

    def client_config(self, path: str, ca_bundle: str) -> Manifest:
        """The `clientConfig` of a webhook configuration."""
        if self.host:
            host = f"[{self.host}]" if ":" in self.host else self.host
            return {"url": f"https://{host}:{self.port}{path}", "caBundle": ca_bundle}
        service = {"name": self.service, "namespace": self.namespace, "path": path, "port": self.port}
        return {"service": service, "caBundle": ca_bundle}


def policy_of(provisioner: str, *, private_urls: bool | None = None) -> Policy:
    """What the rules need to know. On a machine of one's own, data may come from one's own addresses."""
    allowed = provisioner == "local" if private_urls is None else private_urls
    return Policy(preset_problem=catalogue().problem, private_urls=allowed)


def workspace_validator(policy: Policy) -> Validator:
    """Judges Workspaces that are created or changed. What is being deleted is let through: nothing may hold it."""

    def validate(request: AdmissionRequest) -> Verdict:
        if request.operation not in ("CREATE", "UPDATE") or request.subresource or request.object is None:
            return Verdict()
        if is_deleting(request.object):
            return Verdict()
        errors = admission_errors(request.old_object, request.object, policy)
        return Verdict(tuple(_field_error(error) for error in errors))

    return validate


def _field_error(error: ApiFieldError) -> FieldError:
    reason = _reason(error)
    shown = _shown(error.value) if reason == "FieldValueInvalid" else ""
    return FieldError(error.path, f"{shown}: {error.message}" if shown else error.message, reason)


def _reason(error: ApiFieldError) -> FieldReason:
    if error.value is None and error.message.startswith("is required"):
        return "FieldValueRequired"
    if error.message.startswith(("cannot be", "must not be given")):
        return "FieldValueForbidden"
    return "FieldValueInvalid"


def _shown(value: object) -> str:
    """The value as it stands in a manifest; empty for a whole part of one, which would only hide the message."""
    if not isinstance(value, str | int | float | bool):
        return ""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def conversion(address: Address, ca_bundle: str) -> Manifest:
    """The `spec.conversion` of our CustomResourceDefinitions."""
    # In a merge patch, a null takes away what another address has left.
    client_config = {"url": None, "service": None, **address.client_config(CONVERSION_PATH, ca_bundle)}
    return {
        "strategy": "Webhook",
        "webhook": {"clientConfig": client_config, "conversionReviewVersions": ["v1"]},
    }


def webhook_configuration(address: Address, ca_bundle: str, *, must_answer: bool) -> Manifest:
    """The ValidatingWebhookConfiguration. Where the webhook need not answer, the plan's own checks do without it."""
    return {
        "apiVersion": VALIDATING_WEBHOOKS.api_version,
        "kind": VALIDATING_WEBHOOKS.kind,
        "metadata": {"name": WEBHOOK_NAME},
        "webhooks": [
            {
                "name": WEBHOOK_NAME,
                "admissionReviewVersions": ["v1"],
                "clientConfig": address.client_config(WORKSPACE_PATH, ca_bundle),
                "failurePolicy": "Fail" if must_answer else "Ignore",
                "matchConditions": [dict(condition) for condition in WHEN_ASKED],
                "sideEffects": "None",
                "timeoutSeconds": TIMEOUT_S,
                "rules": [
                    {
                        "apiGroups": [WORKSPACES.group],
                        "apiVersions": [WORKSPACES_V1ALPHA1.version, WORKSPACES.version],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": [WORKSPACES.plural],
                        "scope": "Namespaced",
                    }
                ],
            }
        ],
    }
