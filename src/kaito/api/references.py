# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Names of images and artifacts in registries, as users write them: `registry/repository:tag` or `…@sha256:…`.

The grammar is that of container engines (https://pkg.go.dev/github.com/distribution/reference): a first part with a
dot, a colon or capitals, or `localhost`, is a registry; without one it is Docker Hub. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"
LONGEST_REPOSITORY = 255
_LABEL = r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?"
_HOST = re.compile(rf"(\[[0-9a-fA-F:.]+\]|{_LABEL}(\.{_LABEL})*)(:\d{{1,5}})?")
_COMPONENT = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|\[::1\]")


@dataclass(frozen=True, slots=True)
class Reference:
    """One image or artifact: where it is, and which."""

    registry: str
    """Host, with a port where one was given."""
    repository: str
    tag: str | None = None
    digest: str | None = None
    """Wins over the tag."""

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.registry}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest, else the tag."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def is_loopback(self) -> bool:
        """The registry is on this machine, where plain http is allowed."""
        return _LOOPBACK.fullmatch(_without_port(self.registry)) is not None


def parse(text: str) -> Reference:
    """The reference that is written; raises ValueError with a sentence that says what is wrong with it."""
    rest, at, digest = text.strip().partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _wrong(text, f"{digest[:80] or 'nothing'} after @ is no digest: write sha256: and 64 hexadecimal digits")
    first, slash, remainder = rest.partition("/")
    has_registry = bool(slash) and (_looks_like_host(first) or first == "localhost")
    registry, path = (first, remainder) if has_registry else (DOCKER_HUB, rest)
    path, colon, tag = path.rpartition(":") if ":" in path else (path, "", "")
    if colon and not _TAG.fullmatch(tag):
        raise _wrong(text, f"the tag {tag[:80] or '(nothing)'} may hold letters, digits, _, . and - only, 128 at most")
    _check_repository(text, path)
    if not _HOST.fullmatch(registry):
        raise _wrong(text, f"the registry {registry} is no host name: use letters, digits, - and .")
    if registry == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return Reference(registry, path, tag or (None if digest else DEFAULT_TAG), digest or None)


def _looks_like_host(part: str) -> bool:
    return "." in part or ":" in part or part.lower() != part


def _check_repository(text: str, path: str) -> None:
    if not path:
        raise _wrong(text, "it names no repository: write registry/name:tag")
    for component in path.split("/"):
        if component.lower() != component:
            raise _wrong(text, f"the repository {path} has capitals: registries know lower case only")
        if not _COMPONENT.fullmatch(component):
            raise _wrong(text, f"{component or 'an empty part'} in {path} may hold a-z, 0-9 and ., _, - between")
    if len(path) > LONGEST_REPOSITORY:
        raise _wrong(text, f"the repository is longer than {LONGEST_REPOSITORY} characters")


def _wrong(text: str, why: str) -> ValueError:
    return ValueError(f"{text[:300] or '(nothing)'} is no image reference: {why}.")


def _without_port(registry: str) -> str:
    return re.sub(r":\d+$", "", registry)


def mirrored(reference: Reference, mirrors: Mapping[str, str]) -> Reference:
    """Where to ask instead: the mirror of the reference's registry, which may keep it below a folder; else itself."""
    mirror = mirrors.get(reference.registry)
    if mirror is None:
        return reference
    host, _, folder = mirror.partition("/")
    repository = f"{folder.strip('/')}/{reference.repository}" if folder.strip("/") else reference.repository
    return replace(reference, registry=host, repository=repository)


def mirrors_of(entries: Mapping[str, str] | tuple[str, ...]) -> dict[str, str]:
    """Mirrors from `FROM=TO` words, checked; raises ValueError naming the word that is wrong."""
    found: dict[str, str] = {}
    pairs = entries.items() if isinstance(entries, Mapping) else (tuple(word.partition("=")[::2]) for word in entries)
    for registry, mirror in pairs:
        host = mirror.partition("/")[0]
        if not _HOST.fullmatch(registry.strip()) or not _HOST.fullmatch(host.strip()):
            raise ValueError(
                f"{registry}={mirror} is no registry mirror: write FROM=TO, as in mcr.microsoft.com=localhost:5000."
            )
        found[registry.strip()] = mirror.strip().rstrip("/")
    return found
