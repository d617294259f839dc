# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What goes with a write besides the object: who, when, under which manager's name, and how strictly.

Pure values, made by `kaito.engine.objects.resources` from a request and read by `kaito.engine.objects.registry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from kaito.engine.wire.requests import User
from kaito.kube.manifest import Manifest

FieldValidation = Literal["Ignore", "Warn", "Strict"]


@dataclass(slots=True)
class WriteContext:
    """One write request."""

    user: User
    now: datetime
    manager: str
    validation: FieldValidation = "Warn"
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)
    """Grows while the write is worked on; ends in the answer's Warning headers."""
    options: Manifest = field(default_factory=dict)
    """The request's options object, which admission webhooks are shown."""
    is_mutated: bool = False
    """Whether a webhook has changed the object."""
    written: bytes | None = None
    """What the write has stored, as its answer shows it; None when it has stored nothing."""


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How to delete."""

    propagation: Literal["Background", "Foreground", "Orphan"] | None = None
    grace_period_s: int | None = None
    uid: str | None = None
    resource_version: str | None = None


SYSTEM_USER = User("system:apiserver", ("system:masters",))


def strict_text(problems: Sequence[str]) -> str:
    """Unknown and duplicate fields as one message."""
    return "strict decoding error: " + ", ".join(problems)
