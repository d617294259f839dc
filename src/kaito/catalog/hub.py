# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a hub says of a model: three small files, read into facts that are pinned to one commit.

Asks with a `Fetch` that is handed in; `web_fetch` makes one. Speaks the HTTP API of Hugging Face's hub
(https://huggingface.co/docs/hub/api), which mirrors speak too: what a repository holds at
`/api/models/ID/revision/REVISION`, its files at `/ID/resolve/COMMIT/FILE`. Remembers answers where it is given a
folder: facts are looked up there first, and with `offline` there alone.

Failures are `HubError` with one of these: `missing` (no such repository, or a private one), `gated` (its terms have
to be accepted, and a token given), `busy` (asked too often, with the seconds to wait), `unreachable`, `unusable`
(nothing in it that could be served).
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote, urljoin, urlsplit

import aiohttp

from kaito.catalog.configuration import UnreadableConfig, facts_of
from kaito.catalog.models import ModelFacts

ENDPOINT: Final = "https://huggingface.co"
MOST_REDIRECTS: Final = 5
MOST_BYTES: Final = 16 * 1024 * 1024
"""More than any such file has; an endless answer ends here."""
TIMEOUT_S: Final = 20.0
BUSY_S: Final = 60.0
"""How long to leave a hub alone that is busy and does not say for how long."""
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
NOT_JSON: Final = re.compile(r"(?<=[\s:\[,])(-?Infinity|NaN)(?=[\s,\]}])")

Why = Literal["missing", "gated", "busy", "unreachable", "unusable"]


class HubError(Exception):
    """The facts cannot be had. The text says why and, where there is one, the next step."""

    def __init__(self, why: Why, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.why: Why = why
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Fetch = Callable[[str, Mapping[str, str]], Awaitable[Answer]]
"""GET a URL with headers, without following redirects. Raises OSError when nobody answers."""


def web_fetch(session: aiohttp.ClientSession, timeout_s: float = TIMEOUT_S) -> Fetch:
    """A Fetch over HTTP; proxies are the session's business."""

    async def fetch(url: str, headers: Mapping[str, str]) -> Answer:
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with session.get(url, headers=headers, allow_redirects=False, timeout=timeout) as response:
                body = await response.content.read(MOST_BYTES + 1)
                while len(body) <= MOST_BYTES and (more := await response.content.read(MOST_BYTES + 1 - len(body))):
                    body += more
                return Answer(response.status, {k.lower(): v for k, v in response.headers.items()}, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(str(error) or type(error).__name__) from error

    return fetch


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub, and what is remembered of it."""

    fetch: Fetch
    endpoint: str = ENDPOINT
    token: str = ""
    cache: Path | None = None
    """A folder for what was found out."""
    offline: bool = False

    async def facts(self, id_: str, *, revision: str = "main") -> ModelFacts:
        """The facts of a model at a commit: what is remembered, else what the hub says. The commit that was found first
        stays. Raises HubError."""
        remembered = self.remembered(id_)
        if remembered is not None and revision in ("main", remembered.revision):
            return remembered
        if self.offline:
            raise HubError("unreachable", f"nothing is known of {id_}, and the hub may not be asked (offline)")
        return await self._read(id_, await self._get(id_, self._about(id_, revision)))

    async def refreshed(self, id_: str) -> ModelFacts:
        """The facts at the newest commit. Asks only whether there is a newer one than what is remembered; answers
        with what is remembered when the hub is away. Raises HubError when nothing is."""
        remembered = self.remembered(id_)
        if self.offline and remembered is not None:
            return remembered
        if remembered is None:
            return await self.facts(id_)
        etag = str((self._entry(id_) or {}).get("etag", ""))
        try:
            return await self._ask_if_newer(remembered, etag)
        except HubError as error:
            if error.why in ("busy", "unreachable"):
                return remembered
            raise

    def remembered(self, id_: str) -> ModelFacts | None:
        """What was found out earlier; None if nothing was, or nothing that this version can read."""
        entry = self._entry(id_)
        try:
            return None if entry is None else ModelFacts.model_validate(entry["facts"])
        except (KeyError, ValueError):
            return None

    async def _ask_if_newer(self, remembered: ModelFacts, etag: str) -> ModelFacts:
        headers = {"If-None-Match": etag} if etag else {}
        answer = await self._get(remembered.id, self._about(remembered.id, "main"), headers)
        if answer.status == 304:
            return remembered
        if _json(answer.body).get("sha") == remembered.revision:
            self._remember(remembered, answer.headers.get("etag", ""))
            return remembered
        return await self._read(remembered.id, answer)

    async def _read(self, id_: str, answer: Answer) -> ModelFacts:
        about = _json(answer.body)
        commit = about.get("sha")
        if not isinstance(commit, str) or not commit:
            raise HubError("unusable", f"the hub {self.endpoint} does not say which commit of {id_} it has")
        name = str(about.get("id") or id_)
        config, format_ = await self._configuration(name, commit)
        files = _top_level(about.get("siblings"))
        weights, layout = weight_files(files)
        if not weights:
            raise HubError("unusable", f"{name} holds no weights in safetensors or PyTorch's format")
        said = about.get("cardData")
        card = said if isinstance(said, dict) else {}
        try:
            found = facts_of(
                id_,
                config,
                weights_bytes=sum(files[name] for name in weights) or None,
                revision=commit,
                format_="mistral" if "mistral" in (format_, layout) else "hf",
                license_=_text(card.get("license")),
                pipeline=_text(about.get("pipeline_tag")),
                gated=bool(about.get("gated")),
            )
        except UnreadableConfig as error:
            raise HubError("unusable", f"{name} cannot be sized: {error}") from error
        self._remember(found, answer.headers.get("etag", ""))
        return found

    async def _configuration(self, id_: str, commit: str) -> tuple[Mapping[str, Any], Literal["hf", "mistral"]]:
        """`config.json`, or where there is none Mistral's `params.json`."""
        for name, format_ in (("config.json", "hf"), ("params.json", "mistral")):
            url = f"{self.endpoint}/{quote(id_)}/resolve/{quote(commit)}/{name}"
            answer = await self._get(id_, url, missing_is_fine=True)
            if answer.status == 200:
                return _json(answer.body), "mistral" if format_ == "mistral" else "hf"
        raise HubError("unusable", f"{id_} has neither config.json nor params.json")

    def _about(self, id_: str, revision: str) -> str:
        return f"{self.endpoint}/api/models/{quote(id_)}/revision/{quote(revision, safe='')}?blobs=true"

    async def _get(
        self, id_: str, url: str, headers: Mapping[str, str] | None = None, *, missing_is_fine: bool = False
    ) -> Answer:
        """An answer of status 200 or 304, or with `missing_is_fine` 404. The token goes to the hub alone: a
        redirect to another host is followed without it."""
        home = urlsplit(self.endpoint).netloc
        for _ in range(MOST_REDIRECTS + 1):
            own = {"Authorization": f"Bearer {self.token}"} if self.token and urlsplit(url).netloc == home else {}
            try:
                answer = await self.fetch(url, {**(headers or {}), **own, "Accept": "application/json"})
            except OSError as error:
                raise HubError("unreachable", f"the hub {self.endpoint} does not answer: {error}") from error
            if answer.status not in REDIRECTS or not answer.headers.get("location"):
                break
            url = self._redirected(url, answer.headers["location"])
        else:
            raise HubError("unreachable", f"the hub {self.endpoint} redirects in a circle for {id_}")
        return self._judged(id_, answer, missing_is_fine=missing_is_fine)

    def _redirected(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            fine = urlsplit(target).scheme in ("http", "https")
        except ValueError:
            fine = False
        if not fine:
            raise HubError("unusable", f"the hub {self.endpoint} sends to {location[:80]}, which is no web address")
        return target

    def _judged(self, id_: str, answer: Answer, *, missing_is_fine: bool) -> Answer:
        code = answer.headers.get("x-error-code", "")
        if answer.status in (200, 304):
            if len(answer.body) > MOST_BYTES:
                raise HubError(
                    "unusable", f"the hub {self.endpoint} answers with more than {MOST_BYTES} bytes for {id_}"
                )
            return answer
        if answer.status == 404 and missing_is_fine and code in ("", "EntryNotFound"):
            return answer
        if code == "GatedRepo" or (answer.status == 403 and code != "RepoNotFound"):
            step = (
                "accept its terms on the hub with the token's account"
                if self.token
                else "give a token that may read it"
            )
            raise HubError("gated", f"{id_} is gated: {step}")
        if answer.status in (401, 403, 404):
            raise HubError(
                "missing", f"the hub {self.endpoint} shows no model {id_}: it does not exist, or it is private"
            )
        if answer.status == 429 or answer.status == 503:
            wait_s = retry_after_s(answer.headers)
            raise HubError("busy", f"the hub {self.endpoint} is asked too often", retry_after_s=wait_s)
        raise HubError("unreachable", f"the hub {self.endpoint} answers with status {answer.status} for {id_}")

    def _path(self, id_: str) -> Path | None:
        if self.cache is None:
            return None
        return self.cache / (id_.lower().replace("/", "--") + ".json")

    def _entry(self, id_: str) -> dict[str, Any] | None:
        path = self._path(id_)
        try:
            read = json.loads(path.read_text(encoding="utf-8")) if path else None
        except (OSError, ValueError):
            return None
        return read if isinstance(read, dict) and read.get("endpoint") == self.endpoint else None

    def _remember(self, facts: ModelFacts, etag: str = "") -> None:
        """Keep what was found; a folder that cannot be written to only costs asking again."""
        path = self._path(facts.id)
        if path is None:
            return
        entry = {"endpoint": self.endpoint, "etag": etag, "facts": facts.model_dump(mode="json", exclude_defaults=True)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, prefix=".", delete=False, encoding="utf-8"
            ) as temporary:
                json.dump(entry, temporary)
            Path(temporary.name).replace(path)
        except OSError:
            return


def weight_files(files: Mapping[str, int]) -> tuple[Sequence[str], Literal["hf", "mistral"]]:
    """Which files of a repository hold the weights that an engine loads, and in whose layout: Mistral's consolidated
    ones, else safetensors, else PyTorch's. Copies in folders, in other formats and adapters do not count."""
    safetensors = [name for name in files if name.endswith(".safetensors") and not name.startswith("adapter_")]
    consolidated = [name for name in safetensors if name.startswith("consolidated")]
    if consolidated:
        return consolidated, "mistral"
    pickled = [name for name in files if name.startswith("pytorch_model") and name.endswith(".bin")]
    return safetensors or pickled, "hf"


def retry_after_s(headers: Mapping[str, str]) -> float:
    """For how long a hub wants to be left alone: `Retry-After` in seconds, or the `t` of the hub's own
    `RateLimit`."""
    said = headers.get("retry-after", "")
    match = re.search(r"t=(\d+)", headers.get("ratelimit", ""))
    try:
        wait = float(said) if said else float(match[1]) if match else BUSY_S
    except ValueError:
        return BUSY_S
    return min(max(wait, 1.0), 3600.0) if math.isfinite(wait) else BUSY_S


def _top_level(siblings: object) -> dict[str, int]:
    """The sizes of the files that do not lie in folders."""
    found = {}
    for one in siblings if isinstance(siblings, list) else []:
        name, size = (one.get("rfilename"), one.get("size")) if isinstance(one, dict) else (None, None)
        if isinstance(name, str) and "/" not in name:
            found[name] = size if isinstance(size, int) else 0
    return found


def _json(body: bytes) -> dict[str, Any]:
    """An object. `Infinity` and `NaN`, which Python's writers produce and JSON does not know, become null."""
    try:
        read = json.loads(NOT_JSON.sub("null", body.decode("utf-8")))
    except (UnicodeDecodeError, ValueError) as error:
        raise HubError("unusable", f"an answer of the hub is not JSON: {error}") from error
    if not isinstance(read, dict):
        raise HubError("unusable", "an answer of the hub is not a JSON object")
    return read


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
