# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""What a pod's surroundings tell the runtime: read from the environment once, frozen, handed down.

Everything about the model is in the config file (`kaito.api.contracts`); here is only what differs between a container
and a plain process on somebody's machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Settings:
    """Where to listen, where `/` is, and how to reach the model hub."""

    host: str = "0.0.0.0"
    """`KAITO_HOST`: the address to listen on. The embedded engine sets the pod's own loopback address."""
    root: Path | None = None
    """`KAITO_ROOT`: the folder that stands for `/` when pods run as plain processes."""
    termination_log: str = "/dev/termination-log"
    """`KAITO_TERMINATION_LOG`: where the last words go."""
    pod_index: str | None = None
    """`POD_INDEX`, in a Job `JOB_COMPLETION_INDEX`: this pod's number in its StatefulSet or Job; its rank where several
    pods work together."""
    pod_address: str = ""
    """`POD_IP`: where the other pods reach this one."""
    hostname: str = ""
    """`HOSTNAME`: the pod's name, whose end is the same number."""
    service_proxy: str = ""
    """`KAITO_SERVICE_PROXY`: the HTTP proxy that knows the names of Services and pods where no DNS does."""
    hub_token: str | None = field(default=None, repr=False)
    """`HF_TOKEN`: for gated models."""
    hub_endpoint: str = DEFAULT_HUB
    """`HF_ENDPOINT`: the model hub."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the engine's process inherits."""

    def path(self, path: str) -> Path:
        """The absolute path below `root` if it exists there, else the path as it is."""
        if self.root is not None and path.startswith("/"):
            below = self.root / path.lstrip("/")
            if below.exists() or below.is_symlink():
                return below
        return Path(path)


def from_environment() -> Settings:
    """The settings of this process."""
    root = os.environ.get("KAITO_ROOT")
    return Settings(
        host=os.environ.get("KAITO_HOST") or "0.0.0.0",
        root=Path(root) if root else None,
        termination_log=os.environ.get("KAITO_TERMINATION_LOG") or "/dev/termination-log",
        pod_index=os.environ.get("POD_INDEX") or os.environ.get("JOB_COMPLETION_INDEX") or None,
        pod_address=os.environ.get("POD_IP") or "",
        hostname=os.environ.get("HOSTNAME") or "",
        service_proxy=os.environ.get("KAITO_SERVICE_PROXY") or "",
        hub_token=os.environ.get("HF_TOKEN") or None,
        hub_endpoint=(os.environ.get("HF_ENDPOINT") or DEFAULT_HUB).rstrip("/"),
        environment=dict(os.environ),
    )
