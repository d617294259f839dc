# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The LoRA adapters of a Workspace: what was asked for, how it comes into the pod, and what changes without a roll.

Adapters on volumes are mounted. Those from images and URLs are fetched by an init container of our own image, or, when
the list changes later, by the model server itself, which follows its config. It has no pull secrets: an adapter that
needs one, as one on a volume, comes with a new pod.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from kaito.api import contracts
from kaito.api.contracts import Adapter, OciSource, ServeConfig, UrlSource
from kaito.api.references import parse
from kaito.api.workspace import AdapterSource, AdapterSpec, DataSource
from kaito.kube.manifest import Manifest
from kaito.operator import pods
from kaito.operator.pods import Mounted
from kaito.operator.workspace.fetching import Fetch, label

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
    """The adapters that are asked for, results of Workspaces found already (`results.py`); or what is wrong with the
    first that makes no sense."""
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
        has = f"both {given[0]} and {given[1]}" if given else "no image, volumeSource, urls or workspace"
        return f"{path}.source has {has}: give one of them."
    if source.image:
        try:
            parse(source.image)
        except ValueError as error:
            return f"{path}.source.image: {error} Name the image that holds the adapter."
    return ""


def _kinds(source: AdapterSource) -> tuple[tuple[str, object], ...]:
    found = ("image", source.image), ("volumeSource", source.volume_source), ("urls", source.urls)
    return *found, ("workspace", source.workspace)


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


def fetches(adapters: Sequence[LoraAdapter]) -> tuple[Fetch, ...]:
    """What is to be fetched for them."""
    return tuple(
        Fetch(f"adapter {one.name}", one.source, one.path, one.secrets) for one in adapters if one.source is not None
    )


def unrolled(config: ServeConfig, adapters: Sequence[LoraAdapter]) -> ServeConfig:
    """The config without what a running server takes over by itself: pods are rolled only when the rest changes.

    Whether there are adapters at all stays in it: an engine makes room for them when it starts.
    """
    kept = tuple(Adapter(name=one.name, path=one.path) for one in adapters if not one.comes_by_itself)
    others = Adapter(name="", path=contracts.FETCHED_ADAPTERS_MOUNT)
    return config.model_copy(update={"adapters": (*kept, others) if len(kept) < len(adapters) else kept})


def mounts(adapters: Sequence[LoraAdapter]) -> list[Mounted]:
    """The volumes of the model server that hold adapters."""
    found = [
        pods.mounted(label(VOLUME, one.name), one.path, dict(one.volume), read_only=True)
        for one in adapters
        if one.volume is not None
    ]
    return [*found, *fetched_mounts(adapters)]


def fetched_mounts(adapters: Sequence[LoraAdapter]) -> list[Mounted]:
    """The folder that adapters are fetched into; none where none are."""
    if not any(one.source is not None for one in adapters):
        return []
    return [pods.empty_dir(VOLUME, contracts.FETCHED_ADAPTERS_MOUNT)]
