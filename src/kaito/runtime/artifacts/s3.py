# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""S3 and what speaks its API: addresses that botocore signs, and the lists that come back.

Keys come from the Secret (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`), else from where botocore
finds them (a role of the pod or of the node); with neither, requests are anonymous, as public buckets allow.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

import botocore.session
from botocore import UNSIGNED
from botocore.config import Config

from kaito.api.buckets import Folder
from kaito.runtime.artifacts.buckets import Request, Store, Stored, from_offset

EXPIRES_S = 3600
DEFAULT_REGION = "us-east-1"
_MD5 = re.compile(r"[0-9a-f]{32}")


def store(folder: Folder, keys: Mapping[str, str]) -> Store:
    """The bucket with these keys."""
    session = botocore.session.Session()
    if keys.get("AWS_ACCESS_KEY_ID"):
        session.set_credentials(
            keys["AWS_ACCESS_KEY_ID"], keys.get("AWS_SECRET_ACCESS_KEY", ""), keys.get("AWS_SESSION_TOKEN") or None
        )
    endpoint = keys.get("AWS_ENDPOINT_URL") or None
    config = Config(
        signature_version="s3v4" if session.get_credentials() else UNSIGNED,
        # A server of one's own has no names for buckets in its DNS.
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    region = keys.get("AWS_REGION") or keys.get("AWS_DEFAULT_REGION") or session.get_config_variable("region")
    client = session.create_client("s3", region_name=region or DEFAULT_REGION, endpoint_url=endpoint, config=config)
    return S3(folder.bucket, client)


@dataclass(frozen=True, slots=True)
class S3:
    """One bucket."""

    bucket: str
    client: Any

    def list_request(self, prefix: str, token: str) -> Request:
        """`ListObjectsV2`."""
        parameters = {"Bucket": self.bucket, "Prefix": prefix, **({"ContinuationToken": token} if token else {})}
        return Request(self._signed("list_objects_v2", parameters), {})

    def page(self, body: bytes) -> tuple[list[Stored], str]:
        """The objects, and the continuation token."""
        try:
            root = ET.fromstring(body)
        except ET.ParseError:
            raise ValueError("the store's list is no XML") from None
        space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
        # botocore asks for encoded keys: they may hold what no XML can.
        decoded = unquote_plus if root.findtext(f"{space}EncodingType") == "url" else str
        objects = [_stored(entry, space, decoded) for entry in root.iter(f"{space}Contents")]
        return objects, root.findtext(f"{space}NextContinuationToken") or ""

    def object_request(self, stored: Stored, offset: int) -> Request:
        """`GetObject`."""
        url = self._signed("get_object", {"Bucket": self.bucket, "Key": stored.key})
        return Request(url, {**({"If-Match": stored.version} if stored.version else {}), **from_offset(offset)})

    def digest(self, stored: Stored, headers: Mapping[str, str]) -> str | None:
        """The ETag of an object that was sent in one piece is its MD5; where it is encrypted with a key of the user's,
        the ETag looks alike and is none
        (https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html)."""
        plain = stored.version.strip('"')
        of_the_store = headers.get("x-amz-server-side-encryption", "AES256") == "AES256"
        by_the_user = "x-amz-server-side-encryption-customer-algorithm" in headers
        return f"md5:{plain}" if _MD5.fullmatch(plain) and of_the_store and not by_the_user else None

    def _signed(self, operation: str, parameters: Mapping[str, str]) -> str:
        url: str = self.client.generate_presigned_url(operation, Params=dict(parameters), ExpiresIn=EXPIRES_S)
        return url


def _stored(entry: ET.Element, space: str, decoded: Callable[[str], str]) -> Stored:
    size, etag = entry.findtext(f"{space}Size") or "", entry.findtext(f"{space}ETag") or ""
    if not size.isdigit():
        raise ValueError("the store's list has an object without a size")
    return Stored(decoded(entry.findtext(f"{space}Key") or ""), int(size), etag)
