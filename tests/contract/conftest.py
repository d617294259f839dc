# SPDX-FileCopyrightText: The kaito authors
# SPDX-License-Identifier: Apache-2.0
"""The server that the contract tests of the API's behaviour talk to: our engine, or any cluster that one names.

KAITO_TEST_KUBECONFIG names a kubeconfig; its login must be allowed to do everything. The tests work in a namespace of
their own and remove what they made outside of it.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine_process import EngineProcess

MADE_OUTSIDE = ("priorityclass/p", "clusterrole/cr", "crd/widgets.example.com")
"""Cluster-wide objects that the tests make."""


@dataclass(frozen=True, slots=True)
class ApiServer:
    """A server to test: a folder for scratch files, and a kubeconfig whose namespace is ours."""

    folder: Path
    kubeconfig: Path
    namespace: str


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The server of KAITO_TEST_KUBECONFIG, or an engine of our own without a node."""
    folder = tmp_path_factory.mktemp("server")
    given = os.environ.get("KAITO_TEST_KUBECONFIG")
    if not given:
        with EngineProcess(folder, "--no-node") as engine:
            yield ApiServer(folder, engine.kubeconfig, "default")
        return
    namespace = f"kaito-contract-{secrets.token_hex(4)}"
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(_kubectl(Path(given), "config", "view", "--raw", "--flatten"))
    _kubectl(kubeconfig, "create", "namespace", namespace)
    _kubectl(kubeconfig, "config", "set-context", "--current", "--namespace", namespace)
    _kubectl(kubeconfig, "wait", "--for=create", "serviceaccount/default", "--timeout=30s")
    try:
        yield ApiServer(folder, kubeconfig, namespace)
    finally:
        _kubectl(kubeconfig, "delete", "--ignore-not-found", "--wait=false", f"namespace/{namespace}", *MADE_OUTSIDE)


def _kubectl(kubeconfig: Path, *arguments: str) -> str:
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    done = subprocess.run(["kubectl", *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"kubectl {json.dumps(arguments)}: {done.stderr}"
    return done.stdout
