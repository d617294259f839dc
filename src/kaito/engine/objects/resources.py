# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The verbs of HTTP on resources: read a request, ask the registry, show the answer in the form the client accepts.

Subresources are in `kaito.engine.objects.subresources`, routes in `kaito.engine.http.server`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial as partial_of
from typing import Any

import msgspec

from kaito.engine.kinds import Kind
from kaito.engine.objects.deletion import Deletion
from kaito.engine.objects.listing import Page, Selection, check_match, list_page, parse_selection, revision_of
from kaito.engine.objects.patching import applied, applied_config, parse_patch, patch_type, patched, refuse_stale
from kaito.engine.objects.registry import Registry, check_named, check_namespace
from kaito.engine.objects.strategy import must_be
from kaito.engine.objects.versions import converts_by_webhook
from kaito.engine.objects.watch import Form as WatchForm
from kaito.engine.objects.watch import WatchOptions, WatchStream, default_timeout_s
from kaito.engine.storage.events import Record
from kaito.engine.tables.table import IncludeObject, View, encoded_partial, partial, table, view_of
from kaito.engine.wire import codec
from kaito.engine.wire.context import WriteContext
from kaito.engine.wire.negotiate import Form, negotiate
from kaito.engine.wire.options import delete_options, write_context
from kaito.engine.wire.requests import Request, Response, Target, is_true
from kaito.engine.wire.status import StatusError, bad_request, conflict, method_not_allowed, not_acceptable
from kaito.kube.clock import Clock
from kaito.kube.manifest import Manifest, tree_copy

PLAIN = Form()
"""The object itself as JSON."""

CREATED_BY_PUT = frozenset(
    (
        "leases.coordination.k8s.io",
        "nodes",
        "events",
        "endpoints",
        "limitranges",
        "roles.rbac.authorization.k8s.io",
        "rolebindings.rbac.authorization.k8s.io",
        "clusterroles.rbac.authorization.k8s.io",
        "clusterrolebindings.rbac.authorization.k8s.io",
        "services",
        "runtimeclasses.node.k8s.io",
    )
)
"""Kinds whose PUT creates what is not there (AllowCreateOnUpdate)."""


class Resources:
    """Answers requests about objects."""

    def __init__(self, registry: Registry, deletion: Deletion, clock: Clock) -> None:
        self._registry, self._deletion, self._clock = registry, deletion, clock
        self._views: dict[tuple[str, str], tuple[Kind, View]] = {}

    async def handle(self, request: Request, target: Target, kind: Kind) -> Response:
        """Answer a request about the kind's objects. Raises StatusError."""
        if target.name:
            return await self._one(request, target, kind)
        match request.method:
            case "GET" | "HEAD":
                if target.watch or is_true(request.param("watch")):
                    return self.watch(request, target, kind)
                return await self.list(request, target, kind)
            case "POST":
                return await self._create(request, target, kind)
            case "DELETE" if "deletecollection" in kind.verbs and (target.namespace or not kind.namespaced):
                return await self._delete_collection(request, target, kind)
        raise method_not_allowed(request.method.lower(), None)

    async def _one(self, request: Request, target: Target, kind: Kind) -> Response:
        match request.method:
            case "GET" | "HEAD":
                if target.watch:
                    return self.watch(request, target, kind)
                return await self._get(request, target, kind)
            case "PUT":
                return await self._replace(request, target, kind)
            case "PATCH":
                return await self.patch(request, target, kind)
            case "DELETE":
                return await self._delete(request, target, kind)
        raise method_not_allowed(request.method.lower(), None)

    # Reading

    async def _get(self, request: Request, target: Target, kind: Kind) -> Response:
        form = negotiate(request.header("accept"))
        record = self._registry.record(kind, target.namespace, target.name)
        wanted = revision_of(request.param("resourceVersion"))
        if wanted > self._registry.store.revision:
            raise bad_request(f"resourceVersion {wanted} is not there yet")
        if kind.is_custom:
            await self._registry.ready(kind, (record,), anew=True)
        response = self.show_record(record, kind, form, request)
        if not kind.is_custom:  # what a custom object looks like is a matter of its definition, too
            response.told = record.revision
        return response

    async def list(self, request: Request, target: Target, kind: Kind) -> Response:
        """One page of the kind's objects. Raises StatusError."""
        form = negotiate(request.header("accept"))
        selection = parse_selection(request, kind, target.namespace)
        page = await self._page(kind, selection, request)
        if form.as_ == "Table":
            return self._table_response(self._decoded(page, kind), page.meta(), kind, form, request)
        if form.as_:
            return self._partial_list(page, kind, form)
        views = (self._registry.view(record, kind) for record in page.records)
        items = views if kind.is_custom else (codec.headless(value, kind) for value in views)
        head = {"kind": kind.list_kind_name, "apiVersion": kind.api_version, "metadata": page.meta()}
        if kind.is_custom:
            head["metadata"] = {"continue": "", **page.meta()}
        body = msgspec.json.encode(head)[:-1] + b',"items":[' + b",".join(items) + b"]}\n"
        return _as_yaml(body) if form.media_type == "application/yaml" else Response(200, body)

    async def _page(self, kind: Kind, selection: Selection, request: Request) -> Page:
        """The page that is asked for, ready to be viewed."""
        registry = self._registry
        view = self._view(kind)
        if kind.is_custom and selection.fields.requirements:
            await registry.ready(kind, registry.store.scan(kind.collection, selection.namespace))
        page = list_page(registry.store, kind, selection, request, view)
        if kind.is_custom:
            await registry.ready(kind, page.records)
        return page

    def _decoded(self, page: Page, kind: Kind) -> Iterable[Manifest]:
        return (codec.decode(self._registry.view(record, kind)) for record in page.records)

    def _partial_list(self, page: Page, kind: Kind, form: Form) -> Response:
        views = (self._registry.view(record, kind) for record in page.records)
        body = {
            "kind": "PartialObjectMetadataList",
            "apiVersion": f"meta.k8s.io/{form.version}",
            "metadata": page.meta(),
            "items": [msgspec.Raw(encoded_partial(value, form.version)) for value in views],
        }
        if form.media_type == "application/yaml":
            return _as_yaml(msgspec.json.encode(body))
        return show(body, form)

    def _view(self, kind: Kind) -> Any:
        registry = self._registry

        def view(record: Record) -> bytes:
            return registry.view(record, kind)

        return view

    def watch(self, request: Request, target: Target, kind: Kind) -> Response:
        """A stream of changes. Raises StatusError."""
        form = negotiate(request.header("accept"))
        if form.media_type != "application/json":
            raise not_acceptable(codec.ACCEPTED)
        selection = parse_selection(request, kind, target.namespace, name=target.name)
        options = self._watch_options(request)
        stream = WatchStream(
            self._registry.store,
            kind,
            selection,
            options,
            view=self._view(kind),
            ready=partial_of(self._registry.ready, kind) if converts_by_webhook(kind) else None,
            form=self._watch_form(request, kind, form),
            clock=self._clock,
        )
        return Response(200, chunks=stream.lines(), release=stream.close)

    def _watch_options(self, request: Request) -> WatchOptions:
        version, match = request.param("resourceVersion"), request.param("resourceVersionMatch")
        wants_initial = "sendInitialEvents" in request.query
        check_match(version, match, wants_initial, watching=True)
        since = revision_of(version)
        initial = is_true(request.param("sendInitialEvents")) if wants_initial else since == 0
        bookmarks = is_true(request.param("allowWatchBookmarks"))
        try:
            timeout_s = float(request.param("timeoutSeconds", "0"))
        except ValueError:
            raise bad_request("timeoutSeconds must be a number") from None
        return WatchOptions(
            since or None,
            initial,
            initial and wants_initial and bookmarks,
            bookmarks,
            timeout_s or default_timeout_s(),
        )

    def _watch_form(self, request: Request, kind: Kind, form: Form) -> WatchForm:
        if not form.as_:
            return WatchForm(kind.version)
        if form.as_ != "Table":
            return WatchForm(
                f"{kind.version}/partial",
                lambda value, first: encoded_partial(value, form.version),
            )
        view, include = self._table_view(kind), _include(request)

        def render(value: bytes, first: bool) -> bytes:
            obj = codec.decode(value)
            meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            now = self._clock.now()
            return msgspec.json.encode(
                table(view, [obj], meta, now=now, include=include, with_columns=first, version=form.version)
            )

        return WatchForm(f"{kind.version}/table/{include}", render)

    # Writing

    def body(self, request: Request, kind: Kind, ctx: WriteContext) -> Manifest:
        """The object in the request's body, checked and defaulted. Raises StatusError."""
        try:
            decoded = codec.decode_body(request.body, request.header("content-type"))
        except ValueError as error:
            raise codec.unreadable(kind, error, request.body) from None
        obj = decoded.value
        if not isinstance(obj, dict):
            raise bad_request(f"the object provided is unrecognized (must be of type {kind.kind}): not an object")
        self._check_kind(obj, kind, request.body)
        return self._registry.strategies.of(kind).decoded(obj, ctx, duplicates=decoded.duplicates)

    def _check_kind(self, obj: Manifest, kind: Kind, body: bytes) -> None:
        found, version = obj.get("kind") or "", obj.get("apiVersion") or ""
        if kind.is_custom and not found:
            shown = body.decode("utf-8", "replace")
            raise bad_request(
                f"the object provided is unrecognized (must be of type {kind.kind}): "
                f"Object 'Kind' is missing in '{shown}' ({shown})"
            )
        if kind.is_custom and version != kind.api_version:
            raise bad_request(
                f"the API version in the data ({version}) does not match the expected API version ({kind.api_version})"
            )
        if found not in ("", kind.kind):
            raise self._other_kind(obj, kind)
        if version not in ("", kind.api_version):
            scheme = 'scheme "pkg/api/legacyscheme/scheme.go:30"'
            why = f'no kind "{kind.kind}" is registered for version "{version}" in {scheme}'
            raise bad_request(f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: {why}')

    def _other_kind(self, obj: Manifest, kind: Kind) -> StatusError:
        found = str(obj["kind"])
        if kind.is_custom:
            return must_be(kind, found, str((obj.get("metadata") or {}).get("name", "")))
        version = str(obj.get("apiVersion") or kind.api_version).rpartition("/")[2]
        group = kind.group.partition(".")[0] or "core"
        why = f"converting ({version}.{found}) to ({group}.{kind.kind}): unknown conversion"
        return bad_request(f'{found} in version "{version}" cannot be handled as a {kind.kind}: {why}')

    async def _create(self, request: Request, target: Target, kind: Kind) -> Response:
        form = negotiate(request.header("accept"))
        ctx = write_context(request, self._clock.now(), "CreateOptions")
        obj = self.body(request, kind, ctx)
        if kind.namespaced:
            if not target.namespace:
                raise method_not_allowed("post", None)
            check_namespace(obj, target.namespace)
        created = await self._registry.create(kind, target.namespace, obj, ctx)
        return self.show_written(ctx, created, kind, form, request, status=201)

    async def _replace(self, request: Request, target: Target, kind: Kind) -> Response:
        form = negotiate(request.header("accept"))
        ctx = write_context(request, self._clock.now(), "UpdateOptions")
        obj = self.body(request, kind, ctx)
        check_named(obj, target.namespace, target.name)
        missing = self._registry.store.get(kind.collection, target.namespace, target.name) is None
        if missing and kind.qualified in CREATED_BY_PUT and not obj["metadata"].get("uid"):
            obj["metadata"].pop("resourceVersion", None)
            ctx.options["kind"] = "CreateOptions"
            created = await self._registry.create(kind, target.namespace, obj, ctx)
            return self.show_written(ctx, created, kind, form, request, status=201)
        replaced = await self._registry.update(kind, target.namespace, target.name, replacement(obj, kind), ctx)
        return self.show_written(ctx, replaced, kind, form, request)

    async def patch(self, request: Request, target: Target, kind: Kind, *, subresource: str = "") -> Response:
        """Change an object by a patch. Raises StatusError."""
        form = negotiate(request.header("accept"))
        type_ = patch_type(request, kind)
        ctx = write_context(request, self._clock.now(), "PatchOptions", apply=type_ == "apply")
        if type_ == "apply":
            return await self._apply(request, target, kind, form, ctx, subresource=subresource)
        patch = parse_patch(request, type_)
        strategy = self._registry.strategies.of(kind)

        said = len(ctx.warnings)

        def change(live: Manifest) -> Manifest:
            del ctx.warnings[said:]
            wanted = patched(live, patch, strategy, ctx)
            check_named(wanted, target.namespace, target.name)
            return wanted

        done = await self._registry.update(kind, target.namespace, target.name, change, ctx, subresource=subresource)
        return self.show_written(ctx, done, kind, form, request)

    async def _apply(
        self, request: Request, target: Target, kind: Kind, form: Form, ctx: WriteContext, *, subresource: str
    ) -> Response:
        registry, strategy = self._registry, self._registry.strategies.of(kind)
        patch = parse_patch(request, "apply")
        config = applied_config(patch, kind, target.name)
        check_namespace(config, target.namespace)

        def change(live: Manifest) -> Manifest:
            refuse_stale(kind, live, config)
            return applied(live, config, patch, strategy, ctx, subresource=subresource)

        exists = registry.store.get(kind.collection, target.namespace, target.name) is not None
        if not exists and not subresource:
            obj = applied(None, config, patch, strategy, ctx)
            ctx.options["kind"] = "CreateOptions"
            created = await registry.create(kind, target.namespace, obj, ctx, owners_set=True)
            return self.show_written(ctx, created, kind, form, request, status=201)
        done = await registry.update(
            kind, target.namespace, target.name, change, ctx, subresource=subresource, owners_set=True
        )
        return self.show_written(ctx, done, kind, form, request)

    async def _delete(self, request: Request, target: Target, kind: Kind) -> Response:
        form = negotiate(request.header("accept"))
        options, dry_run, shown = delete_options(request)
        ctx = WriteContext(
            request.user, self._clock.now(), "", dry_run=dry_run, warnings=request.warnings, options=shown
        )
        answer, _ = await self._deletion.delete(kind, target.namespace, target.name, options, ctx)
        if answer["kind"] == "Status":
            return show(answer, Form(form.media_type))
        return self.show_object(answer, kind, form, request)

    async def _delete_collection(self, request: Request, target: Target, kind: Kind) -> Response:
        form = negotiate(request.header("accept"))
        options, dry_run, shown = delete_options(request)
        selection: Selection = parse_selection(request, kind, target.namespace)
        page = await self._page(kind, selection, request)
        deleted = []
        for record in page.records:
            ctx = WriteContext(request.user, self._clock.now(), "", dry_run=dry_run, options=shown)
            deleted.append(codec.decode(self._registry.view(record, kind)))
            try:
                await self._deletion.delete(kind, record.namespace, record.name, options, ctx)
            except StatusError as error:
                if error.code != 404:
                    raise
        body = {
            "kind": kind.list_kind_name,
            "apiVersion": kind.api_version,
            "metadata": {"resourceVersion": str(self._registry.store.revision)},
            "items": deleted,
        }
        return show(body, Form(form.media_type))

    # Showing

    def show_record(self, record: Record, kind: Kind, form: Form, request: Request, *, status: int = 200) -> Response:
        """A stored object in the form that the client accepts."""
        value = self._registry.view(record, kind)
        if form.as_ or form.media_type == "application/yaml" or request.param("pretty"):
            return self.show_object(codec.decode(value), kind, form, request, status=status)
        return Response(status, value + b"\n")

    def show_written(
        self, ctx: WriteContext, obj: Manifest, kind: Kind, form: Form, request: Request, *, status: int = 200
    ) -> Response:
        """The result of a write in the form that the client accepts."""
        if ctx.written is None or form != PLAIN or request.param("pretty"):
            return self.show_object(obj, kind, form, request, status=status)
        return Response(status, ctx.written + b"\n")

    def show_object(self, obj: Manifest, kind: Kind, form: Form, request: Request, *, status: int = 200) -> Response:
        """An object in the form that the client accepts."""
        if form.as_ == "Table":
            meta = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            response = self._table_response([obj], meta, kind, form, request)
            response.status = status
            return response
        if form.as_:
            return show(partial(obj, form.version), form, status)
        return show(obj, form, status, pretty=is_true(request.param("pretty")))

    def _table_view(self, kind: Kind) -> View:
        key = (kind.collection, kind.version)
        made = self._views.get(key)
        if made is None or made[0] is not kind:
            made = (kind, view_of(kind))
            self._views[key] = made
        return made[1]

    def _table_response(
        self, objects: Iterable[Manifest], meta: Manifest, kind: Kind, form: Form, request: Request
    ) -> Response:
        view, include, now = self._table_view(kind), _include(request), self._clock.now()
        return show(table(view, objects, meta, now=now, include=include, version=form.version), form)


def replacement(obj: Manifest, kind: Kind) -> Any:
    """The change that PUT means. A custom object must say which state it replaces."""

    def change(live: Manifest) -> Manifest:
        version, uid = obj["metadata"].get("resourceVersion"), obj["metadata"].get("uid")
        if uid and uid != live["metadata"]["uid"]:
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {live['metadata']['uid']}"
            raise conflict(kind, live["metadata"]["name"], why)
        if kind.is_custom and not version:
            cause = {
                "reason": "FieldValueInvalid",
                "message": "Invalid value: 0: must be specified for an update",
                "field": "metadata.resourceVersion",
            }
            name = live["metadata"]["name"]
            details = {"name": name, "group": kind.group, "kind": kind.plural, "causes": [cause]}
            message = f'{kind.qualified} "{name}" is invalid: {cause["field"]}: {cause["message"]}'
            raise StatusError(422, "Invalid", message, details=details)
        copied: Manifest = tree_copy(obj)
        return copied

    return change


def _include(request: Request) -> IncludeObject:
    value = request.param("includeObject")
    match value:
        case "" | "Metadata":
            return "Metadata"
        case "Object":
            return "Object"
        case "None":
            return "None"
    text = f"""includeObject: Invalid value: "{value}": must be 'Metadata', 'Object', 'None', or empty"""
    raise bad_request(f"Unable to convert to Table as requested: {text}")


def show(body: Manifest, form: Form, status: int = 200, *, pretty: bool = False) -> Response:
    """A document as JSON or YAML."""
    if form.media_type == "application/yaml":
        return Response(status, codec.to_yaml(body), "application/yaml")
    encoded = msgspec.json.encode(body)
    return Response(status, (msgspec.json.format(encoded, indent=2) if pretty else encoded) + b"\n")


def _as_yaml(body: bytes) -> Response:
    return Response(200, codec.to_yaml(msgspec.json.decode(body)), "application/yaml")
