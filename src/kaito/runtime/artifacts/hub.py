# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Data sets from a Hugging Face hub, or from a mirror that speaks its HTTP API: always of one commit, files verified.

What a repository holds stands at `/api/datasets/ID/revision/REVISION?blobs=true`, its files at
`/datasets/ID/resolve/COMMIT/FILE` (https://huggingface.co/docs/hub/api). Which of them are wanted says `splits.py`. The
token goes to the hub alone: urllib3 takes it out where a redirect leads to another host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kaito.api.contracts import HubSource
from kaito.api.names import REASON_ARTIFACT_INVALID, REASON_ARTIFACT_NOT_FOUND, REASON_ARTIFACT_UNAUTHORIZED
from kaito.runtime.artifacts.media import document
from kaito.runtime.artifacts.pull import AT_ONCE, write_file
from kaito.runtime.artifacts.splits import chosen
from kaito.runtime.artifacts.staging import Staging, require_space
from kaito.runtime.artifacts.streams import Stream, Watch
from kaito.runtime.artifacts.transport import Response, Transport, Unreachable, unavailable
from kaito.runtime.artifacts.unpack import Unsafe, safe_path
from kaito.runtime.failure import Failed
from kaito.runtime.settings import Settings

DEFAULT_REVISION = "main"
LISTING_LIMIT = 64 << 20
CARD_LIMIT = 16 << 20
CARD = "README.md"
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
TOKEN_STEP = "name a Secret with an HF_TOKEN that may read it in tuning.preset.presetOptions.modelAccessSecret"


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a repository."""

    path: str
    size: int | None
    digest: str | None
    """Where the hub keeps it as a large file."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A data set at one commit."""

    commit: str
    files: Mapping[str, Listed]


@dataclass(frozen=True, slots=True)
class Hub:
    """A data set's hub, and how to talk to it."""

    source: HubSource
    transport: Transport
    settings: Settings

    def repository(self) -> Repository:
        """What the data set holds at the wanted revision; raises Failed."""
        revision = quote(self.source.revision or DEFAULT_REVISION, safe="")
        id_ = quote(self.source.repository)
        url = f"{self.settings.hub_endpoint}/api/datasets/{id_}/revision/{revision}?blobs=true"
        answer = self._document(self._asked(url, 0))
        commit = str(answer.get("sha") or "")
        siblings = answer.get("siblings")
        if not _COMMIT.fullmatch(commit) or not isinstance(siblings, list):
            what = f"The hub {self.settings.hub_endpoint} does not say which commit of {self.source.repository} it has."
            raise Failed(REASON_ARTIFACT_INVALID, what, "Is HF_ENDPOINT the address of a hub?")
        return Repository(commit, _listed(siblings))

    def text(self, commit: str, path: str) -> str:
        """A small file's text; raises Failed."""
        response = self._asked(self._url(commit, path), 0)
        try:
            return self.transport.read(response, CARD_LIMIT).decode("utf-8", "replace")
        except (Unreachable, ValueError) as error:
            raise self._unavailable(error) from None

    def bring(self, commit: str, file: Listed, folder: Path, watch: Watch) -> None:
        """Write a file into the folder, whole or not at all; raises Failed."""
        scratch = f".kaito-{file.path.replace('/', '-')}.part"
        opened = partial(self._asked, self._url(commit, file.path))
        name = f"{file.path} of the data set {self.source.repository}"
        with Stream(self.transport, opened, name=name, digest=file.digest, size=file.size, watch=watch) as stream:
            write_file(stream, folder, scratch)
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / scratch).rename(target)

    def _url(self, commit: str, path: str) -> str:
        return f"{self.settings.hub_endpoint}/datasets/{quote(self.source.repository)}/resolve/{commit}/{quote(path)}"

    def _asked(self, url: str, offset: int) -> Response:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if self.settings.hub_token:
            headers["Authorization"] = f"Bearer {self.settings.hub_token}"
        try:
            response = self.transport.request("GET", url, headers=headers)
        except Unreachable as error:
            raise self._unavailable(error) from None
        if response.status < 400:
            return response
        code = response.headers.get("X-Error-Code") or ""
        self.transport.done(response)
        raise self._refused(response.status, code)

    def _document(self, response: Response) -> Mapping[str, Any]:
        try:
            return document(self.transport.read(response, LISTING_LIMIT))
        except (Unreachable, ValueError) as error:
            raise self._unavailable(error) from None

    def _refused(self, status: int, code: str) -> Failed:
        id_, hub = self.source.repository, self.settings.hub_endpoint
        if code == "RevisionNotFound":
            what = f"The data set {id_} has no revision {self.source.revision or DEFAULT_REVISION}."
            return Failed(REASON_ARTIFACT_NOT_FOUND, what, "Correct what stands behind the @ in its address.")
        if code == "GatedRepo" or (status == 403 and code != "RepoNotFound"):
            with_token = "Accept its terms on the hub with the token's account."
            step = with_token if self.settings.hub_token else f"Accept its terms on the hub, and {TOKEN_STEP}."
            return Failed(REASON_ARTIFACT_UNAUTHORIZED, f"The data set {id_} is gated.", step)
        if status in (401, 403, 404, 410):
            what = f"The hub {hub} shows no data set {id_}: it does not exist, or it is private."
            return Failed(REASON_ARTIFACT_NOT_FOUND, what, f"Correct the name, or {TOKEN_STEP}.")
        return self._unavailable(f"the hub answers with status {status}")

    def _unavailable(self, why: object) -> Failed:
        what = f"The data set {self.source.repository} cannot be had from {self.settings.hub_endpoint}"
        return unavailable(what, why, step="Check the network; HF_ENDPOINT names another hub, a mirror for instance.")


def commit_of(source: HubSource, transport: Transport, settings: Settings) -> str:
    """The commit that the source's revision is now; raises Failed. Asks nobody where it is a commit already."""
    if _COMMIT.fullmatch(source.revision):
        return source.revision
    return Hub(source, transport, settings).repository().commit


def download(source: HubSource, transport: Transport, settings: Settings, staging: Staging, watch: Watch) -> str:
    """Bring the wanted files into the staging's tree, under the paths that they have in the repository; the commit.

    Files that an earlier try brought whole are not asked for again. Raises Failed.
    """
    hub = Hub(source, transport, settings)
    there = hub.repository()
    card = hub.text(there.commit, CARD) if CARD in there.files else ""
    wanted = [there.files[path] for path in chosen(list(there.files), card, source)]
    parts = staging.parts / there.commit
    parts.mkdir(exist_ok=True)
    missing = [file for file in wanted if not (parts / file.path).is_file()]
    require_space(staging.place, sum(file.size or 0 for file in missing))
    _bring_all(hub, there.commit, missing, parts=parts, watch=watch)
    for file in wanted:
        target = staging.tree / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        (parts / file.path).rename(target)
    return there.commit


def _bring_all(hub: Hub, commit: str, files: Sequence[Listed], *, parts: Path, watch: Watch) -> None:
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="file") as pool:
        futures = [pool.submit(hub.bring, commit, file, parts, watch) for file in files]
        try:
            for future in futures:
                future.result()
        except BaseException:
            hub.transport.close()
            pool.shutdown(cancel_futures=True)
            raise


def _listed(siblings: Sequence[object]) -> dict[str, Listed]:
    found = {}
    for one in siblings:
        name = one.get("rfilename") if isinstance(one, dict) else None
        if not isinstance(one, dict) or not isinstance(name, str):
            continue
        try:
            is_clean = safe_path(name) == name
        except Unsafe:
            is_clean = False
        if is_clean:
            lfs = one.get("lfs")
            sha256 = str(lfs.get("sha256") or "") if isinstance(lfs, dict) else ""
            size = one.get("size")
            found[name] = Listed(name, size if isinstance(size, int) else None, f"sha256:{sha256}" if sha256 else None)
    return found
