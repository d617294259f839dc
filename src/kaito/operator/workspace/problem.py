# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Why nothing is created for a Workspace."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """Why nothing is created: a reason of `names`, and what, why and the next step in a sentence or two."""

    reason: str
    message: str
