# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Our webhooks at work: served, registered with the API server, and kept so while certificates come and go.

Two of them share a port: admission, and the conversion between a Workspace's versions. What they say is pure
(`operator.admission`, `kaito.api.versions`); here they are put on the wire. Every replica serves; all of them look
after the registration, and write only what is not so yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from kaito.api.meta import WORKSPACES
from kaito.api.versions import converted
from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.errors import AlreadyExists, ApiError, NotFound
from kaito.kube.manifest import Manifest
from kaito.kube.resource import CUSTOM_RESOURCE_DEFINITIONS, VALIDATING_WEBHOOKS
from kaito.kube.webhook import WebhookServer
from kaito.operator.admission import (
    CONVERSION_PATH,
    WEBHOOK_NAME,
    WORKSPACE_PATH,
    Address,
    conversion,
    policy_of,
    webhook_configuration,
    workspace_validator,
)
from kaito.operator.authority import Authority, SharedAuthority, UnusableAuthority, fresh_authority
from kaito.operator.settings import Settings

FIELD_MANAGER = "kaito-operator"
LOOK_AFTER_S = 300.0
"""How often the registration and the shared authority are looked at."""
CRD_NAME = f"{WORKSPACES.plural}.{WORKSPACES.group}"

_log = logging.getLogger(__name__)


class CannotListen(Exception):
    """The port cannot be had; the text says which and why."""


class Webhooks:
    """The server and its registration. `serving()` is the way to have one."""

    def __init__(self, client: Client, settings: Settings, clock: Clock, authority: Authority) -> None:
        self._client = client
        self._settings = settings
        self._clock = clock
        self._authority = authority
        self._shared = None if settings.webhook_url_host else SharedAuthority(client, settings.namespace, clock)
        self._converts = settings.provisioner != "local"
        self.server = WebhookServer(
            {WORKSPACE_PATH: workspace_validator(policy_of(settings.provisioner, private_urls=settings.private_urls))},
            converters={CONVERSION_PATH: converted},
            names=self._address().names(),
            host=settings.webhook_url_host or "0.0.0.0",
            port=settings.webhook_port or 0,
            authority=authority.signer,
            life=timedelta(days=settings.webhook_certificate_days),
            clock=clock,
        )

    def problem(self) -> str:
        """Why an API server could not call us; empty when it can."""
        return "" if self._clock.now() < self.server.until else f"the certificate ended at {self.server.until}"

    def _address(self) -> Address:
        host = self._settings.webhook_url_host
        if host:
            return Address(host=host, port=self.server.port if hasattr(self, "server") else 0)
        return Address(service=self._settings.webhook_service, namespace=self._settings.namespace)

    async def look_after(self) -> None:
        """Take over a new authority, and register what is not registered as it should be. Raises ApiError."""
        if self._shared is not None:
            self._authority = await self._shared.current()
            self.server.sign_by(self._authority.signer)
        await self._register_admission()
        await self._register_conversion()

    async def _register_admission(self) -> None:
        # On one machine the engine may be up while we are not; there a request is judged by the plan alone.
        must_answer = self._settings.provisioner != "local"
        wanted = webhook_configuration(self._address(), self._authority.ca_bundle, must_answer=must_answer)
        try:
            found = await self._client.get(VALIDATING_WEBHOOKS, WEBHOOK_NAME)
        except NotFound:
            with contextlib.suppress(AlreadyExists):
                found = await self._client.create(VALIDATING_WEBHOOKS, wanted, field_manager=FIELD_MANAGER)
                _log.info("admission webhook registered: %s", WEBHOOK_NAME)
            return
        if not _has(found.get("webhooks"), wanted["webhooks"]):
            # As a whole: what somebody else has put there, a Service where we have a URL, must not be left in it.
            body = {"webhooks": wanted["webhooks"]}
            await self._client.patch(VALIDATING_WEBHOOKS, WEBHOOK_NAME, "", body, field_manager=FIELD_MANAGER)
            _log.info("admission webhook registered: %s", WEBHOOK_NAME)

    async def _register_conversion(self) -> None:
        """On one machine the versions have the same fields, and converting by name alone waits for nobody."""
        found = (await self._client.get(CUSTOM_RESOURCE_DEFINITIONS, CRD_NAME))["spec"].get("conversion") or {}
        wanted: Manifest = {"strategy": "None", "webhook": None}
        if self._converts:
            wanted = conversion(self._address(), self._authority.ca_bundle)
        elif found.get("strategy", "None") == "None":
            return
        if not _has(found, wanted):
            body = {"spec": {"conversion": wanted}}
            await self._client.patch(CUSTOM_RESOURCE_DEFINITIONS, CRD_NAME, "", body, field_manager=FIELD_MANAGER)
            _log.info("conversion of Workspaces registered: %s", wanted["strategy"])

    async def keep(self) -> None:
        """Look after all of it for ever."""
        while True:
            await self._clock.sleep(LOOK_AFTER_S)
            try:
                await self.look_after()
            except (ApiError, UnusableAuthority) as error:
                _log.warning("the webhooks' registration cannot be looked after: %s", error)


@asynccontextmanager
async def serving(client: Client, settings: Settings, clock: Clock) -> AsyncIterator[Webhooks]:
    """The webhooks, listening and registered.

    Raises CannotListen, UnusableAuthority, or the ApiError of a server that does not let us register them.
    """
    if settings.webhook_url_host:
        authority = fresh_authority(f"{settings.webhook_url_host} webhook CA", clock)
    else:
        authority = await SharedAuthority(client, settings.namespace, clock).current()
    hooks = Webhooks(client, settings, clock, authority)
    try:
        await hooks.server.__aenter__()
    except OSError as error:
        raise CannotListen(
            f"--webhook-port {settings.webhook_port} cannot be listened on: {error.strerror}."
        ) from error
    try:
        await hooks.look_after()
        keeping = asyncio.create_task(hooks.keep())
        try:
            yield hooks
        finally:
            keeping.cancel()
    finally:
        await hooks.server.__aexit__(None, None, None)


def _has(found: object, wanted: object) -> bool:
    """Whether what was found says all that is wanted; what a server adds by itself does not count."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(_has(found.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_has(*pair) for pair in zip(found, wanted, strict=True))
        )
    return found == wanted
