# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which updates of a Workspace are admitted: what must stay as it is, and the rules for what is new.

A value that was admitted once is never judged again while it stays the same, so that a rule which came later, or a
world that changed, never stands in the way of a status, a label or the removal of a finalizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kaito.api.meta import FieldError, InvalidObject
from kaito.api.rules import Policy, create_errors
from kaito.api.workspace import (
    DataSource,
    InferenceSpec,
    PresetOptions,
    PresetSpec,
    ResourceSpec,
    TuningSpec,
    Workspace,
)
from kaito.kube.manifest import Manifest

Errors = Iterator[FieldError]

_INDEX = re.compile(r"\[\d+\]")
_FIXED = "cannot be changed; delete the Workspace and create it anew"


def admission_errors(old: Manifest | None, new: Manifest, policy: Policy) -> tuple[FieldError, ...]:
    """What is wrong with the manifest that a user sends, a new one or one in place of `old`; empty when it is admitted.

    Fields of a wrong type are errors like any other: a schema usually finds them first, but need not be there.
    """
    before, unreadable_before = _parsed(old) if old is not None else (None, ())
    after, unreadable = _parsed(new)
    if after is None:
        return tuple(error for error in unreadable if error not in unreadable_before)
    return update_errors(before, after, policy) if before is not None else create_errors(after, policy)


def _parsed(manifest: Manifest) -> tuple[Workspace | None, tuple[FieldError, ...]]:
    try:
        return Workspace.parse(manifest), ()
    except InvalidObject as error:
        return None, error.errors


def update_errors(old: Workspace, new: Workspace, policy: Policy) -> tuple[FieldError, ...]:
    """What is wrong with the change from one Workspace to the other; empty when it is admitted."""
    fixed = tuple(_fixed_errors(old, new, policy))
    known = [_without_place(error) for error in create_errors(old, policy)]
    fresh = [error for error in create_errors(new, policy) if _without_place(error) not in known]
    named = {error.path for error in fixed}
    return (*fixed, *(error for error in fresh if error.path not in named))


def _without_place(error: FieldError) -> tuple[str, object, str]:
    """An error regardless of where in a list its element stands: elements may move."""
    return _INDEX.sub("[]", error.path), error.value, error.message


def _fixed_errors(old: Workspace, new: Workspace, policy: Policy) -> Errors:
    for path, before, after in (
        ("inference", old.inference, new.inference),
        ("tuning", old.tuning, new.tuning),
    ):
        if (before is None) != (after is None):
            yield _toggled(path, was_given=before is not None, value=after)
    if old.resource is not None:
        yield from _resource_changes(old.resource, new.resource, policy)
    if old.inference is not None and new.inference is not None:
        yield from _inference_changes(old.inference, new.inference)
    if old.tuning is not None and new.tuning is not None:
        yield from _tuning_changes(old.tuning, new.tuning)


def _resource_changes(old: ResourceSpec, new: ResourceSpec | None, policy: Policy) -> Errors:
    if new is None:
        yield _toggled("resource", was_given=True, value=None)
        return
    if old.count != new.count:
        yield FieldError("resource.count", new.count, _FIXED)
    if old.partition != new.partition:
        yield FieldError("resource.partition", new.partition, _FIXED)
    if old.label_selector != new.label_selector:
        yield FieldError("resource.labelSelector", new.label_selector, _FIXED)
    before, after = old.instance_type, new.instance_type
    # A type from before the nodes were brought may be taken out; a missing one may be filled in where nodes are made.
    cleared = bool(before) and not after and policy.instance_type != "required"
    filled_in = not before and policy.instance_type != "forbidden"
    if before != after and not cleared and not filled_in:
        yield FieldError("resource.instanceType", after or None, _FIXED)


def _inference_changes(old: InferenceSpec, new: InferenceSpec) -> Errors:
    if (old.template is None) != (new.template is None):
        yield _toggled("inference.template", was_given=old.template is not None, value=new.template)
    yield from _preset_changes("inference.preset", old.preset, new.preset)


def _tuning_changes(old: TuningSpec, new: TuningSpec) -> Errors:
    yield from _preset_changes("tuning.preset", old.preset, new.preset)
    if old.method.lower() != new.method.lower():
        yield FieldError("tuning.method", new.method, _FIXED)
    yield from _input_changes(old.input, new.input)


def _input_changes(old: DataSource, new: DataSource) -> Errors:
    if old.name != new.name:
        yield FieldError("tuning.input.name", new.name, _FIXED)


def _preset_changes(path: str, old: PresetSpec | None, new: PresetSpec | None) -> Errors:
    if old is None or new is None:
        if old is not new:
            yield _toggled(path, was_given=old is not None, value=new)
        return
    if old.name != new.name:
        yield FieldError(f"{path}.name", new.name, _FIXED)
    if old.access_mode != new.access_mode:
        yield FieldError(f"{path}.accessMode", new.access_mode, _FIXED)
    if (old.preset_options or PresetOptions()) != (new.preset_options or PresetOptions()):
        yield FieldError(f"{path}.presetOptions", new.preset_options, _FIXED)


def _toggled(path: str, *, was_given: bool, value: object) -> FieldError:
    done = "removed" if was_given else "added"
    return FieldError(path, value, f"cannot be {done} after creation; delete the Workspace and create it anew")
