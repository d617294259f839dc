# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Which checks an object has to pass before it is stored: the one place that calls the validators.

Pure.
"""

from __future__ import annotations

from dataclasses import replace

from kaito.engine.schema import crd, validation, validation_ephemeral
from kaito.engine.schema.field import FieldError
from kaito.engine.schema.schema_fit import Fit
from kaito.engine.schema.schema_rules import Rules
from kaito.engine.schema.schema_validation import validate
from kaito.kube.manifest import Manifest


def built_in_errors(new: Manifest, live: Manifest | None, subresource: str) -> list[FieldError]:
    """What is wrong with a built-in object; `live` is the stored one in an update."""
    if new["kind"] == "CustomResourceDefinition" and not subresource:
        return crd.validate(new, live)
    if live is None:
        errors = validation.validate_create(new)
        return [*errors, *validation_ephemeral.creation_errors(new)] if new["kind"] == "Pod" else errors
    if subresource == "ephemeralcontainers":
        return [*validation.validate_metadata_update(new, live), *validation_ephemeral.update_errors(new, live)]
    if subresource in ("status", "finalize", "binding"):
        return validation.validate_status_update(new, live) if subresource == "status" else []
    # Kubernetes judges the metadata twice (its generic and the kind's own rules), and its causes show it.
    return [*validation.validate_metadata_update(new, live), *validation.validate_update(new, live)]


def custom_errors(
    new: Manifest, live: Manifest | None, subresource: str, *, schema_of: Manifest, rules: Rules, fit: Fit
) -> list[FieldError]:
    """What is wrong with a custom object; `rules` and `fit` are those of the schema."""
    found = rules.errors(new, live) if fit.takes(new) else validate(new, schema_of, live, rules=rules)
    if live is None:
        return [*validation.validate_metadata(new), *found]
    if subresource == "status":
        return [_within_status(error) for error in found]
    return [*validation.validate_metadata_update(new, live), *found]


def _within_status(error: FieldError) -> FieldError:
    """The error as Kubernetes words it when it looks at the status alone: its text counts from there."""
    inner = error.field.removeprefix("status.")
    return replace(error, message=error.message.replace(f"{error.field} in body", f"{inner} in body"))
