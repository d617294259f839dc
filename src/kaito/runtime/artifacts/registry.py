# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""One repository of a registry: manifests and blobs, read and written.

Speaks https://github.com/opencontainers/distribution-spec. Tries without a login first, then with each of those that
were given. A registry on this machine may speak plain http, as container engines allow; any other must speak TLS.
"""

from __future__ import annotations

import hashlib
import platform
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urljoin

from kaito.api.names import REASON_ARTIFACT_INVALID, REASON_ARTIFACT_NOT_FOUND, REASON_ARTIFACT_UNAUTHORIZED
from kaito.api.references import DOCKER_HUB, Reference
from kaito.runtime.artifacts import media
from kaito.runtime.artifacts.auth import Challenge, authorization, challenge
from kaito.runtime.artifacts.credentials import Login
from kaito.runtime.artifacts.media import Content, Descriptor
from kaito.runtime.artifacts.streams import Stream, Watch
from kaito.runtime.artifacts.transport import RETRIED, Body, Response, Transport, Unreachable, unavailable
from kaito.runtime.failure import Failed

DOCKER_HUB_HOST = "registry-1.docker.io"
MANIFEST_LIMIT = 4 << 20
"""Registries take no larger manifest (distribution-spec, "Pushing Manifests")."""
DENIED = (401, 403)
ARCHITECTURES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


@dataclass(slots=True)
class Registry:
    """The repository that a reference is in."""

    transport: Transport
    reference: Reference
    """Where to ask: a mirror's, if there is one."""
    logins: Sequence[Login] = ()
    writes: bool = False
    deletes: bool = False
    _scheme: str = "https"
    _asked: Challenge | None = None
    _header: str | None = field(default=None, repr=False)
    _login: Login | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def host(self) -> str:
        """Where the registry listens."""
        return DOCKER_HUB_HOST if self.reference.registry == DOCKER_HUB else self.reference.registry

    def url(self, path: str) -> str:
        """An address in the repository."""
        return f"{self._scheme}://{self.host}/v2/{self.reference.repository}/{path}"

    def connect(self) -> None:
        """Find out how the registry speaks, and log in with the first login that it takes; raises Failed."""
        response = self._first_answer()
        self._asked = challenge(response.headers.get("WWW-Authenticate")) if response.status == 401 else None
        self.transport.done(response)
        if response.status in RETRIED:
            raise self.unavailable(f"it answers with status {response.status}")

    def _first_answer(self) -> Response:
        try:
            return self.transport.request("GET", f"{self._scheme}://{self.host}/v2/")
        except Unreachable as error:
            if not self.reference.is_loopback or not self._may_speak_http(error):
                raise self.unavailable(error) from None
        self._scheme = "http"
        try:
            return self.transport.request("GET", f"http://{self.host}/v2/")
        except Unreachable as error:
            raise self.unavailable(error) from None

    def _may_speak_http(self, error: Unreachable) -> bool:
        return error.tls and "certificate" not in str(error)

    def resolve(self) -> tuple[Content, str]:
        """What the reference stands for on this machine, and the digest of its manifest; raises Failed."""
        wanted = self.reference.wanted
        manifest, media_type, digest = self.manifest(wanted)
        try:
            if media.is_index(manifest, media_type):
                architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
                manifest, _, digest = self.manifest(media.choose(manifest, architecture).digest)
            return media.content(manifest), digest
        except ValueError as error:
            what = f"{self.reference} is no image or artifact that can be taken: {error}."
            raise Failed(REASON_ARTIFACT_INVALID, what, "Name another tag, or push it anew.") from None

    def manifest(self, wanted: str) -> tuple[Mapping[str, Any], str, str]:
        """A manifest or an index, its media type and its digest; raises Failed."""
        accept = ", ".join((*media.MANIFESTS, *media.INDEXES))
        response = self.send("GET", f"manifests/{wanted}", headers={"Accept": accept})
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        try:
            body = self.transport.read(response, MANIFEST_LIMIT)
            found = media.document(body)
        except Unreachable as error:
            raise self.unavailable(error) from None
        except ValueError as error:
            what = f"The manifest of {self.reference} cannot be read: {error}."
            raise Failed(REASON_ARTIFACT_INVALID, what, "Is this the address of a registry?") from None
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        if wanted.startswith("sha256:") and digest != wanted:
            what = f"The manifest of {self.reference} has the digest {digest}, not the one that was asked for."
            raise Failed(REASON_ARTIFACT_INVALID, what, "The registry or a proxy on the way changes it; use another.")
        return found, media_type, digest

    def blob(self, wanted: Descriptor, watch: Watch) -> Stream:
        """A blob as verified bytes."""
        return Stream(
            self.transport,
            partial(self._blob_from, wanted),
            name=f"The layer {wanted.digest[:19]}… of {self.reference}",
            digest=wanted.digest,
            size=wanted.size,
            watch=watch,
        )

    def _blob_from(self, wanted: Descriptor, offset: int) -> Response:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        return self.send("GET", f"blobs/{wanted.digest}", headers=headers)

    def send(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: Body | None = None
    ) -> Response:
        """One request with a login that the registry takes; an answer below 400. Raises Failed."""
        try:
            response = self.ask(method, path, headers=headers, body=body)
        except Unreachable as error:
            raise self.unavailable(error) from None
        if response.status < 400:
            return response
        raise self.refused(response, path)

    def ask(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: Body | None = None
    ) -> Response:
        """One request with a login that the registry takes, if there is one; any answer. Raises Unreachable.

        It is tried again when the server is busy, unless the body can be read only once. `path` may be a URL.
        """
        url = path if "://" in path else self.url(path)
        return self._with_login(method, url, headers or {}, body=body)

    def has_blob(self, digest: str) -> bool:
        """Whether the repository holds the blob; raises Unreachable or Failed."""
        response = self.ask("HEAD", f"blobs/{digest}")
        if response.status < 400 or response.status == 404:
            self.transport.done(response)
            return response.status < 400
        raise self.refused(response, f"blobs/{digest}")

    def _with_login(self, method: str, url: str, headers: Mapping[str, str], *, body: Body | None) -> Response:
        refused = self._header
        response = self._sent(method, url, headers, body=body)
        if response.status not in DENIED or _used_up(body):
            return response
        with self._lock:
            if self._header != refused:
                # Another thread logged in while this request was under way.
                self.transport.done(response)
                response = self._sent(method, url, headers, body=body)
            if response.status not in DENIED:
                return response
            for header, login in self._headers(response):
                self.transport.done(response)
                self._header, self._login = header, login
                response = self._sent(method, url, headers, body=body)
                if response.status not in DENIED:
                    break
        return response

    def _headers(self, response: Response) -> Iterator[tuple[str, Login | None]]:
        """The headers to try one after the other, as long as the last one that was tried is refused."""
        asked = challenge(response.headers.get("WWW-Authenticate")) or self._asked
        known = [self._login] if self._login is not None else []
        candidates = [None, *self.logins] if self._header is None else [*known, *self.logins, None]
        for login in candidates if asked is not None else []:
            header = authorization(self.transport, asked, login, self._scope) if asked else None
            if header is not None and header != self._header:
                yield header, login

    @property
    def _scope(self) -> str:
        actions = ("pull", *(("push",) if self.writes else ()), *(("delete",) if self.deletes else ()))
        return f"repository:{self.reference.repository}:{','.join(actions)}"

    def _sent(self, method: str, url: str, headers: Mapping[str, str], *, body: Body | None) -> Response:
        is_ours = url.startswith(f"{self._scheme}://{self.host}/")
        fields = {**headers, **({"Authorization": self._header} if self._header and is_ours else {})}
        if body is None or isinstance(body, bytes):
            return self.transport.request(method, url, headers=fields, body=body)
        return self.transport.send(method, url, headers=fields, body=body)

    def absolute(self, location: str) -> str:
        """An address that the registry named in an answer."""
        return urljoin(self.url(""), location)

    def refused(self, response: Response, path: str) -> Failed:
        """A Failed for an answer of 400 and above."""
        said = self._said(response)
        if response.status in DENIED:
            return self._unauthorized()
        if response.status == 404 and path.startswith("manifests/"):
            what = f"The registry {self.reference.registry} has no {self.reference}."
            return Failed(REASON_ARTIFACT_NOT_FOUND, what, "Check the name and the tag, or push it first.")
        if response.status == 404 and path.startswith("blobs/sha"):
            what = f"The registry {self.reference.registry} lacks a layer of {self.reference} ({path[6:25]}…)."
            return Failed(REASON_ARTIFACT_NOT_FOUND, what, "It was pushed incompletely or cleaned up: push it anew.")
        return self.unavailable(f"it answers with status {response.status}{said}")

    def _said(self, response: Response) -> str:
        """The registry's own words for an error (distribution-spec, "Error Codes"); empty without any."""
        try:
            errors = media.document(self.transport.read(response, 1 << 16)).get("errors") or []
            text = " ".join(str(errors[0].get("message") or errors[0].get("code") or "").split())
        except (Unreachable, ValueError, LookupError, AttributeError, TypeError):
            return ""
        return f" ({text[:200]})" if text.isprintable() and text else ""

    def _unauthorized(self) -> Failed:
        aim = "push to" if self.writes else "read"
        count = len(self.logins)
        tried = "no login for it was given" if not count else f"none of the {count} logins that were given is accepted"
        tried = "the login that was given is not accepted" if count == 1 else tried
        what = f"The registry {self.reference.registry} does not let us {aim} {self.reference.repository}: {tried}."
        step = "Check the name"
        step += ", and `docker login` to it." if self.writes else ", and name a pull secret that may read it."
        return Failed(REASON_ARTIFACT_UNAUTHORIZED, what, step)

    def unavailable(self, why: object) -> Failed:
        """A Failed for a registry that does not answer, or not as it should."""
        return unavailable(f"The registry {self.reference.registry} cannot be used for {self.reference}", why)


def _used_up(body: Body | None) -> bool:
    """The body cannot be sent a second time."""
    return body is not None and not isinstance(body, bytes)
