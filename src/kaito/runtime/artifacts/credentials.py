# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Logins for a registry, from Docker's `config.json` files.

These count: `auths` with `auth`, `username` and `password`, `identitytoken` and `registrytoken`. Keys may name a host,
a host with a path, a URL, and hosts with `*` as in pull secrets. Credential helpers are programs: they are asked only
where the caller allows it (on somebody's own machine, never in a pod). Secrets stay out of every repr.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kaito.api.references import DOCKER_HUB, Reference

HUB_ALIASES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
HELPER_TIMEOUT_S = 20
_HELPER = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Login:
    """One way to log in."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    """An OAuth2 refresh token."""
    registry_token: str = field(default="", repr=False)
    """A bearer token to use as it is."""

    def basic(self) -> str | None:
        """The value of an Authorization header of the Basic scheme; None without a name."""
        if not self.username:
            return None
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode("ascii")


def config_files(paths: Sequence[Path]) -> list[Path]:
    """The files, and those in the folders; what is not there is left out."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            names = ("config.json", ".dockerconfigjson")
            found += sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith(".."))
            inner = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".."))
            found += [folder / name for folder in inner for name in names if (folder / name).is_file()]
        elif path.is_file():
            found.append(path)
    return found


def logins(paths: Sequence[Path], reference: Reference, *, helpers: bool = False) -> list[Login]:
    """Every login of the files that is for the reference's registry, the most specific first in each file.

    A file that cannot be read, or is no JSON, has none.
    """
    found: list[Login] = []
    for file in config_files(paths):
        try:
            config = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict):
            found += matching(config, reference)
            found += asked(config, reference) if helpers else []
    return list(dict.fromkeys(found))


def matching(config: Mapping[str, Any], reference: Reference) -> list[Login]:
    """The logins of one configuration for the reference, those with the longest key first. Pure."""
    auths = config.get("auths")
    keys = [key for key in auths if _is_for(key, reference)] if isinstance(auths, dict) else []
    entries = [auths[key] for key in sorted(keys, key=len, reverse=True)] if isinstance(auths, dict) else []
    found = [_login(entry) for entry in entries if isinstance(entry, dict)]
    return [login for login in found if login is not None]


def _is_for(key: str, reference: Reference) -> bool:
    host, _, path = re.sub(r"^https?://", "", key).strip("/").partition("/")
    path = "" if path in ("v1", "v2") else path
    hosts = HUB_ALIASES if reference.registry == DOCKER_HUB else {reference.registry}
    is_host = host in hosts or any(_matches(host, one) for one in hosts)
    return is_host and (not path or f"{reference.repository}/".startswith(f"{path}/"))


def _matches(pattern: str, host: str) -> bool:
    """Kubernetes' rule: `*` stands for part of one label, so both have as many labels."""
    labels, parts = pattern.split("."), host.split(".")
    return len(labels) == len(parts) and all(
        fnmatchcase(part, label) for label, part in zip(labels, parts, strict=True)
    )


def _login(entry: Mapping[str, Any]) -> Login | None:
    name, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if isinstance(entry.get("auth"), str) and entry["auth"]:
        try:
            text = base64.b64decode(entry["auth"]).decode("utf-8")
        except (binascii.Error, ValueError):
            text = ""
        given, colon, secret = text.partition(":")
        name, password = (given, secret.rstrip("\0")) if colon else (name, password)
    token, bearer = str(entry.get("identitytoken") or ""), str(entry.get("registrytoken") or "")
    return Login(name, password, token, bearer) if name or token or bearer else None


def asked(config: Mapping[str, Any], reference: Reference) -> list[Login]:
    """What the configuration's credential helper knows of the registry; empty when there is none or it fails."""
    helper = (config.get("credHelpers") or {}).get(reference.registry) or config.get("credsStore")
    if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
        return []
    server = "https://index.docker.io/v1/" if reference.registry == DOCKER_HUB else reference.registry
    try:
        answer = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=server, capture_output=True, text=True, timeout=HELPER_TIMEOUT_S, check=True,
        )  # fmt: skip
        entry = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    name, secret = str(entry.get("Username") or ""), str(entry.get("Secret") or "")
    return [Login(identity_token=secret)] if name == "<token>" else [Login(name, secret)] if name else []
