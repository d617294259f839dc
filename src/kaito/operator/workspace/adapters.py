# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The LoRA adapters of a Workspace: what was asked for, how it comes into the pod, and what changes without a roll.

Adapters on volumes are mounted. Those from images and URLs are fetched by an init container of our own image, or, when
the list changes later, by the model server itself, which follows its config. It has no pull secrets: an adapter that
needs one, as one on a volume, comes with a new pod.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kaito.api import contracts
from kaito.api.contracts import Adapter, FetchConfig, FetchItem, OciSource, ServeConfig, UrlSource
from kaito.api.references import parse
from kaito.api.workspace import AdapterSpec, DataSource
from kaito.kube.manifest import Manifest
from kaito.operator import pods
from kaito.operator.pods import Mounted

COMMAND = ["kaito-runtime", "fetch", "--config", f"{contracts.CONFIG_MOUNT}/{contracts.FETCH_CONFIG_KEY}"]
CONTAINER = "fetch-adapters"
VOLUME = "adapter-volume"
MAX_NAME = 253
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class LoraAdapter:
    """One adapter: on a volume, or fetched from a source."""

    name: str
    strength: float = 1.0
    volume: Manifest | None = None
    """The volume without its name, as in a pod's `volumes`; None: it is fetched."""
    source: OciSource | UrlSource | None = None
    secrets: tuple[str, ...] = field(default=())

    @property
    def path(self) -> str:
        """Where its files are in the pod."""
        mount = contracts.ADAPTERS_MOUNT if self.volume is not None else contracts.FETCHED_ADAPTERS_MOUNT
        return f"{mount}/{self.name}"

    @property
    def comes_by_itself(self) -> bool:
        """A running model server can get it without a new pod."""
        return self.volume is None and not self.secrets


def lora_adapters(specs: Sequence[AdapterSpec]) -> tuple[LoraAdapter, ...] | str:
    """The adapters that are asked for, or what is wrong with the first that makes no sense."""
    found: list[LoraAdapter] = []
    for index, spec in enumerate(specs):
        path = f"inference.adapters[{index}]"
        source = spec.source
        problem = _problem(path, spec, {adapter.name for adapter in found})
        if problem or source is None:
            return problem or f"{path}.source is missing."
        strength = _strength(spec.strength)
        if strength is None:
            return f"{path}.strength is {spec.strength}: give a decimal from 0 to 1 in quotes."
        found.append(LoraAdapter(source.name, strength, source.volume_source, _fetched(source), _secrets(source)))
    return tuple(found)


def _problem(path: str, spec: AdapterSpec, taken: set[str]) -> str:
    source = spec.source
    if source is None or not source.name:
        return f"{path}.source needs a name: requests ask for the adapter by it."
    if not _NAME.fullmatch(source.name) or len(source.name) > MAX_NAME:
        return f"{path}.source.name cannot name a folder: use a-z, 0-9, - and ., at most {MAX_NAME} characters."
    if source.name in taken:
        return f"{path}.source.name {source.name} occurs twice: give each adapter a name of its own."
    given = [kind for kind, value in _kinds(source) if value]
    if len(given) != 1:
        has = f"both {given[0]} and {given[1]}" if given else "no image, volumeSource or urls"
        return f"{path}.source has {has}: give one of them."
    if source.image:
        try:
            parse(source.image)
        except ValueError as error:
            return f"{path}.source.image: {error} Name the image that holds the adapter."
    return ""


def _kinds(source: DataSource) -> tuple[tuple[str, object], ...]:
    return ("image", source.image), ("volumeSource", source.volume_source), ("urls", source.urls)


def _strength(text: str | None) -> float | None:
    if not text:
        return 1.0
    try:
        strength = float(text)
    except ValueError:
        return None
    return strength if 0.0 <= strength <= 1.0 else None


def _fetched(source: DataSource) -> OciSource | UrlSource | None:
    if source.image:
        return OciSource(reference=source.image)
    return UrlSource(urls=source.urls) if source.urls else None


def _secrets(source: DataSource) -> tuple[str, ...]:
    return tuple(dict.fromkeys(source.image_pull_secrets)) if source.image else ()


def in_config(adapters: Sequence[LoraAdapter]) -> tuple[Adapter, ...]:
    """The adapters as the model server is told of them."""
    return tuple(Adapter(name=one.name, path=one.path, strength=one.strength) for one in adapters)


def fetch_config(adapters: Sequence[LoraAdapter]) -> FetchConfig | None:
    """What is to be fetched; None where there is nothing."""
    items = tuple(
        FetchItem(
            name=f"adapter {one.name}",
            source=one.source,
            destination=one.path,
            credentials=tuple(_secret_path(secret) for secret in one.secrets),
        )
        for one in adapters
        if one.source is not None
    )
    return FetchConfig(items=items) if items else None


def unrolled(config: ServeConfig, adapters: Sequence[LoraAdapter]) -> ServeConfig:
    """The config without what a running server takes over by itself: pods are rolled only when the rest changes.

    Whether there are adapters at all stays in it: an engine makes room for them when it starts.
    """
    kept = tuple(Adapter(name=one.name, path=one.path) for one in adapters if not one.comes_by_itself)
    others = Adapter(name="", path=contracts.FETCHED_ADAPTERS_MOUNT)
    return config.model_copy(update={"adapters": (*kept, others) if len(kept) < len(adapters) else kept})


def secrets_of(adapters: Sequence[LoraAdapter]) -> tuple[str, ...]:
    """The pull secrets of all adapters, each once."""
    return tuple(dict.fromkeys(secret for one in adapters for secret in one.secrets))


def mounts(adapters: Sequence[LoraAdapter]) -> list[Mounted]:
    """The volumes of the model server that hold adapters."""
    found = [
        pods.mounted(_volume_name(one.name), one.path, dict(one.volume), read_only=True)
        for one in adapters
        if one.volume is not None
    ]
    if any(one.source is not None for one in adapters):
        found.append(pods.empty_dir(VOLUME, contracts.FETCHED_ADAPTERS_MOUNT))
    return found


def secret_mounts(adapters: Sequence[LoraAdapter]) -> list[Mounted]:
    """The pull secrets as files, for the init container alone."""
    return [
        pods.mounted(_secret_volume(secret), _secret_path(secret), {"secret": {"secretName": secret}}, read_only=True)
        for secret in secrets_of(adapters)
    ]


def init_containers(adapters: Sequence[LoraAdapter], image: str, config: Mounted) -> list[Manifest]:
    """The container that fetches adapters before the model server starts; none where there are none to fetch."""
    if not any(one.source is not None for one in adapters):
        return []
    folder = pods.empty_dir(VOLUME, contracts.FETCHED_ADAPTERS_MOUNT)
    return [
        {
            "name": CONTAINER,
            "image": image,
            "command": list(COMMAND),
            "securityContext": {"allowPrivilegeEscalation": False},
            # Our runtime leaves a Failure there; what ends before it can is told by the log's last lines.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [dict(mounted.mount) for mounted in (config, folder, *secret_mounts(adapters))],
        }
    ]


def _secret_path(secret: str) -> str:
    return f"{contracts.PULL_SECRETS_MOUNT}/{secret}"


def _secret_volume(secret: str) -> str:
    return _label(f"pull-secret-{secret}")


def _volume_name(adapter: str) -> str:
    return _label(f"{VOLUME}-{adapter}")


def _label(name: str) -> str:
    """A volume's name is a DNS label; those of adapters and Secrets may have dots and be longer."""
    if len(name) <= 63 and "." not in name:
        return name
    kind = "pull-secret" if name.startswith("pull-secret-") else VOLUME
    return f"{kind}-{hashlib.sha256(name.removeprefix(f'{kind}-').encode()).hexdigest()[:16]}"
