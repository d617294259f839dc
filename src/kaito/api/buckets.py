# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Addresses of folders in object stores, as users paste them: S3, Google Cloud Storage and Azure Blob Storage. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

Cloud = Literal["s3", "gs", "az"]
FORMS = "s3://bucket/folder, gs://bucket/folder or az://account/container/folder"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,221}")
_AZURE_HOST = re.compile(r"([a-z0-9]{3,24})\.(?:blob|dfs)\.core\.[a-z.]+")
_S3_HOST = re.compile(r"(?:(?P<bucket>[a-z0-9.-]+)\.)?s3[.-](?:[a-z0-9-]+\.)?amazonaws\.com(?:\.cn)?")
_GOOGLE_HOST = "storage.googleapis.com"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of an object store."""

    cloud: Cloud
    bucket: str
    """On Azure the container."""
    path: str
    """Without slashes at its ends; empty for the whole bucket."""
    account: str = ""
    """Azure's storage account."""

    def __str__(self) -> str:
        where = "/".join(filter(None, (self.account, self.bucket, self.path)))
        return f"{self.cloud}://{where}"


def parse(uri: str) -> Folder:
    """The folder that an address names. Raises ValueError, with the forms that are right."""
    parts = urlsplit(uri.strip())
    if (parts.username and parts.password) or parts.query or parts.fragment:
        raise ValueError(f"{_shown(uri)} holds more than an address: keys and tokens belong into a Secret.")
    try:
        folder = _folder(parts.scheme.lower(), parts.netloc, unquote(parts.path).strip("/"))
    except ValueError as error:
        raise ValueError(f"{_shown(uri)} {error}: write {FORMS}.") from None
    if any(part in ("", ".", "..") for part in folder.path.split("/")) and folder.path:
        raise ValueError(f"{_shown(uri)} has an empty part or dots in its path: write {FORMS}.")
    return folder


def _folder(scheme: str, host: str, path: str) -> Folder:
    match scheme:
        case "s3" | "s3a":
            return Folder("s3", _name(host), path)
        case "gs" | "gcs":
            return Folder("gs", _name(host), path)
        case "az" | "azure":
            container, _, rest = path.partition("/")
            return Folder("az", _name(container), rest, _name(host))
        case "abfs" | "abfss" | "wasb" | "wasbs":
            container, _, server = host.partition("@")
            found = _AZURE_HOST.fullmatch(server)
            if not found:
                raise ValueError("does not name an account, as container@account.dfs.core.windows.net")
            return Folder("az", _name(container), path, found[1])
        case "https":
            return _behind_https(host, path)
    raise ValueError("is no address of an object store")


def _behind_https(host: str, path: str) -> Folder:
    first, _, rest = path.partition("/")
    if found := _AZURE_HOST.fullmatch(host):
        return Folder("az", _name(first), rest, found[1])
    if host == _GOOGLE_HOST:
        return Folder("gs", _name(first), rest)
    if found := _S3_HOST.fullmatch(host):
        return Folder("s3", found["bucket"], path) if found["bucket"] else Folder("s3", _name(first), rest)
    raise ValueError("is no address of an object store that is known")


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("does not name a bucket" if not text else f"has {text[:80]} where a name should be")
    return text


def _shown(uri: str) -> str:
    """The address without what may be a secret."""
    return uri.strip().partition("?")[0].partition("#")[0].rpartition("://")[2].rpartition("@")[2][:200] or "It"
