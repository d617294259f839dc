# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Who is asking: bearer tokens of the administrator and of ServiceAccounts, and impersonation.

ServiceAccount tokens are JSON web tokens signed (HMAC-SHA256) with a key of this engine. Whether a user may do a thing
is `kaito.engine.access.rbac`'s business.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from kaito.engine.wire.requests import Request, User
from kaito.kube.manifest import Manifest

ADMIN = User("kaito-admin", ("system:masters", "system:authenticated"))
SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"
ISSUER = "https://kubernetes.default.svc"
AUDIENCE = "https://kubernetes.default.svc"


EXTRA = "authentication.kubernetes.io/"
CREDENTIAL = f"{EXTRA}credential-id"
BOUND_TO = {"pod": "pods", "node": "nodes", "secret": "secrets"}
"""What a token can be bound to: the claim and the plural of its kind."""


class Refused(Exception):
    """The request carries no credentials that are known."""


class TokenInvalid(Exception):
    """The token is not one of ours, or its time is over."""


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What a ServiceAccount token is to say."""

    namespace: str
    name: str
    uid: str
    audiences: tuple[str, ...]
    lifetime_s: int
    bound: Manifest | None = None
    """`boundObjectRef`: the token dies with this object."""


class Authenticator:
    """Tells users from their requests."""

    def __init__(self, admin_token: str, signing_key: bytes, *, uid_of: Callable[[str, str, str], str | None]) -> None:
        """`uid_of(plural, namespace, name)` gives the uid of a core object that exists."""
        self._admin_token = admin_token.encode()
        self._key = signing_key
        self._uid_of = uid_of

    def user(self, request: Request, now: datetime) -> User | None:
        """Who sent the request; None when it carries no credentials. Raises Refused when they are wrong."""
        header = request.header("authorization")
        if not header:
            return None
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refused
        try:
            return self.token_user(token.strip(), now)
        except TokenInvalid:
            raise Refused from None

    def token_user(self, token: str, now: datetime) -> User:
        """Whose token it is. Raises TokenInvalid."""
        if hmac.compare_digest(token.encode(), self._admin_token):
            return ADMIN
        claims = self._claims(token)
        about = claims.get("kubernetes.io", {})
        account = about.get("serviceaccount", {})
        namespace, name, uid = about.get("namespace", ""), account.get("name", ""), account.get("uid", "")
        if claims.get("exp", 0) <= now.timestamp() or AUDIENCE not in claims.get("aud", ()):
            raise TokenInvalid("the token has expired, or is meant for somebody else")
        if self._uid_of("serviceaccounts", namespace, name) != uid:
            raise TokenInvalid("the token's ServiceAccount is gone")
        extra = {CREDENTIAL: (f"JTI={claims['jti']}",)} if "jti" in claims else {}
        for kind, plural in BOUND_TO.items():
            bound = about.get(kind)
            if bound is None:
                continue
            scope = "" if kind == "node" else namespace
            if self._uid_of(plural, scope, bound.get("name", "")) != bound.get("uid"):
                raise TokenInvalid(f"the {kind} that the token is bound to is gone")
            if kind != "secret":
                extra[f"{EXTRA}{kind}-name"], extra[f"{EXTRA}{kind}-uid"] = (bound["name"],), (bound["uid"],)
        return service_account(namespace, name, uid, extra=extra)

    def _claims(self, token: str) -> Manifest:
        signed, _, signature = token.rpartition(".")
        try:
            genuine = hmac.compare_digest(_decode(signature), self._sign(signed))
            claims: Manifest = msgspec.json.decode(_decode(signed.partition(".")[2]))
        except (ValueError, UnicodeEncodeError, msgspec.DecodeError):
            raise TokenInvalid("not a token of this server") from None
        if not genuine:
            raise TokenInvalid("not a token of this server")
        return claims

    def _sign(self, text: str) -> bytes:
        return hmac.new(self._key, text.encode(), hashlib.sha256).digest()

    def issue(self, request: TokenRequest, now: datetime) -> tuple[str, datetime]:
        """A new token and when it ends."""
        end = now + timedelta(seconds=request.lifetime_s)
        about: Manifest = {
            "namespace": request.namespace,
            "serviceaccount": {"name": request.name, "uid": request.uid},
        }
        if request.bound:
            kind = request.bound.get("kind", "").lower()
            about[kind] = {"name": request.bound.get("name", ""), "uid": request.bound.get("uid", "")}
        claims = {
            "aud": list(request.audiences or (AUDIENCE,)),
            "exp": int(end.timestamp()),
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "iss": ISSUER,
            "jti": secrets.token_hex(16),
            "kubernetes.io": about,
            "sub": f"{SERVICE_ACCOUNT_PREFIX}{request.namespace}:{request.name}",
        }
        header = _encode(msgspec.json.encode({"alg": "HS256", "typ": "JWT"}))
        signed = f"{header}.{_encode(msgspec.json.encode(claims))}"
        return f"{signed}.{_encode(self._sign(signed))}", end


def service_account(
    namespace: str, name: str, uid: str = "", *, extra: Mapping[str, tuple[str, ...]] | None = None
) -> User:
    """The user that a ServiceAccount is."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
    return User(f"{SERVICE_ACCOUNT_PREFIX}{namespace}:{name}", groups, uid, extra or {})


def impersonated(request: Request) -> User | None:
    """The user that the request wants to be taken for, if any."""
    name = request.header("impersonate-user")
    if not name:
        return None
    groups = request.header_values("impersonate-group")
    extra: dict[str, tuple[str, ...]] = {}
    for key, value in request.headers:
        if key.startswith("impersonate-extra-"):
            short = key.removeprefix("impersonate-extra-")
            extra[short] = (*extra.get(short, ()), value)
    if name.startswith(SERVICE_ACCOUNT_PREFIX) and not groups:
        namespace, _, account = name.removeprefix(SERVICE_ACCOUNT_PREFIX).partition(":")
        return service_account(namespace, account)
    if name != "system:anonymous" and "system:authenticated" not in groups:
        groups.append("system:authenticated")
    return User(name, tuple(groups), request.header("impersonate-uid"), extra)
