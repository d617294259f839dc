# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Google Cloud Storage over its JSON API (https://cloud.google.com/storage/docs/json_api).

The Secret's key `GOOGLE_APPLICATION_CREDENTIALS` holds a service account's JSON file; without it, google-auth looks for
an identity of the pod or of the node; with neither, requests are anonymous, as public buckets allow.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import google.auth
import urllib3
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from google.auth.transport.urllib3 import Request as AuthRequest
from google.oauth2 import service_account

from kaito.api.buckets import Folder
from kaito.api.names import REASON_ARTIFACT_UNAUTHORIZED, REASON_INVALID_SPEC
from kaito.runtime.artifacts.buckets import Request, Store, Stored, from_offset
from kaito.runtime.artifacts.transport import proxy_of
from kaito.runtime.failure import Failed

ENDPOINT = "https://storage.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
FIELDS = "items(name,size,generation,md5Hash),nextPageToken"
KEY = "GOOGLE_APPLICATION_CREDENTIALS"


def store(folder: Folder, keys: Mapping[str, str]) -> Store:
    """The bucket with these keys. Raises Failed for a key that cannot be read."""
    endpoint = keys.get("STORAGE_EMULATOR_HOST", ENDPOINT).rstrip("/")
    return GoogleStorage(folder.bucket, endpoint, _credentials(keys))


def _credentials(keys: Mapping[str, str]) -> Any:
    if KEY in keys:
        try:
            return service_account.Credentials.from_service_account_info(json.loads(keys[KEY]), scopes=[SCOPE])  # type: ignore[no-untyped-call]
        except (ValueError, TypeError, AttributeError, GoogleAuthError):
            what = f"The Secret's key {KEY} holds no service account's JSON file."
            raise Failed(REASON_INVALID_SPEC, what, "Put the file that Google Cloud made for the key there.") from None
    if "STORAGE_EMULATOR_HOST" in keys:
        return None
    try:
        return google.auth.default(scopes=[SCOPE])[0]
    except DefaultCredentialsError:
        return None


@dataclass(frozen=True, slots=True)
class GoogleStorage:
    """One bucket."""

    bucket: str
    endpoint: str
    credentials: Any
    """None: anonymous."""

    def list_request(self, prefix: str, token: str) -> Request:
        """`objects.list`."""
        query = {"prefix": prefix, "fields": FIELDS, **({"pageToken": token} if token else {})}
        return Request(f"{self.endpoint}/storage/v1/b/{quote(self.bucket)}/o?{urlencode(query)}", self._headers())

    def page(self, body: bytes) -> tuple[list[Stored], str]:
        """The objects, and the next page's token."""
        try:
            page = json.loads(body)
            return [_stored(item) for item in page.get("items") or []], str(page.get("nextPageToken") or "")
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError("the store's list cannot be understood") from None

    def object_request(self, stored: Stored, offset: int) -> Request:
        """`objects.get` of this generation."""
        query = urlencode({"alt": "media", "generation": stored.version})
        path = f"/storage/v1/b/{quote(self.bucket)}/o/{quote(stored.key, safe='')}"
        return Request(f"{self.endpoint}{path}?{query}", {**self._headers(), **from_offset(offset)})

    def digest(self, stored: Stored, headers: Mapping[str, str]) -> str | None:
        """The list tells it, but of composite objects."""
        return stored.digest

    def _headers(self) -> dict[str, str]:
        if self.credentials is None:
            return {}
        try:
            if not self.credentials.valid:
                proxy = proxy_of(self.endpoint)
                pool = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
                self.credentials.refresh(AuthRequest(pool))  # type: ignore[no-untyped-call]
        except GoogleAuthError:
            what = f"Google gives no token for gs://{self.bucket} with these credentials."
            step = f"Check the service account in the Secret's key {KEY}, and that it is not disabled."
            raise Failed(REASON_ARTIFACT_UNAUTHORIZED, what, step) from None
        return {"Authorization": f"Bearer {self.credentials.token}"}


def _stored(item: Mapping[str, Any]) -> Stored:
    md5 = item.get("md5Hash")
    return Stored(
        str(item["name"]), int(item["size"]), str(item.get("generation") or ""), f"md5:{hexed(md5)}" if md5 else None
    )


def hexed(text: str) -> str:
    """A base64 digest as hex. Raises ValueError."""
    try:
        return base64.b64decode(text, validate=True).hex()
    except binascii.Error:
        raise ValueError("a digest is no base64") from None
