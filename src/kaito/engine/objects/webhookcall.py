# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""One call of an admission webhook over HTTPS: where it is, which CA it is trusted by, and how long it may take."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

import aiohttp
import msgspec

from kaito.kube.manifest import Manifest

DEFAULT_TIMEOUT_S = 10

Resolve = Callable[[str, str, int], tuple[str, int] | None]
"""(namespace, service, port) to an address that answers, or None."""


class CallFailed(Exception):
    """The webhook could not be asked, or its answer makes no sense."""


class Caller:
    """Calls webhooks."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._session: aiohttp.ClientSession | None = None

    async def call(self, spec: Manifest, review: Manifest) -> Manifest:
        """The `response` of the AdmissionReview that comes back. Raises CallFailed."""
        url, server_name = self._target(spec["clientConfig"])
        timeout_s = spec.get("timeoutSeconds") or DEFAULT_TIMEOUT_S
        if self._session is None:
            self._session = aiohttp.ClientSession(trust_env=False)
        shown = f"{url}?timeout={timeout_s}s"
        try:
            async with self._session.post(
                url,
                params={"timeout": f"{timeout_s}s"},
                data=msgspec.json.encode(review),
                headers={"Content-Type": "application/json", "User-Agent": "kaito-engine"},
                ssl=_tls(spec["clientConfig"]),
                server_hostname=server_name,
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                body = await response.read()
                status = response.status
        except TimeoutError:
            raise CallFailed(f'failed to call webhook: Post "{shown}": context deadline exceeded') from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise CallFailed(f'failed to call webhook: Post "{shown}": {error}') from None
        if status != 200:
            text = body[:200].decode("utf-8", "replace")
            raise CallFailed(f"failed to call webhook: an error on the server ({text!r}) has prevented the request")
        return _response(body)

    def _target(self, config: Manifest) -> tuple[str, str | None]:
        """URL and the name that the certificate must have, if that is not the URL's."""
        if config.get("url"):
            return str(config["url"]), None
        service = config["service"]
        namespace, name, port = service["namespace"], service["name"], service.get("port", 443)
        address = self._resolve(namespace, name, port)
        if address is None:
            raise CallFailed(f'failed to call webhook: no endpoints available for service "{name}" in {namespace}')
        host, number = address
        path = "/" + service.get("path", "/").lstrip("/")
        return f"https://{host}:{number}{path}", f"{name}.{namespace}.svc"

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)


def _tls(config: Manifest) -> ssl.SSLContext:
    if urlsplit(config.get("url", "https:")).scheme != "https":
        raise CallFailed("failed to call webhook: the url must be https")
    try:
        return _trusting(config.get("caBundle") or "")
    except (ValueError, ssl.SSLError):
        raise CallFailed("unable to load root certificates: unable to parse bytes as PEM block") from None


@lru_cache(maxsize=64)
def _trusting(bundle: str) -> ssl.SSLContext:
    """The context for a CA bundle, the same one each time: connections are kept open for it. No bundle: the system's.

    Raises ValueError or ssl.SSLError for a bundle that holds no certificates.
    """
    pem = base64.b64decode(bundle).decode()
    if bundle and not pem:
        raise ValueError("an empty bundle trusts nobody, not everybody that the system trusts")
    return ssl.create_default_context(cadata=pem or None)


def _response(body: bytes) -> Manifest:
    try:
        review = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise CallFailed(f"the webhook's answer is not JSON: {error}") from None
    if not isinstance(review, dict) or not isinstance(review.get("response"), dict):
        raise CallFailed("webhook response is missing a response")
    if review.get("kind") != "AdmissionReview" or review.get("apiVersion") != "admission.k8s.io/v1":
        found = f"{review.get('apiVersion')}, Kind={review.get('kind')}"
        raise CallFailed(f"expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {found}")
    found_response: Manifest = review["response"]
    return found_response
