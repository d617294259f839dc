# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""One blob on its way into a registry: asked for first, sent in one piece, gone on with where it was cut off.

An upload session of https://github.com/opencontainers/distribution-spec ("Pushing a blob in chunks") in the way of
`docker push`, which every registry knows: POST, one PATCH, PUT. After a break the registry is asked how much it
has; one that does not say, or has lost it, gets the blob from the beginning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from kaito.api.names import REASON_ARTIFACT_INVALID
from kaito.runtime.artifacts.pack import Blob
from kaito.runtime.artifacts.registry import Registry
from kaito.runtime.artifacts.streams import Watch
from kaito.runtime.artifacts.transport import RETRIED, Response, Unreachable
from kaito.runtime.failure import Failed

WHOLE = 1 << 20
"""Blobs up to this size are sent with the request that ends the upload."""
SESSIONS = "blobs/uploads/"
LOST = (404, 416)
"""The session is not known any more, or has another length than we believe."""
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


@dataclass(slots=True)
class Upload:
    """One blob for one registry; to be run once."""

    registry: Registry
    blob: Blob
    watch: Watch
    _location: str = field(default="", init=False)
    _offset: int = field(default=0, init=False)
    """Bytes that the registry is known to have."""
    _told: int = field(default=0, init=False)

    def run(self) -> bool:
        """Bring the blob into the registry; False when it was there already. Raises Failed."""
        failures, furthest = 0, 0
        patience = self.registry.transport.patience
        while True:
            try:
                return self._attempt()
            except Unreachable as error:
                self._find_out_offset()
                failures = failures + 1 if self._offset <= furthest else 1
                furthest = max(furthest, self._offset)
                if failures >= patience.tries or error.tls or self.registry.transport.closed:
                    raise self.registry.unavailable(error) from None
                patience.wait(failures - 1)

    def _attempt(self) -> bool:
        """Everything from what is there on; raises Unreachable when it may be tried again."""
        if not self._location:
            if self.registry.has_blob(self.blob.digest):
                self._tell(self.blob.size)
                return False
            self._begin()
        if self.blob.size > WHOLE and self._offset < self.blob.size:
            self._send_rest()
        self._finish()
        return True

    def _begin(self) -> None:
        response = self._checked(self.registry.ask("POST", SESSIONS, body=b""))
        self._settle(response, 0)

    def _send_rest(self) -> None:
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(self.blob.size - self._offset),
        }
        if self._offset:
            headers["Content-Range"] = f"{self._offset}-{self.blob.size - 1}"
        response = self.registry.ask("PATCH", self._location, headers=headers, body=self._told_from(self._offset))
        self._settle(self._checked(response), self.blob.size)

    def _told_from(self, offset: int) -> Iterator[bytes]:
        sent = offset
        for chunk in self.blob.read_from(offset):
            yield chunk
            sent += len(chunk)
            self._tell(sent)

    def _finish(self) -> None:
        """End the session: the registry compares the digest."""
        body = b"" if self.blob.size > WHOLE else b"".join(self.blob.read_from(0))
        url = f"{self._location}{'&' if '?' in self._location else '?'}digest={self.blob.digest}"
        headers = {"Content-Type": "application/octet-stream"}
        response = self.registry.ask("PUT", url, headers=headers, body=body)
        if response.status == 400:
            self.registry.transport.done(response)
            what = (
                f"The registry {self.registry.reference.registry} refuses a blob: its digest is not what was announced."
            )
            raise Failed(REASON_ARTIFACT_INVALID, what, "Push again when nothing writes to the files any more.")
        self.registry.transport.done(self._checked(response))
        self._tell(self.blob.size)

    def _checked(self, response: Response) -> Response:
        """The answer, when it is a good one; raises Unreachable when another try may help, Failed when not."""
        status = response.status
        if status < 400:
            return response
        # In the middle of an upload a 401 means that the token ran out; at its beginning it is the answer.
        passes = status in RETRIED or (self._location and status in (401, *LOST))
        if status in LOST:
            self._location = ""
        if not passes:
            raise self.registry.refused(response, SESSIONS)
        self.registry.transport.done(response)
        raise Unreachable(f"it answers with status {status}")

    def _settle(self, response: Response, offset: int) -> None:
        """Note where the upload goes on, and how far it is."""
        location = response.headers.get("Location")
        self.registry.transport.done(response)
        if location is None and not self._location:
            raise Unreachable("it does not say where to upload to")
        self._location = self.registry.absolute(location) if location else self._location
        self._offset = offset
        self._tell(offset)

    def _find_out_offset(self) -> None:
        """Ask how much of the blob arrived; begin anew where there is no usable answer."""
        if not self._location:
            self._offset = 0
            return
        try:
            response = self.registry.ask("GET", self._location)
        except Unreachable:
            self._offset, self._location = 0, ""
            return
        has = _RANGE.fullmatch(response.headers.get("Range") or "")
        if response.status >= 400 or has is None:
            self.registry.transport.done(response)
            self._offset, self._location = 0, ""
            return
        last = int(has[1])
        # An empty upload has no range of its own: registries write it as 0-0.
        self._settle(response, min(last + 1, self.blob.size) if last else 0)

    def _tell(self, count: int) -> None:
        """Tell the watcher what has changed since it was last told."""
        self.watch(count - self._told)
        self._told = count
