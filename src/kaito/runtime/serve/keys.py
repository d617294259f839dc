# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""API keys: a folder with one file a client, as a Secret is mounted; who asks, and how much they may.

A file's name is the client's name. It holds the key alone, or a YAML map with `key`, and if wished `requestsPerMinute`
and `tokensPerMinute`. The folder is read again when it changes: a key that is gone is refused at once. A file that
cannot be understood lets nobody in. No key is ever kept or shown: only digests are.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kaito.runtime.serve.limits import Bucket

SHORTEST = 16
"""Characters that a key needs; shorter ones can be guessed."""
FIELDS = {"key", "requestsPerMinute", "tokensPerMinute"}


class BadKey(ValueError):
    """A file of the folder holds no usable key; the text says why and never holds the content."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One client's key and limits."""

    name: str
    digest: bytes
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


def digest_of(key: bytes) -> bytes:
    """What is kept of a key; keys are long and random, so that one hash suffices."""
    return hashlib.sha256(key).digest()


def parsed(name: str, text: str) -> ApiKey:
    """The key in one file; raises BadKey."""
    bare = text.strip()
    if "\n" not in bare and not bare.startswith("{") and not bare.startswith("key:"):
        return ApiKey(name, digest_of(checked(name, bare)))
    try:
        value = yaml.safe_load(bare)
    except yaml.YAMLError:
        raise BadKey(f"{name} is neither a key nor a YAML map.") from None
    if not isinstance(value, dict) or not isinstance(value.get("key"), str):
        raise BadKey(f"{name} needs a text under `key`.")
    unknown = sorted(str(field) for field in value if field not in FIELDS)
    if unknown:
        raise BadKey(f"{name} has the unknown field {unknown[0]}; there are {', '.join(sorted(FIELDS))}.")
    return ApiKey(
        name,
        digest_of(checked(name, value["key"].strip())),
        rate(name, value, "requestsPerMinute"),
        rate(name, value, "tokensPerMinute"),
    )


def checked(name: str, key: str) -> bytes:
    """The key as bytes; raises BadKey when a header could not carry it or it is too short."""
    if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
        raise BadKey(f"{name}: a key is at least {SHORTEST} ASCII characters without spaces.")
    return key.encode()


def rate(name: str, value: Mapping[str, Any], field: str) -> int | None:
    """A limit; raises BadKey."""
    limit = value.get(field)
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise BadKey(f"{name}: {field} is a whole number of at least 1.")
    return limit


def read(folder: Path) -> tuple[dict[bytes, ApiKey], list[str]]:
    """The keys by digest, and what is wrong with files that hold none. Files that begin with a dot are Kubernetes'."""
    keys: dict[bytes, ApiKey] = {}
    problems: list[str] = []
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        return {}, [f"the folder of the API keys cannot be read: {error.strerror}"]
    for file in files:
        try:
            key = parsed(file.name, file.read_text("utf-8"))
        except BadKey as error:
            problems.append(str(error))
        except (OSError, UnicodeDecodeError):
            problems.append(f"{file.name} cannot be read as text.")
        else:
            keys[key.digest] = key
    return keys, problems


def version_of(folder: Path) -> tuple[Any, ...]:
    """Changes whenever the folder's content may have: Kubernetes turns the link `..data` to a new folder."""
    try:
        data = folder / "..data"
        if data.is_symlink():
            return (str(data.readlink()),)
        found = [(file.name, file.stat()) for file in folder.iterdir()]
        return tuple(sorted((name, stat.st_mtime_ns, stat.st_ino, stat.st_size) for name, stat in found))
    except OSError as error:
        return (error.errno,)


@dataclass(frozen=True, slots=True)
class OverLimit:
    """A client has used up a limit."""

    what: str
    """`requests` or `tokens`."""
    limit: int
    wait_s: float


class Keys:
    """The clients of one server and what they have used."""

    def __init__(self, folder: Path, now: float) -> None:
        self._folder = folder
        self._version: tuple[Any, ...] = ()
        self._keys: dict[bytes, ApiKey] = {}
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self.requests: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.rejected: Counter[tuple[str, str]] = Counter()
        self.refused = 0
        """Requests without a valid key."""
        self.problems: list[str] = []
        self.reload(now)

    def reload(self, now: float) -> bool:
        """Read the folder again if it changed; whether it did."""
        version = version_of(self._folder)
        if version == self._version:
            return False
        self._version = version
        self._keys, self.problems = read(self._folder)
        wanted = {}
        for key in self._keys.values():
            for what, limit in (("requests", key.requests_per_minute), ("tokens", key.tokens_per_minute)):
                if limit is not None:
                    old = self._buckets.get((key.name, what))
                    same = old is not None and old.per_minute == limit
                    wanted[key.name, what] = old if old is not None and same else Bucket(limit, now)
        self._buckets = wanted
        return True

    def __len__(self) -> int:
        return len(self._keys)

    def client(self, authorization: bytes, api_key: bytes = b"") -> ApiKey | None:
        """Who asks with these headers (`Authorization: Bearer …`, or `X-Api-Key`); None for nobody we know.

        The second is how Anthropic's clients send it, and what remains of a request that came through a Kubernetes API
        server, which takes `Authorization` for itself.
        """
        scheme, _, key = authorization.strip().partition(b" ")
        bearer = key.strip() if scheme.lower() == b"bearer" else b""
        given = [one for one in (bearer, api_key.strip()) if one]
        found = next((self._keys[digest] for digest in map(digest_of, given) if digest in self._keys), None)
        if found is None:
            self.refused += 1
        return found

    def admit(self, key: ApiKey, now: float) -> OverLimit | None:
        """Count one request of this client; an OverLimit when it may not be made now."""
        requests = self._buckets.get((key.name, "requests"))
        tokens = self._buckets.get((key.name, "tokens"))
        for what, bucket in (("requests", requests), ("tokens", tokens)):
            wait_s = bucket.wait_s(1, now) if bucket is not None else 0.0
            if bucket is not None and wait_s > 0:
                self.rejected[key.name, what] += 1
                return OverLimit(what, bucket.per_minute, wait_s)
        if requests is not None:
            requests.take(1)
        self.requests[key.name] += 1
        return None

    def reserve(self, key: ApiKey, tokens: int, now: float) -> OverLimit | None:
        """Set these tokens aside for a request under way; an OverLimit when they are not there."""
        bucket = self._buckets.get((key.name, "tokens"))
        if bucket is None:
            return None
        wait_s = bucket.wait_s(tokens, now)
        if wait_s > 0:
            self.rejected[key.name, "tokens"] += 1
            return OverLimit("tokens", bucket.per_minute, wait_s)
        bucket.take(min(tokens, bucket.per_minute))
        return None

    def settle(self, key: ApiKey, reserved: int, used: int) -> None:
        """A request is done: what it really used takes the place of what was set aside."""
        bucket = self._buckets.get((key.name, "tokens"))
        if bucket is not None:
            bucket.take(used - min(reserved, bucket.per_minute))
        self.tokens[key.name] += used

    def metrics(self) -> list[str]:
        """The `kaito_api_key_*` series in Prometheus' text format."""
        lines = [
            "# HELP kaito_api_key_refused_total Requests without a valid API key.",
            "# TYPE kaito_api_key_refused_total counter",
            f"kaito_api_key_refused_total {self.refused}",
            "# HELP kaito_api_key_requests_total Requests by the client's name in the Secret.",
            "# TYPE kaito_api_key_requests_total counter",
            *(f'kaito_api_key_requests_total{{client="{name}"}} {n}' for name, n in sorted(self.requests.items())),
            "# HELP kaito_api_key_tokens_total Tokens of clients that have a token limit.",
            "# TYPE kaito_api_key_tokens_total counter",
            *(f'kaito_api_key_tokens_total{{client="{name}"}} {n}' for name, n in sorted(self.tokens.items())),
            "# HELP kaito_api_key_limited_total Requests refused because a limit of the client was used up.",
            "# TYPE kaito_api_key_limited_total counter",
        ]
        for (name, what), count in sorted(self.rejected.items()):
            lines.append(f'kaito_api_key_limited_total{{client="{name}",limit="{what}"}} {count}')
        return lines
