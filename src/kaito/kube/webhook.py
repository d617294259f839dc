# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The HTTPS server behind admission webhooks and CRD conversion, with certificates of its own that renew themselves.

The judgement is a pure function (`kaito.kube.admission`): this file listens, limits, and answers. `ca_bundle()` is what
belongs into the webhook configuration's `clientConfig.caBundle`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

import msgspec
from aiohttp import web

from kaito.kube.admission import BadReview, Converter, Validator, admission_answer, convert, parse_admission
from kaito.kube.auth import load_key_pair
from kaito.kube.certificates import SERVING_LIFE, KeyPair, new_authority, serving_pair
from kaito.kube.clock import Clock, RealClock
from kaito.kube.manifest import Manifest

BODY_LIMIT = 8 * 1024 * 1024
"""An API server's objects are at most 1.5 MiB in storage; a review holds two, in JSON."""
RENEWAL_CHECK_S = 3600.0

_log = logging.getLogger(__name__)


class WebhookServer:
    """An async context manager that serves validators and converters by path, and `/healthz`.

    `names` are the host names and addresses under which the API server calls; the first names the certificate.
    `authority` lets several replicas, or the next start, share one caBundle; None makes a new one. Serving certificates
    live for `life` and are renewed when a third of that is left.
    """

    def __init__(
        self,
        validators: Mapping[str, Validator],
        *,
        names: Sequence[str],
        converters: Mapping[str, Converter] | None = None,
        host: str = "0.0.0.0",
        port: int = 8443,
        authority: KeyPair | None = None,
        life: timedelta = SERVING_LIFE,
        clock: Clock | None = None,
    ) -> None:
        self._host, self._wanted_port = host, port
        self._names = tuple(names)
        self._clock = clock or RealClock()
        self.authority = authority or new_authority(f"{self._names[0]} webhook CA", self._clock.now())
        self._life = life
        self._serving = serving_pair(self.authority, self._names, self._clock.now(), life=life)
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        load_key_pair(self._context, self._serving.cert_pem, self._serving.key_pem)
        self._runner = web.AppRunner(_application(validators, converters or {}), access_log=None)
        self._stack = AsyncExitStack()
        self.port = 0
        """The port that it listens on, once entered."""

    @property
    def until(self) -> datetime:
        """When the certificate that is served now ends."""
        return self._serving.until

    def sign_by(self, authority: KeyPair) -> None:
        """Serve a certificate of another authority from now on."""
        if authority != self.authority:
            self.authority = authority
            self._renew()

    def ca_bundle(self) -> str:
        """The `caBundle` by which an API server knows this server."""
        return base64.b64encode(self.authority.cert_pem.encode()).decode()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._runner.cleanup)
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._wanted_port, ssl_context=self._context).start()
            self.port = int(self._runner.addresses[0][1])
            renewal = asyncio.create_task(self._keep_renewed())
            stack.callback(renewal.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _keep_renewed(self) -> None:
        while True:
            await self._clock.sleep(min(RENEWAL_CHECK_S, self._life.total_seconds() / 12))
            if self._serving.is_due(self._clock.now()):
                self._renew()

    def _renew(self) -> None:
        # The context is the one that listens: new handshakes use the new certificate.
        self._serving = serving_pair(self.authority, self._names, self._clock.now(), life=self._life)
        load_key_pair(self._context, self._serving.cert_pem, self._serving.key_pem)
        _log.info("webhook certificate renewed until %s", self._serving.until)


def _application(validators: Mapping[str, Validator], converters: Mapping[str, Converter]) -> web.Application:
    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_report_errors])
    app.router.add_get("/healthz", _healthy)
    for path, validator in validators.items():
        app.router.add_post(path, _admission_handler(validator))
    for path, converter in converters.items():
        app.router.add_post(path, _conversion_handler(converter))
    return app


def _admission_handler(validator: Validator) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        review = parse_admission(await request.read())
        return _json(admission_answer(review, validator(review)))

    return handle


def _conversion_handler(converter: Converter) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        return _json(convert(await request.read(), converter))

    return handle


async def _healthy(request: web.Request) -> web.Response:
    return web.Response(text="ok")


@web.middleware
async def _report_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadReview as error:
        return web.Response(status=400, text=f"{error}\n")
    except web.HTTPException:
        raise
    except Exception:  # noqa: BLE001 (the HTTP error middleware; logged with the path)
        _log.exception("webhook %s: a defect", request.path)
        return web.Response(status=500, text="the webhook failed; its log says why\n")


def _json(content: Manifest) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")
