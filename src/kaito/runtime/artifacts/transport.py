# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""HTTP for downloads and uploads: connections that are reused, proxies, extra authorities, retries, resumed bodies.

Stands on urllib3, in threads: hashing and file writes let other threads run, and no byte passes an event loop. Knows
neither registries nor what the bytes are. `streams.py` turns one download into verified bytes.
"""

from __future__ import annotations

import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, SSLError

from kaito.api.names import REASON_ARTIFACT_UNAVAILABLE, REASON_INVALID_SPEC
from kaito.runtime.artifacts.addresses import Refused, only_public, refused
from kaito.runtime.failure import Failed

TRIES = 6
TRIES_OF_NOBODY = 3
"""For a name that cannot be resolved, or where nobody listens: who waits for us wants to hear of it in seconds."""
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
LONGEST_PAUSE_S = 60.0
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
CONNECTIONS = 16
USER_AGENT = "kaito-runtime"

Response = urllib3.BaseHTTPResponse
Body = bytes | IO[bytes] | Iterable[bytes]


class Unreachable(Exception):
    """No answer: the text says why, for a sentence that goes on with it."""

    def __init__(self, why: str, *, tls: bool = False, nobody: bool = False) -> None:
        super().__init__(why)
        self.tls = tls
        """The other side does not speak TLS, or not so that we trust it."""
        self.nobody = nobody
        """There is no other side: seldom something that waiting helps with."""


@dataclass(slots=True)
class Patience:
    """How often and how long to try again; a test hands in a pause of its own."""

    tries: int = TRIES
    first_pause_s: float = 0.5
    pause: Callable[[float], None] = time.sleep

    def wait(self, attempt: int, retry_after_s: float | None = None) -> None:
        """Pause before the next try: as the server says, else twice as long each time."""
        wished = self.first_pause_s * 2**attempt if retry_after_s is None else retry_after_s
        self.pause(min(wished, LONGEST_PAUSE_S))


@dataclass(slots=True)
class Transport:
    """Connections to any number of hosts, for any number of threads; `close` ends what is under way."""

    ca_file: Path | None = None
    patience: Patience = field(default_factory=Patience)
    public_only: bool = False
    """Connect to public addresses alone; what leads elsewhere raises Failed. Not for what a proxy connects to."""
    _pools: dict[str, urllib3.PoolManager] = field(default_factory=dict, repr=False)
    _open: set[Response] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    closed: bool = False

    def send(self, method: str, url: str, *, headers: Mapping[str, str], body: Body | None = None) -> Response:
        """One request, no retry; the body of the answer is still to be read. Raises Unreachable."""
        if self.closed:
            raise Unreachable("it was given up")
        fields = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
        timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
        redirects = urllib3.Retry(total=None, connect=0, read=0, redirect=5, status=0, other=0)
        try:
            response = self._pool(url).request(
                method, url, headers=fields, body=body,
                timeout=timeout, retries=redirects, preload_content=False, decode_content=False,
            )  # fmt: skip
        except Refused as error:
            raise refused(url.partition("?")[0].partition("#")[0], error) from None
        except HTTPError as error:
            raise unreachable(error) from None
        with self._lock:
            self._open.add(response)
        return response

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Response:
        """As `send`, tried again on a broken connection and on 408, 429 and 5xx; the last answer is returned."""
        for attempt in range(self.patience.tries):
            is_last = attempt == self.patience.tries - 1
            is_enough = attempt >= TRIES_OF_NOBODY - 1
            try:
                response = self.send(method, url, headers=headers or {}, body=body)
            except Unreachable as error:
                if is_last or error.tls or self.closed or (error.nobody and is_enough):
                    raise
                self.patience.wait(attempt)
                continue
            if response.status not in RETRIED or is_last:
                return response
            after = retry_after_s(response.headers.get("Retry-After"), time.time())
            self.done(response)
            self.patience.wait(attempt, after)
        raise AssertionError("unreachable")

    def read(self, response: Response, limit: int) -> bytes:
        """The whole body; raises Unreachable when it is cut off, ValueError when it is longer than the limit."""
        try:
            body = response.read(limit + 1)
        except HTTPError as error:
            raise unreachable(error) from None
        finally:
            self.done(response)
        if len(body) > limit:
            raise ValueError(f"it is longer than {limit} bytes")
        return body

    def done(self, response: Response) -> None:
        """Let go of an answer: the connection is reused when the body was read to its end, else closed."""
        with self._lock:
            self._open.discard(response)
        response.close() if (response.length_remaining or 0) > 1 << 16 else response.drain_conn()
        response.release_conn()

    def close(self) -> None:
        """End every download, in whatever thread it is."""
        self.closed = True
        with self._lock:
            left = list(self._open)
            self._open.clear()
        for response in left:
            response.close()
        for pool in self._pools.values():
            pool.clear()

    def _pool(self, url: str) -> urllib3.PoolManager:
        proxy = proxy_of(url)
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._new_pool(proxy)
            return self._pools[proxy]

    def _new_pool(self, proxy: str) -> urllib3.PoolManager:
        context = tls_context(self.ca_file)
        if proxy:
            return urllib3.ProxyManager(proxy, maxsize=CONNECTIONS, ssl_context=context)
        manager = urllib3.PoolManager(maxsize=CONNECTIONS, ssl_context=context)
        return only_public(manager) if self.public_only else manager


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The system's authorities and those of the file; raises Failed (InvalidSpec) when the file holds none."""
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError):
            what = f"The file {ca_file} holds no certificate authorities that can be read."
            raise Failed(REASON_INVALID_SPEC, what, "Give a PEM file of certificates, or leave it out.") from None
    return context


def proxy_of(url: str) -> str:
    """The proxy that the environment names for the URL (HTTPS_PROXY, HTTP_PROXY, NO_PROXY); empty for none."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc) or is_loopback(parts.hostname or ""):
        return ""
    return urllib.request.getproxies().get(parts.scheme, "")


def is_loopback(host: str) -> bool:
    """The host is this machine."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def unreachable(error: HTTPError) -> Unreachable:
    """The library's error as one of ours, without addresses of objects and stack of causes."""
    cause: BaseException = error
    if isinstance(cause, MaxRetryError) and cause.reason is not None:
        cause = cause.reason
    if isinstance(cause, SSLError):
        return Unreachable(_tls_words(str(cause)), tls=True)
    if isinstance(cause, urllib3.exceptions.NameResolutionError):
        return Unreachable("its name cannot be resolved", nobody=True)
    if isinstance(cause, urllib3.exceptions.NewConnectionError):
        return Unreachable(_connection_words(str(cause)), nobody=True)
    if isinstance(cause, urllib3.exceptions.ConnectTimeoutError | urllib3.exceptions.ReadTimeoutError):
        return Unreachable("it does not answer in time")
    if isinstance(cause, urllib3.exceptions.ProxyError):
        return Unreachable("the proxy does not let us through")
    return Unreachable("the connection breaks off")


def _connection_words(text: str) -> str:
    return "the connection is refused" if "refused" in text else "there is no way to it from here"


def _tls_words(text: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate" in text.lower():
        why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "it is not valid for this host"
        return f"its certificate is not trusted ({why})"
    return "it does not speak TLS"


def retry_after_s(header: str | None, now: float) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, section 10.2.3: seconds or a date); None without a usable one."""
    if header is None:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (TypeError, ValueError):
        return None


def unavailable(what: str, why: object, *, step: str = "") -> Failed:
    """A Failed for something that does not answer, or not as it should."""
    default = "Check the name and the network; when the server is only busy, the next try may succeed."
    return Failed(REASON_ARTIFACT_UNAVAILABLE, f"{what}: {why}.", step or default)
