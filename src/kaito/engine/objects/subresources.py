# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Subresources over plain HTTP: status, scale, finalize, binding, eviction, token, log, proxy.

exec, attach and port-forward need a WebSocket and are in `kaito.engine.http.websocket`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from kaito.engine.access.auth import BOUND_TO, Authenticator, TokenRequest
from kaito.engine.kinds import Kind
from kaito.engine.objects.deletion import Deletion
from kaito.engine.objects.patching import parse_patch, patch_type
from kaito.engine.objects.podaccess import PodAccess
from kaito.engine.objects.registry import Registry, check_named, check_namespace
from kaito.engine.objects.resources import Resources, replacement, show
from kaito.engine.objects.scale import SCALE_KIND, SCALE_VERSION, at, scale_of, scale_paths, scaled
from kaito.engine.objects.serviceaccounts import DEFAULT_ACCOUNT
from kaito.engine.patching.patch import PatchError, json_patch, merge_patch
from kaito.engine.schema.field import invalid as invalid_field
from kaito.engine.schema.field import required
from kaito.engine.wire import codec
from kaito.engine.wire.context import DeleteOptions
from kaito.engine.wire.negotiate import negotiate
from kaito.engine.wire.options import write_context
from kaito.engine.wire.requests import Request, Response, Target, json_response
from kaito.engine.wire.status import MODIFIED, StatusError, bad_request, conflict, invalid, method_not_allowed
from kaito.kube.clock import Clock
from kaito.kube.manifest import Manifest, rfc3339

Handler = Callable[[Request, Target, Kind], Awaitable[Response]]

MIN_TOKEN_S = 600
DEFAULT_TOKEN_S = 3600


class Subresources:
    """Answers requests about parts of objects."""

    def __init__(
        self,
        registry: Registry,
        resources: Resources,
        deletion: Deletion,
        authenticator: Authenticator,
        pods: PodAccess,
        clock: Clock,
    ) -> None:
        self._registry, self._resources, self._deletion = registry, resources, deletion
        self._authenticator, self._pods, self._clock = authenticator, pods, clock
        self._handlers: dict[str, Handler] = {
            "status": self._part,
            "ephemeralcontainers": self._part,
            "resize": self._part,
            "finalize": self._part,
            "scale": self._scale,
            "binding": self._binding,
            "eviction": self._eviction,
            "token": self._token,
            "log": pods.logs,
            "proxy": pods.proxy,
            "exec": pods.session_without_socket,
            "attach": pods.session_without_socket,
            "portforward": pods.session_without_socket,
        }

    async def handle(self, request: Request, target: Target, kind: Kind) -> Response:
        """Answer a request about a subresource that the kind has. Raises StatusError."""
        handler = self._handlers.get(target.subresource)
        if handler is None:
            raise bad_request(f"{target.subresource} needs a WebSocket: use kubectl 1.31 or later")
        return await handler(request, target, kind)

    async def _part(self, request: Request, target: Target, kind: Kind) -> Response:
        """The object itself, of which only a part may change."""
        subresource = target.subresource
        form = negotiate(request.header("accept"))
        match request.method:
            case "GET" | "HEAD":
                record, _ = await self._registry.read(kind, target.namespace, target.name)
                return self._resources.show_record(record, kind, form, request)
            case "PATCH":
                return await self._resources.patch(request, target, kind, subresource=subresource)
            case "PUT":
                ctx = write_context(request, self._clock.now(), "UpdateOptions")
                obj = self._resources.body(request, kind, ctx)
                check_named(obj, target.namespace, target.name)
                change = replacement(obj, kind)
                done = await self._registry.update(
                    kind, target.namespace, target.name, change, ctx, subresource=subresource
                )
                return self._resources.show_object(done, kind, form, request)
        raise method_not_allowed(request.method.lower(), kind if kind.is_custom else None)

    # Scale

    async def _scale(self, request: Request, target: Target, kind: Kind) -> Response:
        form = negotiate(request.header("accept"))
        paths = scale_paths(kind)
        if request.method in ("GET", "HEAD"):
            _, obj = await self._registry.read(kind, target.namespace, target.name)
            if paths.is_custom and at(obj, paths.replicas) is None:
                raise StatusError(
                    500,
                    "InternalError",
                    _no_replicas(paths.replicas),
                    details={"causes": [{"message": _no_replicas(paths.replicas)}]},
                )
            return show(scale_of(obj, paths), form)
        if request.method not in ("PUT", "PATCH"):
            raise method_not_allowed(request.method.lower(), None)
        options = "UpdateOptions" if request.method == "PUT" else "PatchOptions"
        ctx = write_context(request, self._clock.now(), options)  # type: ignore[arg-type]
        wanted = self._wanted_scale(request, target, kind)

        def change(live: Manifest) -> Manifest:
            scale = wanted(scale_of(live, paths))
            self._check_scale(scale, live, kind, target, is_custom=paths.is_custom)
            return scaled(live, paths, int((scale.get("spec") or {}).get("replicas", 0)))

        done = await self._registry.update(kind, target.namespace, target.name, change, ctx, subresource="scale")
        return show(scale_of(done, paths), form)

    def _wanted_scale(self, request: Request, target: Target, kind: Kind) -> Callable[[Manifest], Manifest]:
        if request.method == "PUT":
            body = codec.decode_body(request.body, request.header("content-type")).value
            if not isinstance(body, dict) or body.get("kind", SCALE_KIND) != SCALE_KIND:
                raise bad_request("the object provided is unrecognized (must be of type Scale)")
            return lambda current: body
        patch = parse_patch(request, patch_type(request, kind))

        def change(current: Manifest) -> Manifest:
            try:
                if patch.type == "json":
                    return dict(json_patch(current, patch.body))
                return dict(merge_patch(current, patch.body))
            except PatchError as error:
                raise StatusError(error.status, error.reason, str(error)) from None

        return change

    def _check_scale(self, scale: Manifest, live: Manifest, kind: Kind, target: Target, *, is_custom: bool) -> None:
        meta = scale.get("metadata") or {}
        if scale.get("kind") != SCALE_KIND or scale.get("apiVersion") != SCALE_VERSION:
            raise bad_request("the object provided is unrecognized (must be of type Scale)")
        check_named(scale, target.namespace, target.name)
        version = meta.get("resourceVersion")
        if version and version != live["metadata"]["resourceVersion"]:
            raise conflict(kind, target.name, MODIFIED)
        replicas = (scale.get("spec") or {}).get("replicas", 0)
        if not isinstance(replicas, int) or isinstance(replicas, bool):
            raise bad_request('Scale in version "v1" cannot be handled as a Scale: json: cannot unmarshal the replicas')
        if replicas < 0 and is_custom:
            error = invalid_field(".spec.replicas", replicas, "should be a non-negative integer")
            raise invalid(kind.group, kind.kind, target.name, [error])
        if replicas < 0:
            error = invalid_field("spec.replicas", replicas, "must be greater than or equal to 0")
            raise invalid("autoscaling", SCALE_KIND, target.name, [error])

    # Pods

    async def _binding(self, request: Request, target: Target, kind: Kind) -> Response:
        body = self._posted(request, "Binding")
        check_namespace(body, target.namespace)
        ctx = write_context(request, self._clock.now(), "CreateOptions")
        node = (body.get("target") or {}).get("name", "")
        if not node:
            raise invalid("", "Binding", target.name, [required("target.name")])

        def bind(live: Manifest) -> Manifest:
            spec = live["spec"]
            shown = Kind("", "v1", "pods/binding", "Binding")
            if live["metadata"].get("deletionTimestamp"):
                raise conflict(shown, target.name, f"pod {target.name} is being deleted, cannot be assigned to a host")
            if spec.get("nodeName"):
                why = f'pod {target.name} is already assigned to node "{spec["nodeName"]}"'
                raise conflict(shown, target.name, why)
            return bound(live, node, rfc3339(ctx.now))

        await self._registry.update(kind, target.namespace, target.name, bind, ctx, subresource="binding")
        return json_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201
        )

    async def _eviction(self, request: Request, target: Target, kind: Kind) -> Response:
        body = self._posted(request, "Eviction")
        asked = body.get("deleteOptions") or {}
        options = DeleteOptions(asked.get("propagationPolicy"), asked.get("gracePeriodSeconds"))
        ctx = write_context(request, self._clock.now(), "CreateOptions")
        pod = self._registry.get(kind, target.namespace, target.name)
        self._check_disruption(pod)
        await self._deletion.delete(kind, target.namespace, target.name, options, ctx)
        return json_response(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201
        )

    def _check_disruption(self, pod: Manifest) -> None:
        """Raises StatusError 429 when a PodDisruptionBudget says not now."""
        for budget in self._pods.budgets_of(pod):
            if (budget.get("status") or {}).get("disruptionsAllowed", 0) < 1:
                name = budget["metadata"]["name"]
                text = "Cannot evict pod as it would violate the pod's disruption budget."
                cause = {
                    "reason": "DisruptionBudget",
                    "message": f"The disruption budget {name} needs more healthy pods",
                }
                raise StatusError(429, "TooManyRequests", text, details={"causes": [cause]}, retry_after_s=10)

    async def _token(self, request: Request, target: Target, kind: Kind) -> Response:
        body = self._posted(request, "TokenRequest")
        account = self._registry.get(kind, target.namespace, target.name)
        spec = body.get("spec") or {}
        seconds = spec.get("expirationSeconds") or DEFAULT_TOKEN_S
        if seconds < MIN_TOKEN_S:
            error = invalid_field("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
            raise invalid("authentication.k8s.io", "TokenRequest", "", [error])
        wanted = TokenRequest(
            target.namespace,
            target.name,
            account["metadata"]["uid"],
            tuple(spec.get("audiences") or ()),
            int(seconds),
            spec.get("boundObjectRef"),
        )
        if wanted.bound:
            wanted = replace(wanted, bound=self._bound(wanted))
        now = self._clock.now()
        token, end = self._authenticator.issue(wanted, now)
        meta = {"name": target.name, "namespace": target.namespace, "creationTimestamp": rfc3339(now)}
        answer: Manifest = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": meta}
        answer["spec"] = {**spec, "expirationSeconds": seconds}
        answer["status"] = {"token": token, "expirationTimestamp": rfc3339(end)}
        return json_response(answer, 201)

    def _bound(self, wanted: TokenRequest) -> Manifest:
        """The object that the token is bound to, with its uid. Raises StatusError when it is not there, or another."""
        reference = wanted.bound or {}
        name, plural = reference.get("name", ""), BOUND_TO.get(str(reference.get("kind", "")).lower(), "")
        if not plural or reference.get("apiVersion", "v1") != "v1":
            shown = f"{reference.get('apiVersion', '')}, Kind={reference.get('kind', '')}"
            raise bad_request(f"cannot bind token for serviceaccount to object of type {shown}")
        kind = self._registry.kind("", plural)
        found = self._registry.get(kind, wanted.namespace if kind.namespaced else "", name)
        account = found["spec"].get("serviceAccountName") if plural == "pods" else wanted.name
        if (account or DEFAULT_ACCOUNT) != wanted.name:
            what = f'cannot bind token for serviceaccount "{wanted.name}"'
            raise bad_request(f"{what} to pod running with different serviceaccount name.")
        uid = found["metadata"]["uid"]
        if reference.get("uid") not in (None, "", uid):
            why = (
                f"the UID in the bound object reference ({reference['uid']}) does not match the UID in record. "
                "The object might have been deleted and then recreated"
            )
            raise conflict(kind, name, why)
        return {**reference, "uid": uid}

    def _posted(self, request: Request, kind: str) -> dict[str, Any]:
        if request.method != "POST":
            raise method_not_allowed(request.method.lower(), None)
        try:
            body = codec.decode_body(request.body, request.header("content-type")).value
        except ValueError as error:
            raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None
        if not isinstance(body, dict) or body.get("kind", kind) != kind:
            raise bad_request(f"the object provided is unrecognized (must be of type {kind})")
        return body


def _no_replicas(path: tuple[str, ...]) -> str:
    shown = ".".join(path)
    return f'the spec replicas field ".{shown}" does not exist'


def bound(pod: Manifest, node: str, now: str) -> Manifest:
    """The pod assigned to a node."""
    status = dict(pod.get("status") or {})
    status.pop("nominatedNodeName", None)
    others = [c for c in status.get("conditions") or [] if c["type"] != "PodScheduled"]
    scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
    status["conditions"] = [*others, scheduled]
    return {**pod, "spec": {**pod["spec"], "nodeName": node}, "status": status}
