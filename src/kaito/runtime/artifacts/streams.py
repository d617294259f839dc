# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""One download as a stream of verified bytes: cut-off answers go on where they ended; the digest decides at the end.

Whoever reads, hashes: several layers are read at once, and each chunk is hashed and written while it is in the
processor's cache. Who reads must read to the end: only then are the bytes known to be right, and until then they belong
in no place where others look.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from types import TracebackType

from urllib3.exceptions import HTTPError

from kaito.api.names import REASON_ARTIFACT_INVALID
from kaito.runtime.artifacts.transport import Response, Transport, Unreachable, unavailable, unreachable
from kaito.runtime.failure import Failed

CHUNK = 1 << 16
"""Bytes in hand at a time. Below what the C library takes from the system anew each time (128 KiB), page by page."""

Open = Callable[[int], Response]
"""Asks for the bytes from an offset on; may answer with all of them (200) or with the rest (206)."""
Watch = Callable[[int], None]
"""Told of every few bytes that came."""


class Stream(io.RawIOBase):
    """The bytes of one download; `read` raises Failed when they cannot be had or are not what they should be."""

    def __init__(
        self, transport: Transport, opened: Open, *, name: str, digest: str | None, size: int | None, watch: Watch
    ) -> None:
        self._transport = transport
        self._opened = opened
        self._name = name
        self._size = size
        self._watch = watch
        self._algorithm, _, self._expected = (digest or "sha256:").partition(":")
        self._hash = hashlib.new(self._algorithm)
        self._response: Response | None = None
        self._failures = 0
        self.offset = 0
        self.digest = ""
        """Of what was read, once all was."""

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Bytes read so far."""
        return self.offset

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, none at the end; reads of a known length come whole."""
        if self.digest or size == 0:
            return b""
        chunk = self._next(CHUNK if size is None or size < 0 else size)
        if not chunk:
            self._finish()
            return b""
        self._hash.update(chunk)
        self.offset += len(chunk)
        self._watch(len(chunk))
        if self._size is not None and self.offset > self._size:
            raise self._invalid(f"has more than the {self._size} bytes that were announced")
        return chunk

    def _next(self, size: int) -> bytes:
        while True:
            try:
                if self._response is None:
                    self._response = self._reopened()
                chunk = self._response.read(size)
                if not chunk and self._size is not None and self.offset < self._size:
                    raise Unreachable("the data ends too early")
            except (HTTPError, Unreachable, OSError, ValueError) as error:
                self._broken(error)
                continue
            self._failures = 0 if chunk else self._failures
            return chunk

    def _broken(self, error: Exception) -> None:
        """Let go of the connection and pause; raises Failed when there were too many breaks without progress."""
        self._let_go()
        why = error if isinstance(error, Unreachable) else unreachable(error) if isinstance(error, HTTPError) else error
        self._failures += 1
        if self._failures >= self._transport.patience.tries or self._transport.closed:
            raise unavailable(f"{self._name} cannot be downloaded", why) from None
        self._transport.patience.wait(self._failures - 1)

    def _reopened(self) -> Response:
        response = self._opened(self.offset)
        if self.offset and response.status != 206:
            skipped = 0
            while skipped < self.offset:
                passed = response.read(min(CHUNK, self.offset - skipped))
                if not passed:
                    raise Unreachable("the data ends too early")
                skipped += len(passed)
        return response

    def _finish(self) -> None:
        self._let_go()
        found = self._hash.hexdigest()
        if self._expected and found != self._expected:
            raise self._invalid(f"has the digest {self._algorithm}:{found}, not the one that it is known by")
        self.digest = f"{self._algorithm}:{found}"

    def _invalid(self, why: str) -> Failed:
        step = "The copy in the registry or a proxy on the way is damaged: push it anew, or ask who runs the registry."
        return Failed(REASON_ARTIFACT_INVALID, f"{self._name} {why}.", step)

    def _let_go(self) -> None:
        if self._response is not None:
            self._transport.done(self._response)
            self._response = None

    def close(self) -> None:
        """End the download; what was read is not known to be right unless all of it was."""
        if not self.closed:
            self._let_go()
        super().close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
