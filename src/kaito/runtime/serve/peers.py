# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Asks the fronts of the other ranks how they are; a lost one ends this server, so that all meet again.

What is decided is in `ranks.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp

from kaito.api.contracts import ServeConfig
from kaito.api.names import REASON_ENGINE_FAILED
from kaito.runtime.failure import Failed
from kaito.runtime.serve.ranks import Company

POLL_S = 3.0
TIMEOUT = aiohttp.ClientTimeout(total=5)


async def keep_company(config: ServeConfig, rank: int, now: Callable[[], float], *, poll_s: float = POLL_S) -> None:
    """Watch the other ranks: the leader all of them, the others the leader; raises Failed when one is lost."""
    ranks = tuple(range(1, config.nodes)) if rank == 0 else (0,)
    company = Company(ranks, now())
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        while ranks:
            for other in ranks:
                why = company.heard(other, await asked(session, config.peers[other], config.port), now())
                if why is not None:
                    raise Failed(
                        REASON_ENGINE_FAILED,
                        f"The model is spread over {config.nodes} pods. {why}",
                        "Nothing to do at first: all pods of the model start again. If it recurs, look at that pod.",
                    )
            await asyncio.sleep(poll_s)


async def asked(session: aiohttp.ClientSession, host: str, port: int) -> dict[str, Any] | None:
    """What a front says of itself; None when it does not answer."""
    try:
        async with session.get(f"http://{host}:{port}/healthz") as response:
            report = await response.json(content_type=None)
            return report if isinstance(report, dict) else None
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        return None
