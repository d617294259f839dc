# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Azure Blob Storage over its REST API (https://learn.microsoft.com/rest/api/storageservices).

The Secret's key `AZURE_STORAGE_KEY` holds the account's key, or `AZURE_STORAGE_SAS_TOKEN` a token; without them,
azure-identity looks for an identity of the pod or of the node; with none, requests are anonymous, as public containers
allow.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CredentialUnavailableError, ManagedIdentityCredential, WorkloadIdentityCredential

from kaito.api.buckets import Folder
from kaito.api.names import REASON_INVALID_SPEC
from kaito.runtime.artifacts.buckets import Request, Store, Stored, from_offset
from kaito.runtime.failure import Failed

VERSION = "2023-11-03"
SCOPE = "https://storage.azure.com/.default"
KEY, SAS, ENDPOINT = "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SERVICE_ENDPOINT"


def store(folder: Folder, keys: Mapping[str, str]) -> Store:
    """The container with these keys. Raises Failed for a key that cannot be read."""
    endpoint = keys.get(ENDPOINT) or f"https://{folder.account}.blob.core.windows.net"
    try:
        key = base64.b64decode(keys.get(KEY, ""), validate=True)
    except binascii.Error:
        what = f"The Secret's key {KEY} holds no account key."
        raise Failed(REASON_INVALID_SPEC, what, "Put there what the portal shows under Access keys.") from None
    sas = keys.get(SAS, "").lstrip("?")
    has_keys = key or sas or ENDPOINT in keys
    return AzureBlobs(folder.account, folder.bucket, endpoint.rstrip("/"), key, sas, None if has_keys else _identity())


def _identity() -> Any:
    """The pod's or the node's identity; None where there is none."""
    for kind in (WorkloadIdentityCredential, ManagedIdentityCredential):
        try:
            found = kind()
            found.get_token(SCOPE)
        except (CredentialUnavailableError, ClientAuthenticationError, ValueError):
            continue
        return found
    return None


@dataclass(frozen=True, slots=True)
class AzureBlobs:
    """One container."""

    account: str
    container: str
    endpoint: str
    key: bytes
    sas: str
    identity: Any

    def list_request(self, prefix: str, token: str) -> Request:
        """`List Blobs`."""
        query = {"restype": "container", "comp": "list", "prefix": prefix, **({"marker": token} if token else {})}
        return self._request("", query, {})

    def page(self, body: bytes) -> tuple[list[Stored], str]:
        """The blobs, and the marker of the next page."""
        try:
            root = ET.fromstring(body)
            return [_stored(blob) for blob in root.iter("Blob")], root.findtext("NextMarker") or ""
        except (ET.ParseError, binascii.Error, TypeError):
            raise ValueError("the store's list cannot be understood") from None

    def object_request(self, stored: Stored, offset: int) -> Request:
        """`Get Blob`, while it is this one."""
        conditions = {"If-Match": stored.version} if stored.version else {}
        return self._request(f"/{quote(stored.key)}", {}, {**conditions, **from_offset(offset)})

    def digest(self, stored: Stored, headers: Mapping[str, str]) -> str | None:
        """The list tells it, where whoever sent the blob gave one."""
        return stored.digest

    def _request(self, path: str, query: Mapping[str, str], conditions: Mapping[str, str]) -> Request:
        url = f"{self.endpoint}/{self.container}{path}"
        signed = dict(parse_qsl(self.sas)) if self.sas and not self.key else {}
        asked = urlencode({**query, **signed}, quote_via=quote)
        headers = {"x-ms-version": VERSION, "x-ms-date": format_datetime(datetime.now(UTC), usegmt=True), **conditions}
        if self.key:
            headers["Authorization"] = shared_key(self.account, self.key, url, query, headers)
        elif self.identity is not None:
            headers["Authorization"] = f"Bearer {self.identity.get_token(SCOPE).token}"
        return Request(f"{url}?{asked}" if asked else url, headers)


def shared_key(account: str, key: bytes, url: str, query: Mapping[str, str], headers: Mapping[str, str]) -> str:
    """The Authorization header of a GET
    (https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key)."""
    ours = sorted((name.lower(), value) for name, value in headers.items() if name.lower().startswith("x-ms-"))
    resource = f"/{account}{urlsplit(url).path}" + "".join(f"\n{name}:{query[name]}" for name in sorted(query))
    # Of the eleven standard headers these two are ever sent: the eighth and the last.
    standard = [""] * 7 + [headers.get("If-Match", ""), "", "", headers.get("Range", "")]
    text = "\n".join(["GET", *standard, *(f"{name}:{value}" for name, value in ours), resource])
    found = hmac.digest(key, text.encode(), hashlib.sha256)
    return f"SharedKey {account}:{base64.b64encode(found).decode()}"


def _stored(blob: ET.Element) -> Stored:
    properties = blob.find("Properties")
    if properties is None:
        raise TypeError("a blob without properties")
    md5 = properties.findtext("Content-MD5")
    size = int(properties.findtext("Content-Length") or "")
    digest = f"md5:{base64.b64decode(md5, validate=True).hex()}" if md5 else None
    return Stored(blob.findtext("Name") or "", size, properties.findtext("Etag") or "", digest)
