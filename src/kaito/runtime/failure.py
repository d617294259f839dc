# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The last words of a container: a `Failure` raised anywhere, written once as JSON and as one readable line.

The operator reads the JSON back from the container's termination message; people read the line in the log.
"""

from __future__ import annotations

from pathlib import Path

from kaito.api.contracts import Failure

TERMINATION_MESSAGE_LIMIT = 4096
"""Bytes that a kubelet keeps of a termination message."""


class Failed(Exception):
    """The container cannot go on; `failure` says why and what the user can do."""

    def __init__(self, reason: str, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.failure = Failure(reason=reason, message=message, next_step=next_step)


def failure_line(failure: Failure) -> str:
    """The failure in one line for the log."""
    text = f"{failure.reason}: {failure.message} {failure.next_step}"
    return "kaito-runtime: " + " ".join(text.split())


def termination_message(failure: Failure) -> str:
    """The failure as JSON that fits a termination message; a message that is too long loses its end."""
    text = failure.model_dump_json()
    excess = len(text.encode()) - TERMINATION_MESSAGE_LIMIT
    if excess <= 0:
        return text
    kept = failure.message.encode()[: -(excess * 2 + 8)].decode("utf-8", "ignore")
    return failure.model_copy(update={"message": kept + "…"}).model_dump_json()


def write_termination_message(failure: Failure, path: Path) -> None:
    """Leave the failure where the kubelet looks; a place that cannot be written is no further failure."""
    try:
        path.write_text(termination_message(failure), "utf-8")
    except OSError:
        return
