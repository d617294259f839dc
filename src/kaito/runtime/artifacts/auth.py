# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Logging in to a registry: what its challenge asks for, and the header that answers it.

Basic, and the token flow of https://distribution.github.io/distribution/spec/auth/token/ with a password or a refresh
token. Knows nothing of images; `registry.py` decides when to ask.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from kaito.runtime.artifacts.credentials import Login
from kaito.runtime.artifacts.media import document
from kaito.runtime.artifacts.transport import Transport, Unreachable, is_loopback

TOKEN_LIMIT = 1 << 20
CLIENT_ID = "kaito"
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry asks for with status 401."""

    scheme: str
    """`basic` or `bearer`."""
    realm: str = ""
    service: str = ""
    scope: str = ""


def challenge(header: str | None) -> Challenge | None:
    """The challenge of a WWW-Authenticate header; None when it is of a scheme that we do not know."""
    scheme, _, rest = (header or "").strip().partition(" ")
    if scheme.lower() not in ("basic", "bearer"):
        return None
    values = dict(_PARAMETER.findall(rest))
    return Challenge(scheme.lower(), values.get("realm", ""), values.get("service", ""), values.get("scope", ""))


def authorization(transport: Transport, asked: Challenge, login: Login | None, scope: str) -> str | None:
    """The Authorization header that answers the challenge; None when the login cannot, or is refused.

    Raises Unreachable when the token server does not answer.
    """
    if asked.scheme == "basic":
        return login.basic() if login else None
    if login is not None and login.registry_token:
        return f"Bearer {login.registry_token}"
    realm = urlsplit(asked.realm)
    if realm.scheme != "https" and not is_loopback(realm.hostname or ""):
        raise Unreachable(f"its token server {realm.hostname or '(none)'} is not on https")
    fields = {"service": asked.service, "scope": scope or asked.scope}
    if login is not None and login.identity_token:
        return _bearer(transport, "POST", asked.realm, {**fields, "grant_type": "refresh_token"}, login=login)
    return _bearer(transport, "GET", asked.realm, fields, login=login)


def _bearer(
    transport: Transport, method: str, realm: str, fields: Mapping[str, str], *, login: Login | None
) -> str | None:
    given = {key: value for key, value in fields.items() if value}
    if method == "POST" and login is not None:
        form = urlencode({**given, "client_id": CLIENT_ID, "refresh_token": login.identity_token}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        response = transport.send("POST", realm, headers=headers, body=form)
    else:
        basic = login.basic() if login else None
        url = realm + ("&" if "?" in realm else "?") + urlencode(given)
        response = transport.request("GET", url, headers={"Authorization": basic} if basic else {})
    status = response.status
    body = transport.read(response, TOKEN_LIMIT)
    if status >= 500 or status == 429:
        raise Unreachable(f"its token server answers with status {status}")
    if status >= 400:
        return None
    answer = document(body)
    token = answer.get("token") or answer.get("access_token")
    return f"Bearer {token}" if isinstance(token, str) and token else None
