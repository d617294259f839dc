# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The administrator's kubeconfig: the file by which kubectl, the operator and people reach the engine."""

from __future__ import annotations

from pathlib import Path

import yaml

from kaito.engine.http.certificates import Credentials, write_private
from kaito.kube.manifest import Manifest

NAME = "kaito"


def kubeconfig(server: str, credentials: Credentials) -> Manifest:
    """The document."""
    cluster = {"server": server, "certificate-authority-data": credentials.ca_data}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": NAME,
        "clusters": [{"name": NAME, "cluster": cluster}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": "default"}}],
        "users": [{"name": NAME, "user": {"token": credentials.token}}],
    }


def write_kubeconfig(path: Path, server: str, credentials: Credentials) -> None:
    """Write it so that only its owner can read it, the old or the new one at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, yaml.safe_dump(kubeconfig(server, credentials), sort_keys=False).encode())
