# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Admission webhooks: which of the configured ones a write concerns, and asking them.

Configurations are read from the store when they change. Calls are asynchronous; mutating webhooks are asked one after
the other, validating ones all at once.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from kaito.engine.kinds import SCALE, Kind
from kaito.engine.objects.registry import Registry
from kaito.engine.objects.versions import converts_by_webhook
from kaito.engine.objects.webhookcall import Caller, CallFailed
from kaito.engine.patching import patch as patches
from kaito.engine.schema.cel import CelError, evaluate
from kaito.engine.schema.select import from_label_selector
from kaito.engine.storage.events import Event
from kaito.engine.wire.context import WriteContext
from kaito.engine.wire.status import StatusError, forbidden, internal
from kaito.kube.manifest import Manifest, labels_of

GROUP = "admissionregistration.k8s.io"
MUTATING = f"{GROUP}/mutatingwebhookconfigurations"
VALIDATING = f"{GROUP}/validatingwebhookconfigurations"


@dataclass(frozen=True, slots=True)
class Hook:
    """One webhook of one configuration."""

    configuration: str
    spec: Manifest
    mutating: bool

    @property
    def name(self) -> str:
        return str(self.spec["name"])


@dataclass(frozen=True, slots=True)
class Question:
    """One write, as the webhooks are asked about it."""

    operation: str
    kind: Kind
    obj: Manifest | None
    old: Manifest | None
    ctx: WriteContext
    subresource: str
    requested: Kind | None = None
    """The kind's version that the write came in, when the webhook is asked about another (matchPolicy Equivalent)."""

    @property
    def meta(self) -> Manifest:
        found: Manifest = (self.obj or self.old or {}).get("metadata") or {}
        return found


class Webhooks:
    """The configured webhooks."""

    def __init__(self, registry: Registry, caller: Caller) -> None:
        self._registry, self._caller = registry, caller
        self._hooks: dict[bool, list[Hook]] = {True: [], False: []}
        self._concerned: dict[tuple[str, str, str, str], bool] = {}
        """What `concern` has found out since the hooks were read and the kinds last changed."""
        self._concerned_at = 0
        self._load()
        registry.store.listen(self._changed)

    def _changed(self, event: Event) -> None:
        if event.record.collection in (MUTATING, VALIDATING):
            self._load()

    def _load(self) -> None:
        self._concerned.clear()
        for mutating, plural in ((True, MUTATING), (False, VALIDATING)):
            found = []
            for obj in self._registry.objects(GROUP, plural.partition("/")[2]):
                name = obj["metadata"]["name"]
                found += [Hook(name, spec, mutating) for spec in obj.get("webhooks") or []]
            self._hooks[mutating] = found

    def concern(self, operation: str, kind: Kind, subresource: str) -> bool:
        """Whether any webhook's rules cover such a write."""
        if kind.group == GROUP:
            return False
        if self._concerned_at != self._registry.kinds.generation:
            self._concerned.clear()
            self._concerned_at = self._registry.kinds.generation
        asked = (operation, kind.api_version, kind.plural, subresource)
        known = self._concerned.get(asked)
        if known is None:
            hooks = [*self._hooks[True], *self._hooks[False]]
            known = any(self._covered(hook.spec, operation, kind, subresource) for hook in hooks)
            self._concerned[asked] = known
        return known

    def _covered(self, spec: Manifest, operation: str, kind: Kind, subresource: str) -> Kind | None:
        """The kind, or its other version that the webhook's rules name while its matchPolicy is Equivalent."""
        if covers(spec, operation, kind, subresource):
            return kind
        if kind.definition is None or spec.get("matchPolicy", "Equivalent") != "Equivalent":
            return None
        for entry in kind.definition["spec"]["versions"]:
            other = self._registry.kinds.find(kind.group, entry["name"], kind.plural)
            if other is not None and covers(spec, operation, other, subresource):
                return other
        return None

    async def mutate(
        self,
        operation: str,
        kind: Kind,
        obj: Manifest | None,
        old: Manifest | None,
        ctx: WriteContext,
        *,
        subresource: str,
    ) -> Manifest | None:
        """The object as the mutating webhooks leave it. Raises StatusError.

        A webhook with reinvocationPolicy IfNeeded is asked once more when a later one has changed what it saw.
        """
        left: list[tuple[Hook, Manifest | None]] = []
        for hook in self._hooks[True]:
            question = await self._asked(hook, Question(operation, kind, obj, old, ctx, subresource))
            if question is not None:
                obj = await self._mutated(hook, question, obj)
                left.append((hook, obj))
        for hook, seen in left:
            if hook.spec.get("reinvocationPolicy") == "IfNeeded" and obj != seen:
                question = await self._asked(hook, Question(operation, kind, obj, old, ctx, subresource))
                obj = obj if question is None else await self._mutated(hook, question, obj)
        return obj

    async def _mutated(self, hook: Hook, question: Question, obj: Manifest | None) -> Manifest | None:
        """The object after one webhook, in the version that it came in."""
        response = await self._answer(hook, question)
        if response is None or not response.get("patch") or question.obj is None:
            return obj
        changed = _patched(hook, question.obj, response["patch"])
        return changed if question.requested is None else await self._in_version(question.requested, changed)

    async def validate(
        self,
        operation: str,
        kind: Kind,
        obj: Manifest | None,
        old: Manifest | None,
        ctx: WriteContext,
        *,
        subresource: str,
    ) -> None:
        """Ask all validating webhooks. Raises the first refusal."""
        question = Question(operation, kind, obj, old, ctx, subresource)
        asked = [(hook, await self._asked(hook, question)) for hook in self._hooks[False]]
        answers: list[Awaitable[Manifest | None]] = [self._answer(hook, put) for hook, put in asked if put is not None]
        results = await asyncio.gather(*answers, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _asked(self, hook: Hook, question: Question) -> Question | None:
        """The write as the webhook wants to be asked about it; None when it does not. Raises StatusError."""
        kind = self._covered(hook.spec, question.operation, question.kind, question.subresource)
        if kind is None or not self._selects(hook, question):
            return None
        if kind is not question.kind:
            obj, old = [
                None if each is None else await self._in_version(kind, each) for each in (question.obj, question.old)
            ]
            question = replace(question, kind=kind, obj=obj, old=old, requested=question.kind)
        return question if self._conditions_met(hook, question) else None

    async def _in_version(self, kind: Kind, obj: Manifest) -> Manifest:
        """The custom object in another version of its kind. Raises StatusError 500 when a webhook cannot convert it."""
        versions = self._registry.versions
        if versions is None or not converts_by_webhook(kind):
            return self._registry.strategies.of(kind).shown(obj)
        return (await versions.converted(kind, [obj], kind))[0]

    def _selects(self, hook: Hook, question: Question) -> bool:
        selector = hook.spec.get("namespaceSelector")
        if selector and (selector.get("matchLabels") or selector.get("matchExpressions")):
            labels = self._namespace_labels(question)
            if labels is not None and not from_label_selector(selector).matches(labels):
                return False
        selector = hook.spec.get("objectSelector")
        if not selector or not (selector.get("matchLabels") or selector.get("matchExpressions")):
            return True
        chosen = from_label_selector(selector)
        return any(chosen.matches(labels_of(obj)) for obj in (question.obj, question.old) if obj is not None)

    def _namespace_labels(self, question: Question) -> dict[str, str] | None:
        """The labels of the object's namespace; None for what is in none."""
        if question.kind.collection == "/namespaces":
            return labels_of(question.obj or question.old or {})
        namespace = question.meta.get("namespace")
        if not namespace:
            return None
        found = self._registry.object("", "namespaces", namespace)
        return labels_of(found) if found else {}

    def _conditions_met(self, hook: Hook, question: Question) -> bool:
        conditions = hook.spec.get("matchConditions") or []
        if not conditions:
            return True
        variables = {"object": question.obj, "oldObject": question.old, "request": self._request(question, "")}
        failures = []
        for condition in conditions:
            try:
                if evaluate(condition["expression"], variables) is not True:
                    return False
            except CelError as error:
                failures.append(f"{condition['name']}: {error}")
        if failures and hook.spec.get("failurePolicy", "Fail") == "Fail":
            raise forbidden(question.kind, question.meta.get("name", ""), "; ".join(failures))
        return not failures

    async def _answer(self, hook: Hook, question: Question) -> Manifest | None:
        """The webhook's response; None when it failed and may be ignored. Raises StatusError."""
        uid = str(uuid.uuid4())
        review = {
            "kind": "AdmissionReview",
            "apiVersion": "admission.k8s.io/v1",
            "request": self._request(question, uid),
        }
        if question.ctx.dry_run and hook.spec.get("sideEffects") not in ("None", "NoneOnDryRun"):
            text = f"admission webhook {hook.name!r} does not support dry run".replace("'", '"')
            raise StatusError(400, "BadRequest", text)
        try:
            response = await self._caller.call(hook.spec, review)
            if response.get("uid") != uid:
                raise CallFailed(f"expected response.uid {uid!r}, got {response.get('uid')!r}")
        except CallFailed as error:
            if hook.spec.get("failurePolicy", "Fail") == "Ignore":
                return None
            raise internal(f'failed calling webhook "{hook.name}": {error}') from None
        question.ctx.warnings.extend(response.get("warnings") or [])
        if not response.get("allowed"):
            raise denial(hook.name, response.get("status") or {})
        return response

    def _request(self, question: Question, uid: str) -> Manifest:
        kind, meta, ctx = question.kind, question.meta, question.ctx
        group_kind, resource = _names(kind, question.subresource)
        asked_kind, asked_resource = _names(question.requested or kind, question.subresource)
        request: dict[str, Any] = {"uid": uid, "kind": group_kind, "resource": resource}
        if question.subresource:
            request["subResource"] = question.subresource
        request |= {"requestKind": asked_kind, "requestResource": asked_resource}
        if question.subresource:
            request["requestSubResource"] = question.subresource
        request["name"] = meta.get("name", "")
        if meta.get("namespace"):
            request["namespace"] = meta["namespace"]
        elif kind.collection == "/namespaces":
            request["namespace"] = meta.get("name", "")
        return {
            **request,
            "operation": question.operation,
            "userInfo": ctx.user.info(),
            "object": question.obj,
            "oldObject": question.old,
            "dryRun": ctx.dry_run,
            "options": ctx.options or None,
        }


def _names(kind: Kind, subresource: str) -> tuple[Manifest, Manifest]:
    """The kind and the resource, as a review names them."""
    group_kind: Manifest = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    if subresource == "scale":
        group_kind = dict(zip(("group", "version", "kind"), SCALE, strict=True))
    return group_kind, {"group": kind.group, "version": kind.version, "resource": kind.plural}


def covers(spec: Manifest, operation: str, kind: Kind, subresource: str) -> bool:
    """Whether one of the webhook's rules is about such a write."""
    resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
    accepted = {resource, "*/*"} | (
        {f"*/{subresource}", f"{kind.plural}/*"} if subresource else {"*", f"{kind.plural}/*"}
    )
    for rule in spec.get("rules") or []:
        scope = rule.get("scope", "*")
        if scope not in ("*", "Namespaced" if kind.namespaced else "Cluster"):
            continue
        if (
            _in(operation, rule.get("operations"))
            and _in(kind.group, rule.get("apiGroups"))
            and _in(kind.version, rule.get("apiVersions"))
            and accepted & set(rule.get("resources") or ())
        ):
            return True
    return False


def _in(value: str, wanted: list[str] | None) -> bool:
    return wanted is not None and (value in wanted or "*" in wanted)


def denial(name: str, status: Manifest) -> StatusError:
    """What the client is told when a webhook says no."""
    message, reason = status.get("message", ""), status.get("reason", "")
    text = f'admission webhook "{name}" denied the request'
    if message:
        text += f": {message}"
    elif reason:
        text += f": {reason}"
    else:
        text += " without explanation"
    code = max(int(status.get("code") or 0), 400)
    return StatusError(code, str(reason), text, details=status.get("details"))


def _patched(hook: Hook, obj: Manifest, encoded: str) -> Manifest:
    """The object after the webhook's JSON patch. Raises StatusError 500 for a patch that does not fit."""
    try:
        changed: Manifest = patches.json_patch(obj, msgspec.json.decode(base64.b64decode(encoded)))
    except (patches.PatchError, ValueError) as error:
        raise internal(f'failed calling webhook "{hook.name}": patch: {error}') from None
    return changed
