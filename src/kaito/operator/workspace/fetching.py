# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What is fetched into a pod before its model server starts: the FetchConfig, and the init container that does it.

Pull secrets are mounted into that container alone. What is fetched, and where to, is for `adapters.py` and `weights.py`
to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from kaito.api import contracts
from kaito.api.contracts import BucketSource, FetchConfig, FetchItem, OciSource, UrlSource
from kaito.kube.manifest import Manifest
from kaito.operator import pods
from kaito.operator.pods import Mounted

CONFIG_PATH = f"{contracts.CONFIG_MOUNT}/{contracts.FETCH_CONFIG_KEY}"
COMMAND = ["kaito-runtime", "fetch", "--config", CONFIG_PATH]
CONTAINER = "fetch"


@dataclass(frozen=True, slots=True)
class Fetch:
    """One thing to fetch, and the Secrets to fetch it with."""

    name: str
    source: OciSource | UrlSource | BucketSource
    destination: str
    secrets: tuple[str, ...] = ()

    def item(self) -> FetchItem:
        """The same for the runtime."""
        credentials = tuple(_secret_path(secret) for secret in self.secrets)
        return FetchItem(name=self.name, source=self.source, destination=self.destination, credentials=credentials)


def fetch_config(fetches: Sequence[Fetch]) -> FetchConfig | None:
    """What the init container does; None where there is nothing to fetch."""
    return FetchConfig(items=tuple(one.item() for one in fetches)) if fetches else None


def secrets_of(fetches: Sequence[Fetch]) -> tuple[str, ...]:
    """The Secrets of all of them, each once."""
    return tuple(dict.fromkeys(secret for one in fetches for secret in one.secrets))


def pull_secrets_of(fetches: Sequence[Fetch]) -> tuple[str, ...]:
    """Those of registries, which a kubelet can use too."""
    return secrets_of([one for one in fetches if isinstance(one.source, OciSource)])


def secret_mounts(fetches: Sequence[Fetch]) -> list[Mounted]:
    """The Secrets as files, for the init container alone."""
    return [
        pods.mounted(_secret_volume(secret), _secret_path(secret), {"secret": {"secretName": secret}}, read_only=True)
        for secret in secrets_of(fetches)
    ]


def init_containers(fetches: Sequence[Fetch], image: str, mounts: Sequence[Mounted]) -> list[Manifest]:
    """The container that fetches before the model server starts; `mounts` are those that it reads and writes."""
    if not fetches:
        return []
    return [
        {
            "name": CONTAINER,
            "image": image,
            "command": list(COMMAND),
            "securityContext": pods.container_security(),
            # Our runtime leaves a Failure there; what ends before it can is told by the log's last lines.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "volumeMounts": [dict(mounted.mount) for mounted in (*mounts, *secret_mounts(fetches))],
        }
    ]


def label(kind: str, name: str) -> str:
    """A volume's name, which is a DNS label; names of adapters and Secrets may have dots and be longer."""
    whole = f"{kind}-{name}"
    if len(whole) <= 63 and "." not in whole:
        return whole
    return f"{kind}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _secret_path(secret: str) -> str:
    return f"{contracts.PULL_SECRETS_MOUNT}/{secret}"


def _secret_volume(secret: str) -> str:
    return label("pull-secret", secret)
