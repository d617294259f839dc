# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Runs an SDK's blocking calls on a few threads of their own, so that nothing else waits for a cloud."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
MOST_THREADS = 8
CONNECT_S, READ_S = 5.0, 20.0
"""Time-outs of every call: together less than a call may take (`kaito.provisioner.cloud.CALL_S`)."""


class Threads:
    """A small pool."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="cloud")

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns; raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)
