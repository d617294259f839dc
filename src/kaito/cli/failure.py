# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""How a command ends when it cannot do what was asked: one sentence and a next step, never a traceback."""

from __future__ import annotations


class UserError(Exception):
    """What went wrong, and what to do about it; `main.py` prints both and exits with status 1."""

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message)
        self.next_step = next_step
