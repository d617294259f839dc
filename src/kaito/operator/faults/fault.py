# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a fault is, as data: where it is seen, by which words, what it means, and what the user should do.

A `Fault` is a row of the table (`kaito.operator.faults.table`), a `Diagnosis` one case of it with its evidence. Nothing
here looks at an object; `kaito.operator.workspace.failures` does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

MAX_MESSAGE_BYTES = 256
"""As KAITO cuts failure messages."""

Sign = Literal[
    "spec", "node", "order", "api", "scheduling", "storage", "mount", "image", "start", "end", "log", "eviction",
    "probe", "service", "tuning",
]  # fmt: skip
"""Where a fault is seen; `SIGNS` says in words what that is."""

SIGNS: dict[Sign, str] = {
    "spec": "the Workspace, or the ConfigMap that it names",
    "node": "a Node: its Ready condition, taints, GPUs",
    "order": "a NodeClaim, Machine or NodePool: its conditions and events",
    "api": "the API server's answer to us, or a FailedCreate event of the StatefulSet",
    "scheduling": "a Pod: its PodScheduled condition",
    "storage": "an event of a PersistentVolumeClaim that a Pod mounts",
    "mount": "a Warning event of a Pod that is not started",
    "image": "a Pod: a container that waits for its image, and the Pod's events",
    "start": "a Pod: a container that waits because it cannot be started",
    "end": "a Pod: how a container ended",
    "log": "a Pod: the last words of a container (its termination message)",
    "eviction": "a Pod that has failed as a whole, or is about to be disrupted",
    "probe": "a Warning event of a Pod whose probe fails",
    "service": "the Service, and the Pods that it selects",
    "tuning": "a fine-tuning's settings, or the last words of its container (its termination message)",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of failure."""

    reason: str
    """A reason of `kaito.api.names`, of its own."""
    sign: Sign
    what: str
    """What has happened, as the beginning of a sentence in the documentation."""
    step: str
    """What the user should do; `{pod}`, `{container}`, `{type}` and `{said}` are filled in."""
    marks: tuple[str, ...] = ()
    """Words (regular expressions, case ignored) of which one stands in the evidence; none for the general case, which
    comes last."""
    condition: str = ""
    """The condition's reason, where that is the word that KAITO has for a class of faults."""

    def fits(self, text: str) -> bool:
        """Whether the evidence speaks of this fault."""
        return not self.marks or _pattern(self.marks).search(text) is not None


@cache
def _pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    """One of the marks, as one pattern."""
    return re.compile("|".join(f"(?:{mark})" for mark in marks), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A fault that was found: what `status.failure` and the condition say."""

    reason: str
    condition: str
    """The condition's reason."""
    evidence: str
    """What was seen, in the words of whoever said it."""
    step: str
    lead: str = field(default="", compare=False)
    """What the evidence is about, before it in the sentence."""

    def told_as(self, condition: str, step: str = "") -> Diagnosis:
        """The same under another condition's reason, and with a next step that is known better."""
        return replace(self, condition=condition, step=step or self.step)

    @property
    def message(self) -> str:
        """What was seen and the next step, cut before the step to what a condition holds."""
        said = sentences(f"{self.lead}{self.evidence}")
        if not self.step or self.step in said:
            return short(said)
        room = MAX_MESSAGE_BYTES - len(f"… {self.step}".encode())
        return f"{short(said, room)} {self.step}"


def short(message: str, most: int = MAX_MESSAGE_BYTES) -> str:
    """The message cut to what a condition holds, between two characters, with an ellipsis where it was cut."""
    encoded = message.encode()
    if len(encoded) <= most:
        return message
    return encoded[:most].decode(errors="ignore").rstrip() + "…"


def sentences(*parts: str) -> str:
    """The parts as sentences, each with a full stop."""
    texts = [part.strip() for part in parts if part.strip()]
    return " ".join(text if text[-1] in ".!?…" else f"{text}." for text in texts)


def diagnosis(fault: Fault, evidence: str, *, lead: str = "", **names: str) -> Diagnosis:
    """The fault with its evidence; `names` fill in the step."""
    words = {"pod": "NAME-0", "container": "the container", "type": "the type", "said": ""} | names
    step = re.sub(r"\{(\w+)\}", lambda match: words.get(match[1], match[0]), fault.step)
    return Diagnosis(fault.reason, fault.condition or fault.reason, " ".join(evidence.split()), step, lead)
