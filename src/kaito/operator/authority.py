# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The certificate authority of the webhook, shared by all replicas in one Secret, and renewed in time.

The Secret holds the certificates to trust (`ca.crt`: the present one first, then the one before it) and the key of the
present one (`ca.key`). Whoever finds that the present one ends soon makes the next; the write is conditional, so of
several replicas one wins and the others read what it wrote. A replica that has not noticed yet serves a certificate of
the old authority, which stays trusted.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass

from kaito.kube.certificates import KeyPair, new_authority
from kaito.kube.client import Client
from kaito.kube.clock import Clock
from kaito.kube.errors import AlreadyExists, Conflict, NotFound
from kaito.kube.manifest import Key, Manifest
from kaito.kube.resource import SECRETS

SECRET = "kaito-webhook-ca"
CERTIFICATES, PRIVATE_KEY = "ca.crt", "ca.key"
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


class UnusableAuthority(Exception):
    """The Secret holds no authority; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs now, and whom an API server is to trust."""

    signer: KeyPair
    trusted: str
    """Certificates as PEM, one after the other."""

    @property
    def ca_bundle(self) -> str:
        """The `caBundle` of a webhook configuration."""
        return b64encode(self.trusted.encode()).decode()


def fresh_authority(name: str, clock: Clock, before: Authority | None = None) -> Authority:
    """A new authority; the one before it is still trusted."""
    signer = new_authority(name, clock.now())
    return Authority(signer, signer.cert_pem + (before.signer.cert_pem if before else ""))


class SharedAuthority:
    """The authority in its Secret."""

    def __init__(self, client: Client, namespace: str, clock: Clock) -> None:
        self._client = client
        self._key = Key(namespace, SECRET)
        self._clock = clock

    async def current(self) -> Authority:
        """What the Secret holds; made or renewed where there is none or it ends soon. Raises UnusableAuthority."""
        while True:
            try:
                secret = await self._client.get(SECRETS, self._key.name, self._key.namespace)
            except NotFound:
                made = fresh_authority(self._name, self._clock)
                try:
                    await self._client.create(SECRETS, self._secret(made))
                except AlreadyExists:
                    continue  # Another replica was faster.
                return made
            if PRIVATE_KEY in (secret.get("data") or {}):
                found = self._read(secret)
                if not found.signer.is_due(self._clock.now()):
                    return found
                made = fresh_authority(self._name, self._clock, found)
            else:
                made = fresh_authority(self._name, self._clock)  # A chart makes the Secret empty.
            try:
                await self._client.replace(SECRETS, {**secret, "data": self._secret(made)["data"]})
            except Conflict:
                continue
            return made

    @property
    def _name(self) -> str:
        return f"kaito webhook CA of {self._key.namespace}"

    def _secret(self, authority: Authority) -> Manifest:
        texts = {CERTIFICATES: authority.trusted, PRIVATE_KEY: authority.signer.key_pem}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._key.name, "namespace": self._key.namespace},
            "type": "Opaque",
            "data": {key: b64encode(text.encode()).decode() for key, text in texts.items()},
        }

    def _read(self, secret: Manifest) -> Authority:
        try:
            trusted, key = (b64decode(secret["data"][name]).decode() for name in (CERTIFICATES, PRIVATE_KEY))
            found = Authority(KeyPair(_PEM.findall(trusted)[0], key), trusted)
            found.signer.check()
        except (LookupError, ValueError, TypeError) as error:
            message = f"Secret {self._key} holds no certificate authority: delete it, and a new one is made."
            raise UnusableAuthority(message) from error
        return found
