# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""Where the command line finds and keeps things: read from the environment once, then handed down.

Knows paths only; which cluster to talk to is decided in `connect.py`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment of one `kaito` call."""

    data_dir: Path
    """What the local engine keeps: objects, logs, volumes, its kubeconfig."""
    cache_dir: Path
    """What can be made again: the demo model."""
    kubeconfig: Path | None
    """The first existing file of KUBECONFIG."""
    home_kubeconfig: Path
    """kubectl's own default."""
    docker_config: Path
    """Where `docker login` keeps its logins."""


def read(data_dir: Path | None = None) -> Settings:
    """Settings from XDG_DATA_HOME, XDG_CACHE_HOME, KAITO_DATA_DIR, KUBECONFIG and DOCKER_CONFIG; `data_dir` wins."""
    home = Path.home()
    data_home = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    chosen = data_dir or Path(os.environ.get("KAITO_DATA_DIR") or data_home / "kaito")
    files = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return Settings(
        data_dir=chosen.expanduser().absolute(),
        cache_dir=cache_home.expanduser().absolute() / "kaito",
        kubeconfig=next((file for file in files if file.exists()), files[0] if files else None),
        home_kubeconfig=home / ".kube" / "config",
        docker_config=Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json",
    )


@dataclass(frozen=True, slots=True)
class HubSettings:
    """Which hub to ask for models, and as whom."""

    endpoint: str
    token: str
    offline: bool


def hub() -> HubSettings:
    """From HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE, which Hugging Face's own tools read."""
    return HubSettings(
        endpoint=(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"),
        token=os.environ.get("HF_TOKEN", ""),
        offline=os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"),
    )
