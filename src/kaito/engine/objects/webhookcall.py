# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""One HTTPS call of an admission or conversion webhook: where, trusted by whose CA, and how long it may take."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from kaito.engine.turns import in_task
from kaito.kube.manifest import Manifest

DEFAULT_TIMEOUT_S = 10
MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""A list of converted objects may be large; what is larger than this is refused and not kept."""

Resolve = Callable[[str, str, int], tuple[str, int]]
"""(namespace, service, port) to an address that answers. Raises LookupError with the reason why there is none."""


class CallFailed(Exception):
    """The webhook could not be asked, or its answer makes no sense."""


class NotCallable(CallFailed):
    """The webhook's client configuration does not say whom to call or to trust."""


class Caller:
    """Calls webhooks."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._session: aiohttp.ClientSession | None = None

    async def call(self, spec: Manifest, review: Manifest) -> Manifest:
        """The `response` of the AdmissionReview that comes back. Raises CallFailed."""
        timeout_s = spec.get("timeoutSeconds") or DEFAULT_TIMEOUT_S
        try:
            answer = await self.post(spec["clientConfig"], review, timeout_s=timeout_s)
        except NotCallable as error:
            raise CallFailed(f"could not get REST client: {error}") from None
        except CallFailed as error:
            raise CallFailed(f"failed to call webhook: {error}") from None
        return _response(answer)

    async def post(self, config: Manifest, review: Manifest, *, timeout_s: int) -> Any:
        """The decoded answer to a review. Raises CallFailed."""
        trust, (url, shown, server_name) = _tls(config), self._target(config)
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False)
        shown = f"{shown}?timeout={timeout_s}s"
        await in_task()
        try:
            async with self._session.post(
                url,
                params={"timeout": f"{timeout_s}s"},
                data=msgspec.json.encode(review),
                headers={"Content-Type": "application/json", "User-Agent": "kaito-engine"},
                ssl=trust,
                server_hostname=server_name,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                body = await _limited(response)
                status = response.status
        except TimeoutError:
            raise CallFailed(f'Post "{shown}": context deadline exceeded') from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CallFailed(f'Post "{shown}": {error}') from None
        if status != 200:
            raise CallFailed(_refusal(status, body))
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError as error:
            raise CallFailed(f"the webhook's answer is not JSON: {error}") from None

    def _target(self, config: Manifest) -> tuple[str, str, str | None]:
        """The URL, how errors show it, and the name that the certificate must have if that is not the URL's."""
        if config.get("url"):
            return str(config["url"]), str(config["url"]), None
        service = config["service"]
        namespace, name, port = service["namespace"], service["name"], service.get("port", 443)
        path = "/" + service.get("path", "/").lstrip("/")
        server_name = f"{name}.{namespace}.svc"
        shown = f"https://{server_name}:{port}{path}"
        try:
            host, number = self._resolve(namespace, name, port)
        except LookupError as error:
            raise CallFailed(f'Post "{shown}": {error.args[0]}') from None
        return f"https://{host}:{number}{path}", shown, server_name

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)


def _tls(config: Manifest) -> ssl.SSLContext:
    if urlsplit(config.get("url", "https:")).scheme != "https":
        raise NotCallable("the url must be https")
    try:
        return _trusting(config.get("caBundle") or "")
    except (ValueError, ssl.SSLError):
        raise NotCallable("unable to load root certificates: unable to parse bytes as PEM block") from None


@lru_cache(maxsize=64)
def _trusting(bundle: str) -> ssl.SSLContext:
    """The context for a CA bundle, the same one each time: connections are kept open for it. No bundle: the system's.

    Raises ValueError or ssl.SSLError for a bundle that holds no certificates.
    """
    pem = base64.b64decode(bundle).decode()
    if bundle and not pem:
        raise ValueError("an empty bundle trusts nobody, not everybody that the system trusts")
    return ssl.create_default_context(cadata=pem or None)


async def _limited(response: aiohttp.ClientResponse) -> bytes:
    """The answer's body. Raises ValueError past what the server would take as a request itself."""
    body = await response.content.read(MAX_ANSWER_BYTES + 1)
    while not response.content.at_eof() and len(body) <= MAX_ANSWER_BYTES:
        body += await response.content.read(MAX_ANSWER_BYTES + 1 - len(body))
    if len(body) > MAX_ANSWER_BYTES:
        raise ValueError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return body


def _refusal(status: int, body: bytes) -> str:
    """What client-go says about an answer that is no success."""
    if status == 404:
        return "the server could not find the requested resource"
    text = body[:200].decode("utf-8", "replace")
    return f"an error on the server ({text!r}) has prevented the request"


def _response(review: Any) -> Manifest:
    if not isinstance(review, dict) or not isinstance(review.get("response"), dict):
        raise CallFailed("webhook response is missing a response")
    if review.get("kind") != "AdmissionReview" or review.get("apiVersion") != "admission.k8s.io/v1":
        found = f"{review.get('apiVersion')}, Kind={review.get('kind')}"
        raise CallFailed(f"expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {found}")
    found_response: Manifest = review["response"]
    return found_response
