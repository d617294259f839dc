# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The story of one server's start, told in its log while it happens: phases, the download, the weights, a first token.

The front knows the same and tells it on `/health`; the log is what the operator can read everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from kaito.runtime.serve.backend import Backend
from kaito.runtime.serve.diagnose import LOADING
from kaito.runtime.serve.state import Download, ServingState
from kaito.runtime.starting import EVERY_S, Teller, utc_now

FIRST_TOKEN_WITHIN_S = 120.0
NO_DOWNLOAD: dict[str, Any] = {"done_bytes": None, "total_bytes": None, "remaining_s": None}


@dataclass(slots=True)
class Start:
    """What one start has come to."""

    teller: Teller
    state: ServingState
    weigh: Callable[[], int] = lambda: 0
    """The bytes of the weights, once they are there."""
    _loading_since: float | None = None
    _said_at: float = 0.0

    def entered(self, phase: str) -> None:
        """A phase has begun; the weights are there when what follows their loading does."""
        now = self.state.seconds()
        news: dict[str, Any] = {"phase": phase}
        if phase == LOADING:
            self._loading_since = now if self._loading_since is None else self._loading_since
        elif self._loading_since is not None and not self.teller.progress.weights_at:
            took = round(now - self._loading_since, 1)
            news |= {"weights_at": utc_now(), "weights_bytes": self.weigh(), "weights_s": took, **NO_DOWNLOAD}
        self.teller.tell(**news)

    def downloaded(self, download: Download) -> None:
        """A download goes on; said every few seconds."""
        self.state.download = download
        now = self.state.seconds()
        if self.teller.progress.weights_at or now - self._said_at < EVERY_S:
            return
        self._said_at = now
        left = download.remaining_s()
        self.teller.tell(
            done_bytes=download.done_bytes,
            total_bytes=download.total_bytes,
            remaining_s=round(left) if left >= 0 else None,
        )

    def made_token(self) -> None:
        """The first token is there."""
        self.teller.tell(first_token_at=utc_now(), first_token_s=round(self.state.seconds(), 1))


async def first_token(session: aiohttp.ClientSession, backend: Backend, start: Start) -> None:
    """Ask the engine for one token: a model that answers is what users wait for. Nothing is told where none comes."""
    question = {"model": backend.names[0], "prompt": "Hello", "max_tokens": 1}
    timeout = aiohttp.ClientTimeout(total=FIRST_TOKEN_WITHIN_S)
    try:
        async with session.post(backend.url + "/v1/completions", json=question, timeout=timeout) as answer:
            await answer.read()
            if answer.status == 200:
                start.made_token()
    except (TimeoutError, aiohttp.ClientError, OSError):
        pass  # A model of embeddings makes none; one that ends is told of elsewhere.
