# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Questions that are posted and answered but never stored: who am I, whose token is this, may I, what may I.

Also `POST bindings`, the old form of `pods/binding`.
"""

from __future__ import annotations

from collections.abc import Callable

from kaito.engine.access.auth import Authenticator, TokenInvalid
from kaito.engine.access.rbac import Authorizer
from kaito.engine.kinds import Kind
from kaito.engine.schema.field import invalid as invalid_field
from kaito.engine.wire import codec
from kaito.engine.wire.requests import Attributes, Request, Response, Target, User, json_response
from kaito.engine.wire.status import bad_request, invalid, method_not_allowed
from kaito.kube.clock import Clock
from kaito.kube.manifest import Manifest

Answer = Callable[[Request, Target, Manifest], Manifest]


class Reviews:
    """Answers reviews."""

    def __init__(self, authenticator: Authenticator, authorizer: Authorizer, clock: Clock) -> None:
        self._authenticator, self._authorizer, self._clock = authenticator, authorizer, clock
        self._answers: dict[str, Answer] = {
            "SelfSubjectReview": self._self_subject,
            "TokenReview": self._token,
            "SelfSubjectAccessReview": self._self_access,
            "SubjectAccessReview": self._access,
            "LocalSubjectAccessReview": self._access,
            "SelfSubjectRulesReview": self._rules,
        }

    async def handle(self, request: Request, target: Target, kind: Kind) -> Response:
        """Answer one review. Raises StatusError."""
        if request.method != "POST" or target.name:
            raise method_not_allowed(request.method.lower(), None)
        try:
            body = codec.decode_body(request.body, request.header("content-type")).value
        except ValueError as error:
            raise codec.unreadable(kind, error, request.body) from None
        answer = self._answers.get(kind.kind)
        if answer is None:
            raise method_not_allowed("post", None)
        if not isinstance(body, dict) or body.get("kind", kind.kind) != kind.kind:
            raise bad_request(f"the object provided is unrecognized (must be of type {kind.kind})")
        spec = body.get("spec") or {}
        meta = {**(body.get("metadata") or {}), "creationTimestamp": None}
        shown: Manifest = {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": meta}
        if "spec" in body:
            shown["spec"] = spec
        return json_response({**shown, "status": answer(request, target, spec)}, 201)

    def _self_subject(self, request: Request, target: Target, spec: Manifest) -> Manifest:
        return {"userInfo": request.user.info()}

    def _token(self, request: Request, target: Target, spec: Manifest) -> Manifest:
        token = spec.get("token")
        if not token:
            raise bad_request("token is required for TokenReview in authentication")
        try:
            user = self._authenticator.token_user(token, self._clock.now())
        except TokenInvalid as error:
            return {"user": {}, "error": str(error)}
        return {"authenticated": True, "user": user.info(), "audiences": spec.get("audiences") or []}

    def _self_access(self, request: Request, target: Target, spec: Manifest) -> Manifest:
        return self._verdict(request.user, _wanted(spec, "SelfSubjectAccessReview"))

    def _access(self, request: Request, target: Target, spec: Manifest) -> Manifest:
        extra = {key: tuple(values) for key, values in (spec.get("extra") or {}).items()}
        user = User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""), extra)
        return self._verdict(user, _wanted(spec, "SubjectAccessReview"))

    def _verdict(self, user: User, wanted: Attributes) -> Manifest:
        return {"allowed": self._authorizer.allows(user, wanted)}

    def _rules(self, request: Request, target: Target, spec: Manifest) -> Manifest:
        resources, paths = [], []
        for rule in self._authorizer.rules(request.user, spec.get("namespace") or ""):
            if rule.get("nonResourceURLs"):
                paths.append({"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]})
            else:
                names = {"resourceNames": rule["resourceNames"]} if rule.get("resourceNames") else {}
                part = {"verbs": rule["verbs"], "apiGroups": rule.get("apiGroups") or []}
                resources.append({**part, "resources": rule.get("resources") or [], **names})
        return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}


def _wanted(spec: Manifest, kind: str) -> Attributes:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        text = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        error = invalid("authorization.k8s.io", "", "", [invalid_field("spec.resourceAttributes", resource, text)])
        assert error.details is not None
        error.details.pop("kind", None)
        raise error
    if path is not None:
        return Attributes(path.get("verb", ""), path=path.get("path", ""))
    assert resource is not None
    return Attributes(
        resource.get("verb", ""),
        resource.get("group", ""),
        resource.get("version", ""),
        resource.get("resource", ""),
        resource.get("subresource", ""),
        resource.get("namespace", ""),
        resource.get("name", ""),
    )
