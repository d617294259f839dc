# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Files behind http and https addresses, each under the last segment of its address, hashed while it is written.

No address is shown with its query or its login: both may hold secrets.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kaito.api.contracts import UrlSource
from kaito.api.names import (
    REASON_ARTIFACT_INVALID,
    REASON_ARTIFACT_NOT_FOUND,
    REASON_ARTIFACT_UNAUTHORIZED,
    REASON_INVALID_SPEC,
)
from kaito.runtime.artifacts.pull import write_file
from kaito.runtime.artifacts.streams import Stream, Watch
from kaito.runtime.artifacts.transport import Response, Transport, unavailable
from kaito.runtime.failure import Failed


def download(source: UrlSource, transport: Transport, folder: Path, watch: Watch) -> None:
    """Bring every file into the folder; raises Failed."""
    files = {url: file_name(url) for url in source.urls}
    twice = {name for name in files.values() if list(files.values()).count(name) > 1}
    if twice:
        what = f"Two of the addresses end in {min(twice)}: they would be one file."
        raise Failed(REASON_INVALID_SPEC, what, "Give files that have names of their own.")
    folder.mkdir(parents=True, exist_ok=True)
    for url, name in files.items():
        digest = source.sha256.get(url)
        opened = partial(_opened, transport, url)
        with Stream(
            transport,
            opened,
            name=shown(url),
            digest=f"sha256:{digest.lower()}" if digest else None,
            size=None,
            watch=watch,
        ) as stream:
            write_file(stream, folder, name)
        if (folder / name).stat().st_size == 0:
            raise Failed(REASON_ARTIFACT_INVALID, f"{shown(url)} is empty.", "Give an address that has the file.")


def file_name(url: str) -> str:
    """The last segment of the address; raises Failed (InvalidSpec) when it cannot name a file."""
    parts = urlsplit(url)
    name = unquote(parts.path.rstrip("/").rpartition("/")[2])
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Failed(REASON_INVALID_SPEC, f"{shown(url)} is no http or https address.", "Write https://host/file.")
    if not name or name in (".", "..") or "/" in name or "\0" in name or name.startswith(".kaito-"):
        raise Failed(REASON_INVALID_SPEC, f"{shown(url)} does not end in a file's name.", "Write https://host/file.")
    return name


def shown(url: str) -> str:
    """The address without login and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"[:300]


def _opened(transport: Transport, url: str, offset: int) -> Response:
    response = transport.request("GET", url, headers={"Range": f"bytes={offset}-"} if offset else {})
    if response.status < 400:
        return response
    transport.done(response)
    if response.status in (404, 410):
        raise Failed(REASON_ARTIFACT_NOT_FOUND, f"There is no {shown(url)}.", "Correct the address.")
    if response.status in (401, 403):
        what = f"{shown(url)} may not be read: status {response.status}."
        raise Failed(REASON_ARTIFACT_UNAUTHORIZED, what, "Give an address that anyone may read, or a signed one.")
    raise unavailable(f"{shown(url)} cannot be downloaded", f"the server answers with status {response.status}")
