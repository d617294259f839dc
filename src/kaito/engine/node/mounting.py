# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The volumes of one pod over its life: laid out before its first container, kept true while it runs.

Files from ConfigMaps, Secrets and the pod's own fields follow what they come from; service account tokens are replaced
before they expire. What a volume holds is decided in `volumes`.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from kaito.engine.node import volumes
from kaito.engine.node.environment import Placement, Sources
from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.errors import ApiError
from kaito.kube.manifest import Manifest, parse_time
from kaito.kube.resource import SERVICE_ACCOUNTS

DEFAULT_TOKEN_S = 3600
TOKEN_SHARE = 0.8
"""The kubelet replaces a token when this much of its life has passed."""
OLDEST_TOKEN = timedelta(hours=24)
RETRY = timedelta(seconds=10)
"""How long to wait after a token could not be had."""
VOLUME_RETRY_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Token:
    """A service account token, and when to ask for the next one."""

    text: bytes
    renew_at: datetime


def renewal(issued: datetime, expires: datetime) -> datetime:
    """When a token of this life should be replaced."""
    life = expires - issued
    due: datetime = issued + min(life * TOKEN_SHARE, OLDEST_TOKEN)
    return due


class PodVolumes:
    """The volumes of one pod."""

    def __init__(self, folder: Path, client: Client, clock: Clock, sources: Sources, placement: Placement) -> None:
        self._folder = folder
        self._client = client
        self._clock = clock
        self._sources = sources
        self._placement = placement
        self._tokens: dict[str, Token] = {}
        self._tries = 0
        self.places: dict[str, Path] | None = None
        """Where each volume is; None until all of them could be set up once."""

    async def prepare(self, pod: Manifest) -> tuple[str, float] | None:
        """Set the volumes up; what is missing and in how many seconds to try again, or None."""
        await self.renew_tokens(pod)
        problem = self.lay_out(pod)
        if problem is None:
            return None
        delay_s = VOLUME_RETRY_S[min(self._tries, len(VOLUME_RETRY_S) - 1)]
        self._tries += 1
        # what a pod refers to may be created right after it: the first miss is not worth an event
        return (problem if self._tries > 1 else "", delay_s)

    def lay_out(self, pod: Manifest) -> str | None:
        """Bring the volumes up to date; returns what is missing. What was there before then stays."""
        ready = {}
        try:
            for volume in pod["spec"].get("volumes") or []:
                ready[volume["name"]] = volumes.lay_out(
                    pod, volume, self._folder, self._sources, self._placement, self._token
                )
        except volumes.VolumeError as error:
            return str(error)
        self.places = ready
        return None

    async def renew_tokens(self, pod: Manifest) -> bool:
        """Ask for the service account tokens that are missing or old; whether there are new ones."""
        now, renewed = self._clock.now(), False
        for source in volumes.token_sources(pod):
            held = self._tokens.get(_name(source))
            if held is not None and now < held.renew_at:
                continue
            fresh = await self._ask_for(pod, source, now)
            if fresh is not None:
                self._tokens[_name(source)], renewed = fresh, True
            elif held is not None:
                self._tokens[_name(source)] = Token(held.text, now + RETRY)
        return renewed

    def next_renewal_s(self) -> float | None:
        """Seconds until a token has to be replaced; None when the pod has none."""
        if not self._tokens:
            return None
        soonest = min(token.renew_at for token in self._tokens.values())
        return max(0.0, (soonest - self._clock.now()).total_seconds())

    async def _ask_for(self, pod: Manifest, source: Manifest, now: datetime) -> Token | None:
        meta = pod["metadata"]
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "expirationSeconds": source.get("expirationSeconds") or DEFAULT_TOKEN_S,
                "audiences": [source["audience"]] if source.get("audience") else [],
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]},
            },
        }
        account = pod["spec"].get("serviceAccountName") or "default"
        try:
            answer = await self._client.create(
                SERVICE_ACCOUNTS, request, namespace=meta.get("namespace", ""), name=account, subresource="token"
            )
        except ApiError as error:
            _log.info("pod %s: no token for service account %s: %s", meta["name"], account, error)
            return None
        status = answer["status"]
        return Token(status["token"].encode(), renewal(now, parse_time(status["expirationTimestamp"])))

    def _token(self, source: Manifest) -> bytes:
        held = self._tokens.get(_name(source))
        if held is None:
            raise volumes.VolumeError("the token of the pod's service account could not be had yet")
        return held.text


def _name(source: Manifest) -> str:
    return json.dumps(source, sort_keys=True)
