# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How one kind differs from the others in a write: its schema, defaults, rules, and which part each request may change.

Two kinds of kinds: built-in ones, whose rules are code, and custom ones, whose rules are their definition's schema. The
registry knows only this interface. Pure, but for `Allocate`, which hands out a Service's address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaito.engine.kinds import Kind, Kinds
from kaito.engine.schema import builtin, crd, decode, defaults, rules, structural
from kaito.engine.schema.conversion import STORED_AS, converted
from kaito.engine.schema.field import FieldError, invalid
from kaito.engine.schema.prepare import prepare_create, without_former_type
from kaito.engine.schema.schema_fit import Fit
from kaito.engine.schema.schema_rules import Rules
from kaito.engine.schema.shape import Shape
from kaito.engine.schema.structural import Structure
from kaito.engine.wire.context import WriteContext, strict_text
from kaito.engine.wire.status import StatusError, bad_request
from kaito.kube.manifest import Manifest, tree_copy

Allocate = Callable[[Manifest, Manifest | None, WriteContext], Manifest]
Path = tuple[str, ...]

DEFINITIONS = "apiextensions.k8s.io/customresourcedefinitions"

WITH_GENERATION = frozenset(
    (
        "/pods",
        "/replicationcontrollers",
        "apps/daemonsets",
        "apps/deployments",
        "apps/replicasets",
        "apps/statefulsets",
        "batch/cronjobs",
        "batch/jobs",
        "networking.k8s.io/ingresses",
        "networking.k8s.io/networkpolicies",
        "policy/poddisruptionbudgets",
        "discovery.k8s.io/endpointslices",
        "admissionregistration.k8s.io/mutatingwebhookconfigurations",
        "admissionregistration.k8s.io/validatingwebhookconfigurations",
        DEFINITIONS,
        "scheduling.k8s.io/priorityclasses",
    )
)
"""Built-in collections whose objects count changes of what they want in metadata.generation."""


class Strategy:
    """The common part; see `BuiltIn` and `Custom`."""

    kind: Kind
    shape: Shape
    zero: Manifest | None = None
    has_generation = False

    def __init__(self, kind: Kind, allocate: Allocate | None = None) -> None:
        self.kind = kind
        self._allocate = allocate
        self.has_status = "status" in kind.subresources

    def decoded(self, obj: Any, ctx: WriteContext, *, duplicates: list[str]) -> Manifest:
        """The body as an object of this kind, checked and with defaults filled in. Raises StatusError as `checked`."""
        return self.completed(self.checked(obj, ctx, duplicates=duplicates))

    def checked(self, obj: Any, ctx: WriteContext, *, duplicates: list[str]) -> Manifest:
        """The body as an object of this kind: types checked, unknown fields dropped and reported.

        Raises StatusError 400 for wrong types, and for unknown or duplicate fields where the client wants it strict.
        """
        raise NotImplementedError

    def completed(self, obj: Manifest) -> Manifest:
        """The object with defaults filled in."""
        raise NotImplementedError

    def from_apply(self, obj: Manifest, ctx: WriteContext) -> Manifest:
        """The result of a server-side apply as an object of this kind. Raises StatusError."""
        return self.completed(obj)

    def shown(self, obj: Manifest) -> Manifest:
        """A stored object in this kind's version."""
        return obj

    def stored(self, obj: Manifest) -> Manifest:
        """An object of another version of this kind in this, the storage version."""
        return obj

    def prepared_for_create(self, obj: Manifest, ctx: WriteContext) -> Manifest:
        """The new object with what the server sets in it; may change `obj`."""
        raise NotImplementedError

    def prepared_for_update(self, new: Manifest, live: Manifest, subresource: str, ctx: WriteContext) -> Manifest:
        raise NotImplementedError

    def with_generation(self, new: Manifest, live: Manifest) -> Manifest:
        """The object with the generation moved if what it wants has changed."""
        raise NotImplementedError

    def creation_errors(self, obj: Manifest) -> list[FieldError]:
        raise NotImplementedError

    def update_errors(self, new: Manifest, live: Manifest, subresource: str) -> list[FieldError]:
        raise NotImplementedError

    def reset(self, subresource: str) -> tuple[Path, ...]:
        """Fields that a request to this subresource cannot change, and so cannot own."""
        raise NotImplementedError

    def allocated(self, obj: Manifest, live: Manifest | None, ctx: WriteContext) -> Manifest:
        """The object with what only this server can give it."""
        return obj if self._allocate is None else self._allocate(obj, live, ctx)

    def may_go(self, obj: Manifest) -> bool:
        """Whether the object is marked for deletion and waits for nothing more."""
        meta = obj["metadata"]
        if not meta.get("deletionTimestamp") or meta.get("finalizers"):
            return False
        if self.kind.qualified == "namespaces":
            return not obj["spec"].get("finalizers")
        return not meta.get("deletionGracePeriodSeconds")

    def _report(self, problems: list[str], ctx: WriteContext) -> None:
        if not problems or ctx.validation == "Ignore":
            return
        if ctx.validation == "Strict":
            kind, version = self.kind.kind, self.kind.version
            raise bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {strict_text(problems)}')
        ctx.warnings.extend(problems)

    def _not_decodable(self, error: ValueError) -> StatusError:
        kind, version = self.kind.kind, self.kind.version
        return bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {error}')


class BuiltIn(Strategy):
    """A kind of Kubernetes' own."""

    def __init__(self, kind: Kind, allocate: Allocate | None = None) -> None:
        super().__init__(kind, allocate)
        self.shape = builtin.shape_of(kind.api_version, kind.kind)
        self.zero = builtin.zero(kind.kind)
        self.has_generation = kind.collection in WITH_GENERATION

    def checked(self, obj: Any, ctx: WriteContext, *, duplicates: list[str]) -> Manifest:
        obj = {"apiVersion": self.kind.api_version, "kind": self.kind.kind, **obj}
        try:
            unknown = decode.decode(obj, self.kind.api_version, self.kind.kind)
        except decode.DecodeError as error:
            raise self._not_decodable(error) from None
        problems = [f'duplicate field "{path}"' if not path.startswith("yaml:") else path for path in duplicates]
        self._report(problems + [f'unknown field "{path}"' for path in unknown], ctx)
        obj.setdefault("metadata", {})
        checked: Manifest = obj
        return checked

    def completed(self, obj: Manifest) -> Manifest:
        defaults.apply_defaults(obj)
        if self.kind.collection == DEFINITIONS:
            crd.apply_defaults(obj)
        return obj

    def from_apply(self, obj: Manifest, ctx: WriteContext) -> Manifest:
        return self.decoded(obj, ctx, duplicates=[])

    def shown(self, obj: Manifest) -> Manifest:
        return converted(obj, self.kind.api_version)

    def stored(self, obj: Manifest) -> Manifest:
        return converted(obj, self.kind.api_version)

    def prepared_for_create(self, obj: Manifest, ctx: WriteContext) -> Manifest:
        if self.has_status and self.kind.collection != "/nodes":
            obj.pop("status", None)
            if self.zero and "status" in self.zero:
                obj["status"] = tree_copy(self.zero["status"])
            self.completed(obj)
        if self.kind.collection == DEFINITIONS:
            obj["status"] = crd.initial_status(obj)
        prepare_create(obj, ctx.now)
        return obj

    def prepared_for_update(self, new: Manifest, live: Manifest, subresource: str, ctx: WriteContext) -> Manifest:
        if subresource == "status":
            return self._status_only(new, live)
        if subresource == "finalize":
            return {**live, "metadata": new["metadata"], "spec": new["spec"]}
        if subresource == "binding":
            return new
        if subresource == "ephemeralcontainers":
            return _with_ephemeral_containers(new, live)
        prepared = dict(new)
        if self.kind.qualified == "services":
            prepared["spec"] = without_former_type(new["spec"], live["spec"])
        if self.has_status:
            prepared.pop("status", None)
            if "status" in live:
                prepared["status"] = live["status"]
        if self.kind.collection == DEFINITIONS:
            prepared["status"] = crd.updated_status(prepared, live)
        if self.kind.qualified == "namespaces":
            prepared["spec"] = {**(new.get("spec") or {}), "finalizers": live["spec"].get("finalizers") or []}
            if not prepared["spec"]["finalizers"]:
                del prepared["spec"]["finalizers"]
            labels = {**(new["metadata"].get("labels") or {}), "kubernetes.io/metadata.name": live["metadata"]["name"]}
            prepared["metadata"] = {**new["metadata"], "labels": labels}
        return prepared

    def _status_only(self, new: Manifest, live: Manifest) -> Manifest:
        """The live object with the new status; labels and annotations come along where Kubernetes lets them."""
        meta = dict(new["metadata"])
        for field in ("ownerReferences", "finalizers"):
            meta.pop(field, None)
            if field in live["metadata"]:
                meta[field] = live["metadata"][field]
        if self.kind.group == "apps":
            meta.pop("labels", None)
            if "labels" in live["metadata"]:
                meta["labels"] = live["metadata"]["labels"]
        prepared = {**live, "metadata": meta}
        if "status" in new:
            prepared["status"] = new["status"]
        if self.kind.qualified == "pods" and "status" in live:
            prepared["status"] = {"qosClass": live["status"].get("qosClass", "BestEffort"), **(new.get("status") or {})}
        return prepared

    def with_generation(self, new: Manifest, live: Manifest) -> Manifest:
        if not self.has_generation:
            return new
        parts = [key for key in new.keys() | live.keys() if key not in ("metadata", "status", "kind", "apiVersion")]
        if all(new.get(part) == live.get(part) for part in parts):
            return new
        meta = {**new["metadata"], "generation": live["metadata"].get("generation", 0) + 1}
        return {**new, "metadata": meta}

    def creation_errors(self, obj: Manifest) -> list[FieldError]:
        return rules.built_in_errors(obj, None, "")

    def update_errors(self, new: Manifest, live: Manifest, subresource: str) -> list[FieldError]:
        return rules.built_in_errors(new, live, subresource)

    def reset(self, subresource: str) -> tuple[Path, ...]:
        if not self.has_status:
            return ()
        if subresource != "status":
            return (("status",),)
        return (("spec",), ("metadata", "labels")) if self.kind.group == "apps" else (("spec",),)


def _with_ephemeral_containers(new: Manifest, live: Manifest) -> Manifest:
    """The live pod with the new one's ephemeral containers."""
    spec, meta = dict(live["spec"]), dict(live["metadata"])
    containers = new["spec"].get("ephemeralContainers")
    if containers:
        spec["ephemeralContainers"] = containers
    if "managedFields" in new["metadata"]:
        meta["managedFields"] = new["metadata"]["managedFields"]
    return {**live, "metadata": meta, "spec": spec}


class Custom(Strategy):
    """A kind that a CustomResourceDefinition describes."""

    has_generation = True

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        assert kind.definition is not None
        self.schema = _schema_of(kind.version_spec)
        self._structure = Structure(self.schema)
        self._structures = {
            f"{kind.group}/{entry['name']}": self._structure
            if entry["name"] == kind.version
            else Structure(_schema_of(entry))
            for entry in kind.definition["spec"]["versions"]
        }
        self.shape = structural.shape_of(self.schema)
        self._rules, self._fit = Rules(self.schema), Fit(self.schema)

    def checked(self, obj: Any, ctx: WriteContext, *, duplicates: list[str]) -> Manifest:
        obj = dict(obj)
        try:
            unknown = decode.decode_metadata(obj.setdefault("metadata", {}))
        except decode.DecodeError as error:
            raise self._not_decodable(error) from None
        dropped = self._structure.prune(obj)
        problems = [f'duplicate field "{path}"' if not path.startswith("yaml:") else path for path in duplicates]
        self._report(problems + [f'unknown field "{path}"' for path in [*unknown, *dropped]], ctx)
        checked: Manifest = obj
        return checked

    def completed(self, obj: Manifest) -> Manifest:
        self._structure.fill(obj)
        return obj

    def shown(self, obj: Manifest) -> Manifest:
        """A stored object in this version: defaulted by the schema of its own version, pruned by this one's."""
        obj = self.with_own_defaults(obj)
        obj["apiVersion"] = self.kind.api_version
        return self.pruned(obj)

    def with_own_defaults(self, obj: Manifest) -> Manifest:
        """A stored object with the defaults of the version in which it is stored, in place."""
        self._structures.get(obj["apiVersion"], self._structure).fill(obj)
        return obj

    def pruned(self, obj: Manifest) -> Manifest:
        """The object without what this version's schema does not know, in place."""
        self._structure.prune(obj)
        return obj

    def stored(self, obj: Manifest) -> Manifest:
        if obj["apiVersion"] == self.kind.api_version:
            return obj
        return self.pruned(tree_copy({**obj, "apiVersion": self.kind.api_version}))

    def prepared_for_create(self, obj: Manifest, ctx: WriteContext) -> Manifest:
        return {key: value for key, value in obj.items() if key != "status"} if self.has_status else obj

    def prepared_for_update(self, new: Manifest, live: Manifest, subresource: str, ctx: WriteContext) -> Manifest:
        if subresource == "status":
            meta = {**live["metadata"]}
            if "managedFields" in new["metadata"]:
                meta["managedFields"] = new["metadata"]["managedFields"]
            prepared = {key: value for key, value in live.items() if key != "status"}
            prepared["metadata"] = meta
            return {**prepared, "status": new["status"]} if "status" in new else prepared
        if not self.has_status:
            return new
        prepared = {key: value for key, value in new.items() if key != "status"}
        return {**prepared, "status": live["status"]} if "status" in live else prepared

    def with_generation(self, new: Manifest, live: Manifest) -> Manifest:
        ignored = {"metadata", "status"} if self.has_status else {"metadata"}
        wanted = {key: value for key, value in new.items() if key not in ignored}
        if wanted == {key: value for key, value in live.items() if key not in ignored}:
            return new
        meta = {**new["metadata"], "generation": live["metadata"].get("generation", 0) + 1}
        return {**new, "metadata": meta}

    def creation_errors(self, obj: Manifest) -> list[FieldError]:
        return rules.custom_errors(obj, None, "", schema_of=self.schema, rules=self._rules, fit=self._fit)

    def update_errors(self, new: Manifest, live: Manifest, subresource: str) -> list[FieldError]:
        return rules.custom_errors(new, live, subresource, schema_of=self.schema, rules=self._rules, fit=self._fit)

    def reset(self, subresource: str) -> tuple[Path, ...]:
        if not self.has_status:
            return ()
        return (("spec",), ("metadata",)) if subresource == "status" else (("status",),)


def _schema_of(version: Manifest) -> Manifest:
    found: Manifest | None = (version.get("schema") or {}).get("openAPIV3Schema")
    return found or {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


class Strategies:
    """The strategy of each served kind, made on first use and anew when a definition changes."""

    def __init__(self, kinds: Kinds, allocators: dict[str, Allocate] | None = None) -> None:
        self._kinds = kinds
        self._allocators = allocators or {}
        self._made: dict[tuple[str, str], tuple[Kind, Strategy]] = {}

    def of(self, kind: Kind) -> Strategy:
        key = (kind.collection, kind.version)
        made = self._made.get(key)
        if made is None or made[0] is not kind:
            strategy = Custom(kind) if kind.is_custom else BuiltIn(kind, self._allocators.get(kind.collection))
            made = (kind, strategy)
            self._made[key] = made
        return made[1]

    def storage_kind(self, kind: Kind) -> Kind:
        """The version in which the kind's objects are stored."""
        if not kind.is_custom:
            stored = STORED_AS.get((kind.api_version, kind.kind))
            return kind if stored is None else (self._kinds.named(stored, kind.kind) or kind)
        assert kind.definition is not None
        for entry in kind.definition["spec"]["versions"]:
            if entry.get("storage"):
                if entry["name"] == kind.version:
                    return kind
                served = self._kinds.find(kind.group, entry["name"], kind.plural)
                return served or _unserved(kind, entry["name"])
        return kind


def _unserved(kind: Kind, version: str) -> Kind:
    """A storage version that is not served: the same kind under another version."""
    return Kind(
        kind.group,
        version,
        kind.plural,
        kind.kind,
        kind.namespaced,
        subresources=kind.subresources,
        list_kind=kind.list_kind,
        definition=kind.definition,
    )


def must_be(kind: Kind, found: str, name: str) -> StatusError:
    """422 for a custom object that names another kind than the URL."""
    error = invalid("kind", found, f"must be {kind.kind}")
    qualified = f"{found}.{kind.group}"
    details = {"name": name, "group": kind.group, "kind": found, "causes": [error.cause()]}
    return StatusError(422, "Invalid", f'{qualified} "{name}" is invalid: {error}', details=details)
